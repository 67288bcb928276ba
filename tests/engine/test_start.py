"""Starting runs: ids, inputs, versions, and everything that may be wrong with them."""

from __future__ import annotations

import asyncio
import enum
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

import aura
from aura import Aura, Workflow, step
from aura.errors import (
    CodecError,
    ConfigError,
    DuplicateVersion,
    InvalidInput,
    PayloadTooLarge,
    RegistrationError,
    ResultTimeout,
    RunConflict,
    UnknownWorkflow,
)
from aura.store.base import RunFilter
from tests.engine.kit import Ledger, World, declare


async def echo(text: str, times: int = 1) -> str:
    return text * times


ECHO = declare(echo)


async def test_the_same_id_and_input_is_the_same_run(world: World, ledger: Ledger) -> None:
    @step
    async def note(text: str) -> str:
        ledger(text)
        return text

    async def flow(text: str) -> str:
        return await note(text)

    workflow = declare(flow)
    one, two = await world.open(workflow), await world.open(workflow)
    first = await one.start(workflow, "x", id="doc-17")
    again = await one.start(workflow, text="x", id="doc-17")
    elsewhere = await two.start("flow", "x", id="doc-17")
    results = [await run.result(timeout=60) for run in (first, again, elsewhere)]
    assert results == ["x", "x", "x"]
    late = await two.start(workflow, "x", id="doc-17")
    assert await late.result(timeout=60) == "x"
    assert ledger.ran == ["x"]
    assert len(await one.runs()) == 1


async def test_the_same_id_at_once_from_many_and_from_two_apps(
    world: World, ledger: Ledger
) -> None:
    async def flow(text: str) -> str:
        ledger("flow")
        await aura.sleep(0.01)
        return text

    workflow = declare(flow)
    apps = [await world.open(workflow), await world.open(workflow)]
    runs = await asyncio.gather(
        *(apps[n % 2].start(workflow, "x", id=f"r{n % 5}") for n in range(60))
    )
    assert await asyncio.gather(*(run.result(timeout=60) for run in runs)) == ["x"] * 60
    assert ledger.count("flow") == 5
    assert len(await apps[0].runs()) == 5
    assert {(await apps[0].run(f"r{n}").record()).epoch for n in range(5)} == {1}


async def test_the_same_id_with_another_input_is_a_conflict(world: World) -> None:
    async def other(text: str) -> str:
        return text

    app = await world.open(ECHO)
    run = await app.start(ECHO, "x", id="r")
    for start in (
        app.start(ECHO, "y", id="r"),
        app.start(ECHO, "x", times=2, id="r"),
        app.start(declare(other), "x", id="r"),
    ):
        with pytest.raises(RunConflict, match=r"run r exists.*echo 1\.0\.0.*Choose another id"):
            await start
    assert await run.result(timeout=60) == "x"


async def test_the_order_of_keys_does_not_make_another_input(memory: World) -> None:
    async def flow(options: dict[str, int], words: set[str]) -> int:
        return len(options) + len(words)

    workflow = declare(flow)
    app = await memory.open(workflow)
    await app.start(workflow, {"a": 1, "b": 2}, {"x", "y"}, id="r")
    again = await app.start(workflow, {"b": 2, "a": 1}, {"y", "x"}, id="r")
    assert await again.result(timeout=60) == 4
    with pytest.raises(RunConflict):
        await app.start(workflow, {"a": 1, "b": 3}, {"x", "y"}, id="r")


async def test_another_version_of_a_run_that_exists_is_that_run(memory: World) -> None:
    app = await memory.open(ECHO)
    newer = declare(echo, version="2.0.0")
    first = await app.start(ECHO, "x", id="r")
    assert await (await app.start(newer, "x", id="r")).result(timeout=60) == "x"
    assert (await first.record()).version == "1.0.0"


async def test_new_ids_are_unique_and_ordered_in_time(memory: World) -> None:
    app = await memory.open()
    ids = []
    for _ in range(3):
        ids.append((await app.start(ECHO, "x")).id)
        await asyncio.sleep(0.002)
    assert sorted(set(ids)) == ids
    assert {UUID(one).version for one in ids} == {7}


@pytest.mark.parametrize("bad", ["", "a\nb", "a\x00", "\udcff", "x" * 501, 5])
async def test_ids_that_cannot_be(memory: World, bad: Any) -> None:
    app = await memory.open()
    with pytest.raises(InvalidInput, match="a run cannot have the id"):
        await app.start(ECHO, "x", id=bad)


async def test_odd_but_good_ids(world: World) -> None:
    app = await world.open(ECHO, poll=3600.0)  # it is told of runs, or never knows
    client = await world.open(ECHO, worker=False)
    for good in ("ünïcode ☃", "a/b#c:d%0A", "x" * 500, "'; DROP TABLE runs; --"):
        run = await client.start(ECHO, good, id=good)
        assert await run.result(timeout=60) == good
        assert (await app.run(good).record()).id == good


class Color(enum.Enum):
    RED = "red"


class Model(BaseModel):
    name: str
    data: bytes = b""


@dataclass
class Plain:
    at: datetime
    color: Color


async def test_typed_arguments_arrive_as_declared(world: World) -> None:
    async def flow(model: Model, plain: Plain, key: UUID, *, flag: bool = False) -> dict[str, str]:
        return {
            "types": ",".join(type(x).__name__ for x in (model, plain, plain.color, key, flag)),
            "data": repr(model.data),
        }

    workflow = declare(flow)
    await world.open(workflow)
    client = await world.open(workflow, worker=False)
    plain = Plain(datetime.now(UTC), Color.RED)
    run = await client.start(workflow, Model(name="n", data=b"\xff\x00"), plain, UUID(int=7))
    assert await run.result(timeout=60) == {
        "types": "Model,Plain,Color,UUID,bool",
        "data": repr(b"\xff\x00"),
    }


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, r"workflow echo: missing.*'text'.*arguments: text, times"),
        (("a", 1, 2), {}, r"workflow echo: too many"),
        (("a",), {"tims": 2}, r"workflow echo: got an unexpected.*'tims'.*text, times"),
        (("a",), {"text": "b"}, r"workflow echo: multiple values.*'text'"),
        ((5,), {}, r"argument 'text' of workflow echo does not fit:.*string"),
        (("a", "many"), {}, r"argument 'times' of workflow echo does not fit:.*integer"),
        (("a", None), {}, r"argument 'times' of workflow echo"),
    ],
)
async def test_arguments_that_do_not_fit_are_named(
    memory: World, args: tuple[Any, ...], kwargs: dict[str, Any], says: str
) -> None:
    app = await memory.open()
    with pytest.raises(InvalidInput) as caught:
        await app.start(ECHO, *args, **kwargs)
    assert re.search(says, str(caught.value)), str(caught.value)
    assert await app.runs() == []


async def test_a_deep_argument_is_named_with_its_path(memory: World) -> None:
    async def flow(models: list[Model], count: Annotated[int, Field(gt=0)]) -> None: ...

    app = await memory.open()
    with pytest.raises(InvalidInput, match=r"'models' of workflow flow does not fit: 1\.name"):
        await app.start(declare(flow), [{"name": "a"}, {"name": 5}], 1)
    with pytest.raises(InvalidInput, match="'count' of workflow flow.*greater than 0"):  # noqa: RUF043
        await app.start(declare(flow), [], 0)


@pytest.mark.parametrize("value", [object(), (1, 2), datetime.now(UTC), b"x", {1: 2}, {1}])
async def test_untyped_arguments_that_would_come_back_as_something_else(
    memory: World, value: Any
) -> None:
    async def flow(thing):  # type: ignore[no-untyped-def]  # the annotation is missing on purpose
        return None

    app = await memory.open()
    with pytest.raises(CodecError, match=r"argument 'thing' of workflow flow.*Annotate"):
        await app.start(declare(flow), value)


async def test_a_payload_over_the_limit_names_the_argument(memory: World) -> None:
    async def flow(small: str, large: str) -> None: ...

    app = await memory.open(max_payload=20_000)
    with pytest.raises(PayloadTooLarge) as caught:
        await app.start(declare(flow), "x", "y" * 30_000)
    assert "argument 'large' of workflow flow is 30,002 bytes long" in str(caught.value)
    assert "max_payload" in str(caught.value)


async def test_unknown_workflows_and_versions(memory: World) -> None:
    app = await memory.open(ECHO)
    for start, says in (
        (app.start("nothing", "x"), "workflow nothing is not registered here.*echo 1.0.0"),
        (app.start("echo", "x", version="9.0.0"), "workflow echo 9.0.0 is not registered"),
        (app.start(echo, "x"), "is not a workflow"),  # type: ignore[call-overload]
        (app.start(None, "x"), "is not a workflow"),  # type: ignore[call-overload]
    ):
        with pytest.raises(UnknownWorkflow, match=says):
            await start


async def test_who_mistypes_a_name_is_told_what_was_meant(memory: World) -> None:
    """First what is similar, then the others, not all of many, and nothing of Aura's own."""
    app = memory.app()
    for name in ("hello", "zebra", *(f"job-{at:02d}" for at in range(20))):
        app.workflow(version="1.10.0", name=name)(echo)
    for at in range(12):
        app.workflow(version=f"1.{at}.0", name="often")(echo)
    await app.open()
    memory.apps.append(app)
    for start, says in (
        (
            app.start("helo", "x"),
            "Did you mean hello? Registered: hello 1.10.0, "
            "job-00 1.10.0, job-01 1.10.0, job-02 1.10.0, job-03 1.10.0, job-04 1.10.0, "
            "job-05 1.10.0, job-06 1.10.0 and 26 others",
        ),
        (
            app.start("often", "x", version="2.0.0"),
            "Registered: often 1.11.0, often 1.10.0, often 1.9.0, often 1.8.0, often 1.7.0, "
            "often 1.6.0, often 1.5.0, often 1.4.0 and 4 others",
        ),
        (app.start("often", "x", version="^3"), "Registered: often 1.11.0, often 1.10.0"),
        (app.start("helo", "x", version="^1"), "Did you mean hello? Registered: hello 1.10.0"),
        (app.start("qqq", "x"), "here. Registered: hello 1.10.0, job-00"),
    ):
        with pytest.raises(UnknownWorkflow) as caught:
            await start
        assert says in str(caught.value)


async def test_a_name_starts_the_highest_version_and_a_version_is_pinned(memory: World) -> None:
    async def old() -> str:
        return "old"

    async def new() -> str:
        return "new"

    async def beta() -> str:
        return "beta"

    app = await memory.open(
        declare(new, "10.0.0", "flow"), declare(old, "9.0.0", "flow"),
        declare(beta, "10.0.0-beta.1", "flow"),
    )  # fmt: skip
    assert await (await app.start("flow")).result(timeout=60) == "new"
    run = await app.start("flow", version="9.0.0")
    assert await run.result(timeout=60) == "old"
    assert (await run.record()).version == "9.0.0"


async def test_a_resolver_chooses_the_version_by_the_key() -> None:
    class ByKey:
        def resolve(self, workflow: str, key: str) -> str:
            assert workflow == "flow"
            return "2.0.0" if key.startswith("new") else "1.0.0"

    async def one() -> int:
        return 1

    async def two() -> int:
        return 2

    app = Aura("test", config=aura.Config(database=":memory:"), resolver=ByKey())
    app.registry.add(declare(one, "1.0.0", "flow"))
    app.registry.add(declare(two, "2.0.0", "flow"))
    async with app:
        assert await (await app.start("flow", id="new-5")).result(timeout=60) == 2
        assert await (await app.start("flow", id="old-5")).result(timeout=60) == 1


def test_a_version_is_declared_once() -> None:
    app = Aura("test", config=aura.Config(database=":memory:"))

    @app.workflow(version="1.0.0", name="flow")
    async def first() -> None: ...

    app.registry.add(first)  # the same again
    with pytest.raises(DuplicateVersion, match=r"workflow flow 1\.0\.0 is declared twice.*new ver"):

        @app.workflow(version="1.0.0", name="flow")
        async def second() -> None: ...


def test_a_declaration_without_brackets_says_how_to_write_it() -> None:
    app = Aura("test", config=aura.Config(database=":memory:"))

    async def flow() -> None: ...

    bare: Any = app.workflow
    for given in ((flow,), ()):
        with pytest.raises(RegistrationError, match=r'@app\.workflow\(version="1\.0\.0"\)'):
            bare(*given)


@pytest.mark.parametrize("version", ["1", "1.0", "v1.0.0", "", "latest"])
def test_versions_are_semantic(version: str) -> None:
    with pytest.raises(RegistrationError, match="not a semantic version"):
        declare(echo, version)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201])
def test_names_of_workflows(name: str) -> None:
    with pytest.raises(RegistrationError, match="name"):
        Workflow(name, "1.0.0", echo)


def test_a_workflow_is_an_async_function() -> None:
    def flow() -> None: ...

    with pytest.raises(RegistrationError, match="not an async function.*async def"):  # noqa: RUF043
        Workflow("flow", "1.0.0", flow)  # type: ignore[arg-type]  # wrong on purpose


async def test_types_that_nobody_can_store_show_when_the_app_opens(memory: World) -> None:
    class Strange: ...

    async def flow(thing: Strange) -> None: ...

    flow.__annotations__["thing"] = Strange
    with pytest.raises(RegistrationError, match=r"argument 'thing' of workflow flow.*Strange"):
        await memory.open(declare(flow))


async def test_an_annotation_that_cannot_be_resolved(memory: World) -> None:
    async def flow(thing: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(RegistrationError, match=r"annotations of workflow flow.*Missing"):
        await memory.open(declare(flow))


async def test_result_timeout_leaves_the_run_going(world: World) -> None:
    gate = asyncio.Event()

    @step
    async def hold() -> int:
        await gate.wait()
        return 5

    async def flow() -> int:
        return await hold()

    app = await world.open()
    run = await app.start(declare(flow), id="r")
    with pytest.raises(ResultTimeout, match="run r has no result after 0.05 s. It goes on"):  # noqa: RUF043
        await run.result(timeout=0.05)
    with pytest.raises(TimeoutError):
        await run.result(timeout=0)
    assert await run.status() == "running"
    gate.set()
    assert await run.result(timeout=60) == 5
    assert await run.result(timeout=60) == 5


async def test_a_workflow_called_outside_a_run_is_the_plain_function() -> None:
    assert await ECHO("ab", times=2) == "abab"
    assert ECHO.name == "echo"


async def test_an_app_that_is_not_open_says_so(memory: World) -> None:
    app = memory.app(ECHO)
    with pytest.raises(ConfigError, match="app test is not open"):
        await app.start(ECHO, "x")
    with pytest.raises(ConfigError, match="app test is not open"):
        app.run("r")
    with pytest.raises(ConfigError, match="app test is not open"):
        await app.runs(RunFilter())


async def test_a_handle_after_the_app_was_closed_says_so(world: World) -> None:
    app = await world.open(ECHO)
    run = await app.start(ECHO, "x")
    await run.result(timeout=60)
    await app.close()
    world.apps.remove(app)
    for ask in (run.status, run.cancel, run.record, run.result):
        async with asyncio.timeout(60):
            with pytest.raises(aura.AuraError, match="is closed"):
                await ask()
