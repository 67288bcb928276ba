"""Steps: retries, timeouts, failures and threads."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC
from itertools import pairwise
from typing import Any

import pytest

import aura
from aura import NonRetryable, Retry, RunFailed, StepFailed, step
from aura.codec import plain, to_json
from aura.errors import ConfigError, RegistrationError, StepTimeout
from tests.engine.kit import Ledger, World, declare, resumed, until


class Refused(Exception):
    """Raised by steps here."""


async def test_a_step_is_retried_with_growing_pauses(world: World) -> None:
    times: list[float] = []

    @step(retries=Retry(attempts=3, first=0.04, factor=2.0))
    async def flaky() -> int:
        times.append(time.monotonic())
        if len(times) < 4:
            raise Refused("not yet")
        return len(times)

    async def flow() -> int:
        return await flaky()

    app = await world.open()
    assert await (await app.start(declare(flow), id="r")).result(timeout=60) == 4
    pauses = [b - a for a, b in pairwise(times)]
    for at, pause in enumerate(pauses):
        assert pause >= 0.04 * 2**at / 2
    journal = await world.journal("r")
    assert [(e.kind, e.attempt) for e in journal] == [
        ("attempt", 1), ("attempt", 2), ("attempt", 3), ("step", 4),
    ]  # fmt: skip
    for at, entry in enumerate(journal[:3]):
        found = plain(entry.error)
        assert (found["type"], found["message"]) == ("Refused", "not yet")
        assert found["retry_at"] - entry.started_at >= 0.04 * 2**at / 2
        assert found["retry_at"] - entry.recorded_at <= 0.04 * 2**at


def test_backoff_and_jitter_have_bounds() -> None:
    retry = Retry(attempts=5, first=0.2, factor=2.0, longest=3.0)
    assert [retry.delay(n, 0.0) for n in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.4])
    assert [retry.delay(n, 1.0) for n in (1, 2, 3)] == pytest.approx([0.2, 0.4, 0.8])
    assert retry.delay(10, 1.0) == pytest.approx(3.0)
    assert retry.delay(100_000, 0.5) == pytest.approx(2.25)
    assert [retry.again(n, Refused()) for n in (1, 5, 6)] == [True, True, False]


async def test_what_must_not_be_retried_is_not(memory: World, ledger: Ledger) -> None:
    @step(retries=Retry(attempts=5, first=0.01, never=(Refused,)))
    async def never() -> None:
        ledger("never")
        raise Refused("no")

    @step(retries=5)
    def give_up() -> None:
        ledger("give_up")
        raise NonRetryable("the account is closed") from Refused("cause")

    async def flow() -> list[str]:
        found = []
        for one in (never, give_up):
            try:
                await one()
            except StepFailed as error:
                found += [error.type, error.reason, str(error.attempts)]
        return found

    app = await memory.open()
    found = await (await app.start(declare(flow))).result(timeout=60)
    assert found == ["Refused", "no", "1", "NonRetryable", "the account is closed", "1"]
    assert ledger.ran == ["never", "give_up"]


async def test_retry_state_survives_a_crash(world: World, ledger: Ledger) -> None:
    @step(retries=Retry(attempts=2, first=3600, factor=1.0, longest=3600))
    async def flaky() -> str:
        ledger("flaky")
        raise Refused(f"try {ledger.count('flaky')}")

    async def flow() -> list[Any]:
        try:
            await flaky()
        except StepFailed as error:
            return [error.reason, error.attempts]
        return []

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")

    async def waits(run_id: str) -> bool:
        record = await world.record(run_id)
        return record.state == "waiting"

    await until(lambda: waits("r"))
    [first] = await world.journal("r")
    failed = plain(first.error)
    assert 1_800 <= failed["retry_at"] - first.started_at <= 3_600 + 60
    await world.crash(app)
    app = await world.open(workflow)
    again = await resumed(app, workflow, [first])  # its time has not come
    await until(lambda: waits(again.id))
    assert (await world.record(again.id)).wake_at == pytest.approx(failed["retry_at"])
    assert ledger.count("flaky") == 1
    due = to_json(failed | {"retry_at": time.time() - 1})
    journal = [first._replace(error=due), first._replace(seq=2, attempt=2, error=due)]
    third = await resumed(app, workflow, journal)
    assert await third.result(timeout=60) == ["try 2", 3]
    assert ledger.count("flaky") == 2
    assert [e.attempt for e in await world.journal(third.id)] == [1, 2, 3]


async def test_a_step_that_waits_long_for_its_next_try_leaves_memory(memory: World) -> None:
    tries: list[float] = []

    @step(retries=Retry(attempts=1, first=2.0))
    async def flaky() -> int:
        tries.append(time.time())
        if len(tries) == 1:
            raise Refused
        return len(tries)

    async def flow() -> int:
        return await flaky()

    app = await memory.open(keep_in_memory=0.0)
    run = await app.start(declare(flow))
    assert await run.result(timeout=60) == 2
    assert (await run.record()).epoch == 2
    assert tries[1] - tries[0] >= 1.0


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_step_timeout_is_the_same_live_and_replayed(world: World, kind: str) -> None:
    seen: list[dict[str, Any]] = []
    stuck = asyncio.Event()
    released = threading.Event()

    @step(name="slow", timeout=0.1, retries=Retry(attempts=1, first=0.01))
    async def slow_async() -> None:
        await asyncio.sleep(30)

    @step(name="slow", timeout=0.1, retries=Retry(attempts=1, first=0.01))
    def slow_plain() -> None:
        released.wait(30)

    @step
    async def hold() -> None:
        if not stuck.is_set():
            stuck.set()
            await asyncio.Event().wait()

    async def flow() -> None:
        try:
            await (slow_async() if kind == "async" else slow_plain())
        except StepTimeout as error:
            seen.append(dict(vars(error)))
        await hold()

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await world.crash(app)
    app = await world.open(workflow)
    await app.run("r").result(timeout=60)
    released.set()
    live, replayed = seen
    assert live == replayed
    assert (live["step"], live["type"], live["attempts"]) == ("slow", "TimeoutError", 2)
    assert live["reason"] == "no answer within 0.1 s"


async def test_a_timeout_error_of_the_code_is_no_step_timeout(memory: World) -> None:
    @step(timeout=5)
    async def impatient() -> None:
        raise TimeoutError("its own")

    async def flow() -> list[str]:
        try:
            await impatient()
        except StepFailed as error:
            return [type(error).__name__, error.type, error.reason]
        return []

    app = await memory.open()
    found = await (await app.start(declare(flow))).result(timeout=60)
    assert found == ["StepFailed", "TimeoutError", "its own"]


async def test_a_failed_step_is_the_same_live_and_replayed(world: World) -> None:
    seen: list[StepFailed] = []
    stuck = asyncio.Event()

    @step(retries=Retry(attempts=2, first=0.001))
    async def fail() -> None:
        raise Refused("the reason: ü\n\x00\udcff")

    @step
    async def hold() -> None:
        if not stuck.is_set():
            stuck.set()
            await asyncio.Event().wait()

    async def flow() -> None:
        try:
            await fail()
        except StepFailed as error:
            seen.append(error)
        await hold()

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await world.crash(app)
    app = await world.open(workflow)
    await app.run("r").result(timeout=60)
    live, replayed = seen
    assert vars(live) == vars(replayed)
    assert str(live) == str(replayed)
    assert type(live) is type(replayed) is StepFailed
    assert (live.step, live.type, live.attempts) == ("fail", "Refused", 3)
    assert live.reason.startswith("the reason: ü\n\x00")
    assert "raise Refused" in live.traceback
    assert isinstance(live.__cause__, Refused)


async def test_an_error_that_cannot_even_be_shown(memory: World) -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @step
    async def fail() -> None:
        raise Rude

    async def flow() -> None:
        await fail()

    app = await memory.open()
    with pytest.raises(RunFailed, match="Rude"):
        await (await app.start(declare(flow))).result(timeout=60)


async def test_a_run_that_raises_is_failed_with_type_and_traceback(world: World) -> None:
    async def flow() -> None:
        raise Refused("told you")

    app = await world.open()
    run = await app.start(declare(flow), id="r")
    with pytest.raises(RunFailed, match="told you") as caught:
        await run.result(timeout=60)
    assert (caught.value.run_id, caught.value.type) == ("r", "Refused")
    assert 'raise Refused("told you")' in caught.value.traceback
    other = await world.open(worker=False)
    with pytest.raises(RunFailed) as again:
        await other.run("r").result(timeout=60)
    assert vars(again.value) == vars(caught.value)


async def test_a_step_outside_a_run_is_the_plain_function() -> None:
    @step(retries=3, timeout=1)
    async def double(number: int) -> int:
        return 2 * number

    @step
    def half(number: int) -> float:
        return number / 2

    assert await double(4) == 8
    assert half(3) == 1.5  # type: ignore[comparison-overlap]  # plain outside a run
    with pytest.raises(ConfigError, match="outside a step"):
        aura.idempotency_key()
    assert double.name == "double"
    assert getattr(double, "__name__", "") == "double"


current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="none")


async def test_plain_steps_run_in_threads_with_context(memory: World) -> None:
    both = threading.Barrier(2, timeout=60)

    @step
    def block(name: str) -> list[str]:
        both.wait()  # only passes when both run at once
        return [name, current.get(), threading.current_thread().name, aura.idempotency_key()]

    async def flow(name: str) -> list[list[str]]:
        current.set(name)
        return list(await asyncio.gather(block("a"), block("b")))

    app = await memory.open()
    found = await (await app.start(declare(flow), "mine", id="r")).result(timeout=60)
    assert [one[:2] for one in found] == [["a", "mine"], ["b", "mine"]]
    assert all(one[2].startswith("aura-step") for one in found)
    assert [one[3] for one in found] == ["r:0.1/block#1", "r:0.2/block#1"]


async def test_the_event_loop_goes_on_while_a_plain_step_blocks(memory: World) -> None:
    release = threading.Event()

    @step
    def block() -> str:
        assert release.wait(60)
        return "free"

    async def flow() -> str:
        return await block()

    app = await memory.open()
    run = await app.start(declare(flow))
    await asyncio.sleep(0.05)
    release.set()
    assert await run.result(timeout=60) == "free"


async def test_a_step_that_calls_steps_runs_them_as_plain_functions(
    memory: World, ledger: Ledger
) -> None:
    @step(retries=5)
    async def inner(number: int) -> tuple[int, int]:
        ledger("inner")
        return number, number

    @step
    async def outer() -> list[int]:
        one, two = await inner(1)
        both = await asyncio.gather(inner(2), inner(3))
        await aura.sleep(0.001)
        assert aura.now().tzinfo is UTC
        return [one, two, *both[0], *both[1]]

    async def flow() -> list[int]:
        return await outer()

    app = await memory.open()
    run = await app.start(declare(flow), id="r")
    assert await run.result(timeout=60) == [1, 1, 2, 2, 3, 3]
    assert ledger.count("inner") == 3
    assert [e.key for e in await app.store.journal("r")] == ["0/outer#1"]


async def test_a_step_in_a_class(memory: World) -> None:
    class Tools:
        @staticmethod
        @step
        async def add(a: int, b: int = 5) -> int:
            return a + b

    async def flow() -> list[int]:
        return [await Tools.add(1), await Tools.add(1, 2), await Tools.add(b=1, a=1)]

    app = await memory.open()
    assert await (await app.start(declare(flow))).result(timeout=60) == [6, 3, 2]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: step(retries=-1), "retries=-1"),
        (lambda: step(timeout=0)(lambda: None), "timeout=0"),
        (lambda: step(name="a/b")(lambda: None), "a/b"),
        (lambda: step(name="a#1")(lambda: None), "a#1"),
        (lambda: step(name="")(lambda: None), "name"),
        (lambda: step(name="a\x00")(lambda: None), "name"),
        (lambda: step(name="x" * 1000)(lambda: None), "name"),
        (lambda: step(5), "needs a function"),  # type: ignore[call-overload]
        (lambda: step(Refused), "needs a function"),
    ],
)
def test_steps_that_are_declared_wrongly(make: Any, says: str) -> None:
    with pytest.raises(RegistrationError, match=says):
        make()


def test_an_async_generator_is_no_step() -> None:
    async def many() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(RegistrationError, match="many"):
        step(many)


async def test_starred_arguments_have_no_names(memory: World) -> None:
    @step
    async def many(*numbers: int) -> int:
        return sum(numbers)

    async def flow() -> int:
        return await many(1, 2)

    app = await memory.open()
    with pytest.raises(RunFailed, match=r"takes \*numbers"):
        await (await app.start(declare(flow))).result(timeout=60)


async def test_a_step_that_exits_or_cancels_something_fails(memory: World) -> None:
    @step
    def leave() -> None:
        sys.exit("bye")

    @step
    async def inner() -> None:
        task = asyncio.create_task(asyncio.sleep(10))
        task.cancel()
        await task

    async def flow() -> list[str]:
        found = []
        for one in (leave, inner):
            try:
                await one()
            except StepFailed as error:
                found += [error.type, error.reason]
        return found

    async def exits() -> None:
        sys.exit("out")

    app = await memory.open()
    found = await (await app.start(declare(flow))).result(timeout=60)
    assert found == ["SystemExit", "bye", "CancelledError", ""]
    with pytest.raises(RunFailed, match="SystemExit: out"):
        await (await app.start(declare(exits))).result(timeout=60)
