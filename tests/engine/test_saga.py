"""Sagas: what is taken back, in which order, how often, and what a crash does to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aura
from aura import NonRetryable, Retry, RunFailed, saga, step
from aura.engine.saga_report import count
from aura.errors import (
    CompensationFailed,
    RegistrationError,
    RunCancelled,
    RunParked,
    SagaError,
    StepFailed,
)
from tests.engine.kit import World, declare, resumed, until
from tests.engine.saga_kit import breaking, broken, fail, keys, make, ran, unmake, unmake_nothing


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    ran.clear()
    yield
    broken.clear()


async def start_and_fail(world: World, flow: Callable[[], Any]) -> list[str]:
    """The keys in the journal of a run that fails."""
    app = await world.open()
    run = await app.start(declare(flow), id="r")
    with pytest.raises(RunFailed):
        await run.result(timeout=60)
    return keys(await app.store.journal(run.id))


async def test_a_scope_that_ends_well_compensates_nothing(world: World) -> None:
    async def flow() -> str:
        async with saga("order") as order:
            made = await order.step(make, "a", compensate=unmake)
            await order.step(make, "b", compensate=unmake)
        return made

    app = await world.open()
    run = await app.start(declare(flow))
    assert await run.result(timeout=60) == "<a>"
    assert ran == ["a", "b"]
    assert keys(await world.journal(run.id)) == ["0/make#1", "0/make#2"]


async def test_steps_of_a_failed_scope_are_compensated_backwards(world: World) -> None:
    async def flow() -> None:
        async with saga() as order:
            for name in "abc":
                await order.step(make, name, compensate=unmake)
            await fail()

    assert await start_and_fail(world, flow) == [
        *("0/make#1", "0/make#2", "0/make#3"),
        *("0/~make#3", "0/~make#2", "0/~make#1"),
    ]
    assert ran == ["a", "b", "c", "not <c>", "not <b>", "not <a>"]


async def test_the_error_of_the_scope_goes_on(memory: World) -> None:
    async def flow() -> list[str]:
        try:
            async with saga() as order:
                await order.step(make, "a", compensate=unmake)
                await order.step(make, "b", compensate=unmake)
        except StepFailed as error:
            return [error.reason]
        return []

    app = await memory.open()
    with breaking("b"):
        assert await (await app.start(declare(flow))).result(timeout=60) == ["b is broken"]
    assert ran == ["a", "b", "not <a>"]


async def test_a_cancelled_run_is_compensated(world: World) -> None:
    stuck = asyncio.Event()

    @step
    async def hold() -> None:
        stuck.set()
        await asyncio.Event().wait()

    async def flow() -> None:
        async with saga() as order:
            await order.step(make, "a", compensate=unmake)
            await order.step(make, "b", compensate=unmake)
            await order.step(hold, compensate=unmake_nothing)

    app = await world.open()
    run = await app.start(declare(flow))
    await asyncio.wait_for(stuck.wait(), 60)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    assert ran == ["a", "b", "not <b>", "not <a>"]


# What a compensation gets, and what the scope does when a step gives up.


async def test_a_compensation_gets_the_result_and_arguments_by_their_names(world: World) -> None:
    got: list[Any] = []

    @step
    async def charge(account: str, cents: int, note: str = "none") -> dict[str, int]:
        return {"paid": cents}

    async def refund(receipt: dict[str, int], account: str, note: str, why: str = "undone") -> None:
        got.append((receipt, account, note, why))

    def nothing() -> None:
        got.append("nothing")

    async def flow() -> None:
        async with saga() as order:
            await order.step(charge, "anna", cents=500, compensate=refund)
            await order.step(charge, "bert", 7, compensate=nothing)
            await fail()

    found = await start_and_fail(world, flow)
    assert got == ["nothing", ({"paid": 500}, "anna", "none", "undone")]
    assert found[2:] == ["0/~charge#2", "0/~charge#1"]


async def test_mistakes_are_told_before_the_step_runs(memory: World) -> None:
    async def wants_more(made: str, colour: str) -> None: ...

    bad: list[dict[str, Any]] = [
        {"compensate": wants_more},
        {"compensate": lambda: None},
        {"recover": "never"},
    ]

    async def flow(number: int) -> None:
        async with saga() as order:
            await order.step(make, "a", **bad[number])

    app = await memory.open()
    for number in range(len(bad)):
        with pytest.raises(RunFailed) as caught:
            await (await app.start(declare(flow), number)).result(timeout=60)
        assert caught.value.type == RegistrationError.__name__
    assert ran == []
    with pytest.raises(RegistrationError):
        saga("a/b")


async def test_skip_goes_on_with_the_default(world: World) -> None:
    async def flow() -> list[str]:
        async with saga() as order:
            made = await order.step(make, "a", recover="skip", default="none", compensate=unmake)
            return [made, await order.step(make, "b", compensate=unmake)]

    app = await world.open()
    with breaking("a"):
        assert await (await app.start(declare(flow))).result(timeout=60) == ["none", "<b>"]


async def test_an_alternative_is_tried_and_compensated_instead(world: World) -> None:
    @step
    async def make_else(name: str) -> str:
        ran.append(f"else {name}")
        return f"<else {name}>"

    async def flow() -> None:
        async with saga() as order:
            await order.step(make, "a", alternative=make_else, compensate=unmake)
            await fail()

    with breaking("a"):
        found = await start_and_fail(world, flow)
    assert ran == ["a", "else a", "not <else a>"]
    assert found == ["0/make_else#1", "0/~make_else#1"]


async def test_retry_tries_again_by_the_policy_that_is_given(memory: World) -> None:
    async def flow() -> None:
        async with saga() as order:
            await order.step(make, "a", recover=Retry(attempts=2, first=0.0), compensate=unmake)

    with breaking("a"):
        assert await start_and_fail(memory, flow) == []
    assert ran == ["a", "a", "a"]


@pytest.mark.parametrize("decision", ["retry", "skip", "compensate"])
async def test_a_person_decides_about_a_step_that_gave_up(world: World, decision: str) -> None:
    async def flow() -> str:
        async with saga("order") as order:
            await order.step(make, "a", compensate=unmake)
            return await order.step(make, "b", recover="manual", default="none")

    app = await world.open()
    with breaking("b"):
        run = await app.start(declare(flow))
        await until(lambda: "b" in ran)
        await run.signal("saga:order", "what?")
        await run.signal("saga:order", "retry")
        await until(lambda: ran.count("b") == 2)
        broken.discard("b" if decision == "retry" else "")
        await run.signal("saga:order", decision)
        if decision == "compensate":
            with pytest.raises(RunFailed, match="b is broken"):
                await run.result(timeout=60)
        else:
            assert await run.result(timeout=60) == ("<b>" if decision == "retry" else "none")
    undone = ["not <a>"] if decision == "compensate" else []
    assert ran == ["a", "b", "b", *(["b"] if decision == "retry" else undone)]


async def test_after_a_pivot_steps_are_tried_until_they_succeed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.engine.saga.ENDLESS", Retry(attempts=1000, first=0.001))

    @step
    async def heals(name: str) -> str:
        ran.append(name)
        if ran.count(name) < 4:
            raise ValueError
        return name

    async def flow() -> str:
        async with saga() as order:
            await order.step(make, "a", compensate=unmake)
            await order.step(make, "b", pivot=True)
            return await order.step(heals, "c")

    app = await world.open()
    assert await (await app.start(declare(flow))).result(timeout=60) == "c"
    assert ran == ["a", "b", "c", "c", "c", "c"]


async def test_a_cancel_waits_for_the_end_of_a_scope_with_a_pivot(world: World) -> None:
    stuck, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def hold() -> None:
        stuck.set()
        await go_on.wait()
        ran.append("held")

    async def flow() -> None:
        async with saga() as order:
            await order.step(make, "a", compensate=unmake)
            await order.step(make, "b", pivot=True)
            await order.step(hold)
        await make("after")

    app = await world.open()
    run = await app.start(declare(flow))
    await asyncio.wait_for(stuck.wait(), 60)
    await run.cancel()
    await asyncio.sleep(0.02)
    go_on.set()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    assert ran == ["a", "b", "held"]


async def test_what_cannot_go_forward_is_parked_and_goes_on_when_it_is_requeued(
    world: World,
) -> None:
    @step
    async def final(name: str) -> str:
        if name in broken:
            raise NonRetryable(name)
        return name

    async def flow() -> str:
        async with saga("order") as order:
            await order.step(make, "a", compensate=unmake)
            await order.step(make, "b", pivot=True)
            return await order.step(final, "c")

    workflow = declare(flow)
    app = await world.open(workflow)
    with breaking("c"):
        run = await app.start(workflow)
        with pytest.raises(RunParked, match="saga order cannot go on after its pivot"):
            await run.result(timeout=60)
    again = await resumed(app, workflow, await world.journal(run.id))
    assert await again.result(timeout=60) == "c"
    assert ran == ["a", "b"]


# Compensations that fail.


async def three() -> None:
    async with saga("three") as order:
        await order.step(make, "a", compensate=unmake)
        await asyncio.gather(
            order.step(make, "b", compensate=unmake), order.step(make, "c", compensate=unmake)
        )
        await fail()


async def test_a_failed_compensation_parks_the_run_and_a_requeue_goes_on(world: World) -> None:
    workflow = declare(three)
    app = await world.open(workflow)
    with breaking("<b>"):
        run = await app.start(workflow)
        with pytest.raises(RunParked) as caught:
            await run.result(timeout=60)
        told = str(caught.value)
        assert "done 0.2/make#1; failed 0.1/make#1" in told
        assert "not begun 0/make#1" in told
        (told_of,) = await run.sagas()
        assert (told_of.name, told_of.key, told_of.end) == ("three", "0/~~three#1", "parked")
        fates = {"0/make#1": "missing", "0.1/make#1": "failed", "0.2/make#1": "compensated"}
        assert told_of.steps == fates
        assert ran.count("not <b>") == 2
        await run.requeue()
        with pytest.raises(RunParked):
            await run.result(timeout=60)
        assert ran.count("not <b>") == 4
    await run.requeue()
    with pytest.raises(RunFailed, match="RuntimeError"):
        await run.result(timeout=60)
    assert await run.requeue() == "failed"
    ends, steps = count(await run.sagas())
    assert ends == {("three", "compensated"): 1}
    assert steps == {("three/make", "compensated"): 3}
    assert ran[-2:] == ["not <b>", "not <a>"]
    assert ran.count("not <c>") == ran.count("not <a>") == 1
    found = [key for key in keys(await world.journal(run.id)) if "~" in key]
    assert found == ["0.2/~make#1", "0.1/~make#1#3", "0/~make#1"]


async def test_the_idempotency_key_of_a_compensation_never_changes(world: World) -> None:
    seen: list[str] = []

    @step(retries=Retry(attempts=1, first=0.0))
    async def take_back(made: str) -> None:
        seen.append(aura.idempotency_key().partition(":")[2])
        if made in broken:
            raise ValueError

    async def flow() -> None:
        async with saga() as order:
            await order.step(make, "a", compensate=take_back)
            await fail()

    workflow = declare(flow)
    app = await world.open(workflow)
    with breaking("<a>"):
        run = await app.start(workflow)
        with pytest.raises(RunParked):
            await run.result(timeout=60)
    again = await resumed(app, workflow, await app.store.journal(run.id))
    with pytest.raises(RunFailed):
        await again.result(timeout=60)
    assert seen == ["0/~make#1"] * 3


# Branches, scopes in scopes.


async def test_steps_of_branches_that_ran_side_by_side_are_compensated_in_parallel(
    memory: World,
) -> None:
    both = asyncio.Barrier(2)

    async def take_back(made: str) -> None:
        await asyncio.wait_for(both.wait(), 60)

    async def flow() -> None:
        async with saga() as order:
            await asyncio.gather(*(order.step(make, n, compensate=take_back) for n in "ab"))
            await fail()

    assert len(await start_and_fail(memory, flow)) == 4


async def test_a_step_that_is_under_way_when_the_scope_fails_is_compensated_too(
    memory: World,
) -> None:
    """`gather` goes on at the first failure and leaves the other branch alone."""

    @step
    async def slow(name: str) -> str:
        await asyncio.sleep(0.02)
        ran.append(name)
        return name

    async def branch(order: Any) -> None:
        await order.step(slow, "slow", compensate=unmake)
        await order.step(slow, "never", compensate=unmake)

    async def flow() -> None:
        async with saga() as order:
            await asyncio.gather(branch(order), fail())

    await start_and_fail(memory, flow)
    assert ran == ["slow", "not slow"]


async def test_a_failing_branch_of_a_task_group_compensates_the_others(world: World) -> None:
    async def branch(order: Any, name: str) -> None:
        await order.step(make, name, compensate=unmake)
        if name == "c":
            await fail()
        await asyncio.Event().wait()

    async def flow() -> list[str]:
        try:
            async with saga() as order, asyncio.TaskGroup() as group:
                for name in "abc":
                    group.create_task(branch(order, name))
        except* RuntimeError as errors:
            told = [str(error) for error in errors.exceptions]
        return told

    app = await world.open()
    assert await (await app.start(declare(flow))).result(timeout=60) == ["no"]
    assert sorted(ran[:3]) == ["a", "b", "c"]
    assert sorted(ran[3:]) == ["not <a>", "not <b>", "not <c>"]


async def test_sagas_in_parallel_branches_do_not_touch_each_other(world: World) -> None:
    async def one(name: str) -> str:
        async with saga(name) as order:
            made = await order.step(make, name, compensate=unmake)
            if name == "b":
                await fail()
        return made

    async def flow() -> list[str]:
        found = await asyncio.gather(*map(one, "abc"), return_exceptions=True)
        return [str(each) for each in found]

    app = await world.open()
    assert await (await app.start(declare(flow))).result(timeout=60) == ["<a>", "no", "<c>"]
    assert ran[3:] == ["not <b>"]


async def test_an_outer_saga_takes_back_what_an_inner_one_finished(world: World) -> None:
    async def flow() -> None:
        async with saga("outer") as outer:
            await outer.step(make, "a", compensate=unmake)
            async with saga("inner") as inner:
                await inner.step(make, "b", compensate=unmake)
            try:
                async with saga("inner") as inner:
                    await inner.step(make, "c", compensate=unmake)
                    await fail()
            except RuntimeError:
                await outer.step(make, "d", compensate=unmake)
            await fail()

    await start_and_fail(world, flow)
    assert ran == ["a", "b", "c", "not <c>", "d", "not <d>", "not <b>", "not <a>"]
    reports = await world.apps[0].run("r").sagas()
    assert [(one.name, one.end) for one in reports] == [
        ("inner", "completed"),
        ("inner", "compensated"),
        ("outer", "compensated"),
    ]
    assert reports[0].steps == {"0/make#2": "compensated"}


async def test_a_saga_that_has_ended_takes_no_steps(memory: World) -> None:
    async def flow() -> None:
        async with saga() as order:
            pass
        await order.step(make, "a", compensate=unmake)

    app = await memory.open()
    with pytest.raises(RunFailed) as caught:
        await (await app.start(declare(flow))).result(timeout=60)
    assert caught.value.type == SagaError.__name__
    assert ran == []


# What is not the end of a scope.


async def test_leaving_memory_losing_the_lease_and_shutting_down_compensate_nothing(
    world: World,
) -> None:
    async def flow() -> None:
        async with saga() as order:
            await order.step(make, "a", compensate=unmake)
            await aura.sleep(1.0)
            await order.step(make, "b", compensate=unmake)

    workflow = declare(flow)
    app = await world.open(workflow, keep_in_memory=0.1)
    run = await app.start(workflow, id="r")

    async def has_left() -> bool:
        record = await run.record()
        return record.state == "waiting" or record.epoch > 1

    await until(has_left)
    again = await app.start(workflow, id="crashed")
    await until(lambda: ran.count("a") == 2)
    await world.crash(app)
    app = await world.open(workflow)
    closed = await app.start(workflow, id="closed")
    await until(lambda: ran.count("a") > 2)
    world.apps.remove(app)
    await app.close()
    app = await world.open(workflow)
    for each in (run, again, closed):
        await app.run(each.id).result(timeout=60)
    assert ran.count("b") == 3
    assert set(ran) == {"a", "b"}


async def test_outside_a_run_a_saga_works_in_memory() -> None:
    async def flow() -> None:
        async with saga() as outer:
            assert await outer.step(make, "a", compensate=unmake) == "<a>"
            async with saga() as inner:
                await inner.step(make, "b", compensate=unmake)
            await fail()

    with pytest.raises(RuntimeError):
        await flow()
    assert ran == ["a", "b", "not <b>", "not <a>"]
    with breaking("<a>"), pytest.raises(CompensationFailed):
        await flow()
