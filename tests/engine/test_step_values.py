"""What steps are given and what they may return: types, sizes, and nothing silently changed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from aura import RunFailed, step
from aura.codec import plain
from tests.engine.kit import Ledger, World, declare


@dataclass
class Point:
    """Known to pydantic by its annotation."""

    at: datetime
    data: bytes


@pytest.mark.parametrize(
    "value",
    [(1, 2), datetime.now(UTC), b"bytes", {1: 2}, {1, 2}, object(), Point(datetime.now(UTC), b"")],
    ids=lambda value: type(value).__name__,
)
async def test_what_no_codec_knows_fails_the_step(memory: World, value: object) -> None:
    @step(retries=3)
    async def give():  # type: ignore[no-untyped-def]  # the annotation is missing on purpose
        return value

    async def flow() -> None:
        await give()

    app = await memory.open()
    run = await app.start(declare(flow), id="r")
    with pytest.raises(RunFailed, match="the result of step give") as caught:
        await run.result(timeout=60)
    assert caught.value.type == "StepFailed"
    (entry,) = await app.store.journal("r")
    failure = plain(entry.error)
    assert (failure["type"], failure["attempts"]) == ("CodecError", 1)
    assert type(value).__name__ in failure["message"]
    assert "Annotate" in failure["message"]


async def test_a_value_of_another_type_than_annotated_fails_the_step(memory: World) -> None:
    @step
    async def give() -> int:
        return "many"  # type: ignore[return-value]  # wrong on purpose

    async def flow() -> None:
        await give()

    app = await memory.open()
    with pytest.raises(RunFailed, match=r"CodecError.*result of step give.*integer"):
        await (await app.start(declare(flow))).result(timeout=60)


async def test_an_argument_that_cannot_be_stored_is_named(memory: World) -> None:
    @step
    async def take(first: int, connection: Any) -> None: ...

    async def flow() -> None:
        await take(1, connection=object())

    app = await memory.open()
    with pytest.raises(RunFailed, match="argument 'connection' of step take cannot be stored"):
        await (await app.start(declare(flow))).result(timeout=60)


async def test_live_and_replayed_values_have_one_type(world: World) -> None:
    seen: list[Any] = []
    stuck = asyncio.Event()
    point = Point(datetime.now(UTC), b"\x00\xff")

    @step
    async def typed() -> Point:
        return point

    @step
    async def number() -> float:
        return 1

    @step
    async def hold() -> None:
        if not stuck.is_set():
            stuck.set()
            await asyncio.Event().wait()

    async def flow() -> None:
        seen.append([await typed(), await number()])
        await hold()

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await world.crash(app)
    app = await world.open(workflow)
    await app.run("r").result(timeout=60)
    assert seen[0] == seen[1] == [point, 1.0]
    assert [type(x) for x in seen[0]] == [type(x) for x in seen[1]] == [Point, float]


async def test_a_set_among_the_arguments_replays_in_another_process(world: World) -> None:
    """The order of a set of strings differs from process to process."""
    script = """
import asyncio, sys
from aura import Aura, Config, step, Workflow
import os

@step
async def tag(words: set[str], deep: dict[str, frozenset[str]]) -> int:
    return len(words)

@step
async def die() -> None:
    if sys.argv[2] == "first":
        os._exit(7)

async def flow(words: set[str]) -> int:
    found = await tag(words, {"a": frozenset(words)})
    await die()
    return found

async def main() -> None:
    config = Config(database=sys.argv[1], lease=0.2, poll=0.05)
    app = Aura("sets", config=config)
    workflow = Workflow("flow", "1.0.0", flow)
    app.registry.add(workflow)
    async with app:
        words = {f"word {n}" for n in range(50)}
        run = await app.start(workflow, words, id="r")
        print(await run.result(timeout=60))

asyncio.run(main())
"""

    async def go(which: str, seed: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, world.database, which,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, out.decode() + err.decode()[-2000:]

    code, said = await go("first", "1")
    assert code == 7, said
    code, said = await go("second", "2")
    assert (code, said) == (0, "50\n")


async def test_a_result_over_the_limit_fails_the_step(memory: World, ledger: Ledger) -> None:
    @step(retries=3)
    async def big() -> str:
        ledger("big")
        return "x" * 20_000

    async def flow() -> None:
        await big()

    app = await memory.open(max_payload=10_000)
    with pytest.raises(RunFailed, match=r"PayloadTooLarge: the result of step big is 20,002"):
        await (await app.start(declare(flow))).result(timeout=60)
    assert ledger.count("big") == 1


async def test_large_payloads_round_trip(world: World, ledger: Ledger) -> None:
    text = "".join(chr(0x21 + n * 7 % 5000) for n in range(200_000))

    @step
    async def echo(text: str) -> dict[str, str]:
        ledger("echo")
        return {"text": text}

    async def flow(text: str) -> str:
        return (await echo(text))["text"]

    workflow = declare(flow)
    app = await world.open(workflow)
    assert await (await app.start(workflow, text, id="r")).result(timeout=60) == text
    (entry,) = await world.journal("r")
    assert entry.output is not None
    assert len(entry.output) < len(text.encode()) / 5
    assert entry.input is None
    other = await world.open(worker=False)
    assert await other.run("r").result(timeout=60) == text
