"""Attributes: given at the start of a run, and searched for."""

from __future__ import annotations

from typing import Any

import pytest

import aura
from aura.app import Aura
from aura.engine.attributes import read_attribute
from aura.errors import InvalidInput
from aura.store.base import RunFilter
from tests.engine.kit import World, declare


async def bill(customer: str) -> str:
    return customer


async def bills(customers: list[str]) -> int:
    app = APP[0]
    for each in customers:
        child = await app.start("bill", each, attributes={"customer": each})
        await child.result()
    return len(customers)


async def picky(attributes: str) -> str:
    return attributes


APP: list[Aura] = []


async def found(app: Aura, *pairs: tuple[str, str]) -> list[str]:
    return [run.id for run in await app.runs(RunFilter(attributes=pairs))]


async def test_a_run_is_found_by_what_was_said_at_its_start(world: World) -> None:
    app = await world.open(declare(bill))
    for at, who in enumerate("xyx"):
        words = {"customer": who, "tier": "gold"}
        run = await app.start("bill", who, id=f"r{at}", attributes=words)
        assert await run.result(timeout=60) == who
    await (await app.start("bill", "x", id="plain")).result(timeout=60)
    assert await found(app, ("customer", "x")) == ["r2", "r0"]
    assert await found(app, ("customer", "x"), ("tier", "gold")) == ["r2", "r0"]
    assert await found(app, ("customer", "x"), ("tier", "tin")) == []
    again = await app.start("bill", "x", id="r0", attributes={"customer": "other"})
    assert await again.result(timeout=60) == "x"
    assert (await app.store.attributes(["r0"]))["r0"]["customer"] == "x"


async def test_children_and_forks_are_found_too(world: World) -> None:
    app = await world.open(declare(bill), declare(bills))
    APP[:] = [app]
    run = await app.start("bills", ["a", "b"], id="all", attributes={"month": "may"})
    assert await run.result(timeout=60) == 2
    [child] = await found(app, ("customer", "b"))
    assert (await app.run(child).record()).parent == "all"
    fork = await run.fork(id="again")
    assert await fork.result(timeout=60) == 2
    assert await found(app, ("month", "may")) == ["again", "all"]


async def test_an_argument_of_that_name_goes_by_position(world: World) -> None:
    app = await world.open(declare(picky))
    run = await app.start("picky", "mine", attributes={"customer": "x"})
    assert await run.result(timeout=60) == "mine"


@pytest.mark.parametrize(
    "wrong",
    [
        "customer:x", ["customer"], {"customer": 1}, {"customer": ""}, {"customer": "a\n"},
        {"": "x"}, {"a b": "x"}, {"1": "x"}, {1: "x"}, {"a" * 65: "x"}, {"a": "x" * 201},
        {f"a{at}": "x" for at in range(17)}, {"a": "\ud800"},
    ],
)  # fmt: skip
async def test_what_are_no_attributes(wrong: Any) -> None:
    app = aura.Aura("test", config=aura.Config(database=":memory:"))
    app.registry.add(declare(bill))
    async with app.client():
        with pytest.raises(InvalidInput, match=r"attribute"):
            await app.start("bill", "x", attributes=wrong)
        assert await app.runs() == []


def test_attributes_as_people_write_them() -> None:
    assert read_attribute("customer:x:y") == ("customer", "x:y")
    assert read_attribute("customer:") == ("customer", "")  # which no run has
    for text in ("customer", ":x", "a b:c", "1:a"):
        with pytest.raises(InvalidInput):
            read_attribute(text)
