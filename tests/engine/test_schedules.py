"""Schedules as users see them: what is started when, by whatever workers there are."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import aura
from aura import Aura, Workflow
from aura.engine.scheduler import Status
from aura.engine.schedules import Schedules
from aura.errors import (
    InvalidInput,
    RegistrationError,
    ResultTimeout,
    ScheduleError,
    UnknownQueue,
    UnknownWorkflow,
)
from aura.store.base import RunFilter, RunRecord
from tests.engine.jumps import ClockAhead, Jumps
from tests.engine.kit import World, declare, until

HOUR = 3_600.0


async def report(what: str, tick: datetime) -> str:
    return f"{what} of {tick.astimezone(UTC):%H:%M}"


async def patient(what: str) -> str:
    return f"{what} {await aura.receive('go')}"


REPORT, PATIENT = declare(report), declare(patient)


async def opened(world: World, *schedules: tuple[Any, ...], worker: bool = True) -> Aura:
    """An app that declares schedules: (name, workflow, arguments, options)."""
    app = world.app(REPORT, PATIENT)
    for name, workflow, args, options in schedules:
        app.schedule(name, workflow, *args, **options)
    await app.open(worker=worker)
    world.apps.append(app)
    return app


async def runs(app: Aura, workflow: Workflow[..., Any]) -> list[RunRecord]:
    """Oldest first."""
    found = await app.store.runs(RunFilter(workflow=workflow.name, limit=500))
    return sorted(found, key=lambda run: run.id)


async def settled(app: Aura, workflow: Workflow[..., Any], count: int) -> list[RunRecord]:
    """That many runs of the workflow, once they have ended."""

    async def there() -> bool:
        found = await runs(app, workflow)
        return len(found) >= count and all(run.state == "completed" for run in found)

    await until(there, timeout=30)
    found = await runs(app, workflow)
    assert len(found) == count
    return found


async def shows(app: Aura, name: str, **wanted: Any) -> Status:
    """The schedule's status, once its book shows what is wanted."""
    found: list[Status] = []

    async def so() -> bool:
        found.append(await app.schedules.show(name))
        return all(_value(found[-1], key) == value for key, value in wanted.items())

    await until(so, timeout=30)
    return found[-1]


def _value(status: Status, key: str) -> Any:
    found = getattr(status if key == "state" else status.book, key)
    return len(found) if isinstance(found, tuple) else found


def hour(jumps: Jumps, ahead: int = 0) -> datetime:
    """The last full hour, or one later."""
    full = jumps.now() // HOUR * HOUR
    return datetime.fromtimestamp(full + ahead * HOUR, UTC)


async def just_after_the_hour(jumps: Jumps) -> None:
    """So that no hour ends by itself while the test runs."""
    await jumps.on(HOUR - jumps.now() % HOUR + 5)


def tick_id(name: str, at: datetime) -> str:
    return f"{name}@{at:%Y-%m-%dT%H:%M:%S}Z"


# -- ticks -------------------------------------------------------------------------------------


async def test_each_tick_starts_a_run_that_knows_its_time(world: World, jumps: Jumps) -> None:
    app = await opened(world, ("hourly", REPORT, ("all",), {"every": timedelta(hours=1)}))
    await just_after_the_hour(jumps)
    await shows(app, "hourly", state="active", started=1)
    await jumps.on(HOUR)
    found = await settled(app, REPORT, 2)
    assert found[1].id == tick_id("hourly", hour(jumps))
    result = await app.run(found[1].id).result(timeout=60)
    assert result == f"all of {hour(jumps):%H:%M}"
    status = await shows(app, "hourly", started=2, running=0)
    assert status.next == pytest.approx(hour(jumps, 1).timestamp())


async def test_cron_in_a_time_zone(world: World, jumps: Jumps) -> None:
    options = {"cron": "0 3 * * *", "timezone": "Asia/Kathmandu"}
    app = await opened(world, ("nightly", REPORT, ("all",), options))
    status = await shows(app, "nightly", state="active")
    assert status.next is not None
    await jumps.on(status.next - jumps.now() + 1)
    (found,) = await settled(app, REPORT, 1)
    assert found.id == tick_id("nightly", datetime.fromtimestamp(status.next, UTC))
    assert found.id.endswith("T21:15:00Z")


async def test_several_workers_start_each_tick_once(world: World, jumps: Jumps) -> None:
    schedule = ("hourly", REPORT, ("all",), {"every": HOUR})
    apps = await asyncio.gather(*(opened(world, schedule) for _ in range(3)))
    await just_after_the_hour(jumps)
    await settled(apps[0], REPORT, 1)
    await jumps.on(HOUR)
    found = await settled(apps[0], REPORT, 2)
    assert [run.id for run in found] == [
        tick_id("hourly", hour(jumps, -1)),
        tick_id("hourly", hour(jumps)),
    ]
    assert [status.run for status in await apps[0].schedules.list()] == ["schedule/hourly"]


async def test_a_crash_between_ticks_loses_and_doubles_none(world: World, jumps: Jumps) -> None:
    options = {"every": HOUR, "overlap": "allow", "missed": "all"}
    schedule = ("hourly", REPORT, ("all",), options)
    app = await opened(world, schedule)
    await just_after_the_hour(jumps)
    first = hour(jumps)
    for number in range(1, 4):
        await settled(app, REPORT, number)
        await world.crash(app)
        await jumps.on(HOUR)
        app = await opened(world, schedule)
    found = await settled(app, REPORT, 4)
    ticks = [first + timedelta(hours=number) for number in range(4)]
    assert [run.id for run in found] == [tick_id("hourly", tick) for tick in ticks]


@pytest.mark.parametrize(
    ("missed", "hours"),
    [("skip", []), ("latest", [3]), (timedelta(hours=1.5), [2, 3]), ("all", [1, 2, 3])],
)
async def test_what_was_missed_while_nothing_ran(
    world: World, jumps: Jumps, missed: Any, hours: list[int]
) -> None:
    options = {"every": HOUR, "missed": missed, "overlap": "allow"}
    schedule = ("hourly", REPORT, ("all",), options)
    app = await opened(world, schedule)
    await just_after_the_hour(jumps)
    await settled(app, REPORT, 1)
    await app.close()
    world.apps.remove(app)
    start = hour(jumps)
    await jumps.on(3 * HOUR + 300)
    app = await opened(world, schedule)
    status = await shows(app, "hourly", missed=3 - len(hours), started=1 + len(hours))
    found = await settled(app, REPORT, 1 + len(hours))
    ticks = [start + timedelta(hours=number) for number in hours]
    assert [run.id for run in found[1:]] == [tick_id("hourly", tick) for tick in ticks]
    assert status.next == pytest.approx((start + timedelta(hours=4)).timestamp())


async def test_a_worker_without_the_workflow_leaves_its_runs_to_others(
    world: World, jumps: Jumps
) -> None:
    schedule = ("hourly", REPORT, ("all",), {"every": HOUR})
    app = await opened(world, schedule)
    await shows(app, "hourly", state="active")
    await app.close()
    world.apps.remove(app)
    stranger = await world.open()
    await just_after_the_hour(jumps)
    await shows(stranger, "hourly", started=1)
    assert [run.state for run in await runs(stranger, REPORT)] == ["pending"]
    await settled(await opened(world, schedule), REPORT, 1)


async def test_its_runs_wait_in_a_queue_and_have_a_deadline(world: World, jumps: Jumps) -> None:
    app = world.app(PATIENT)
    line = app.queue("reports", concurrency=5)
    app.schedule("s", PATIENT, "x", every=HOUR, queue=line.place(key="k"), deadline=600)
    await app.open()
    world.apps.append(app)
    await just_after_the_hour(jumps)
    await shows(app, "s", started=1)
    (run,) = await runs(app, PATIENT)
    assert (run.queue, run.key) == ("reports", "k")
    assert run.deadline == pytest.approx(jumps.now() + 600, abs=60)
    await jumps.on(700)
    await shows(app, "s", running=0)
    assert (await app.run(run.id).status()) == "failed"


async def test_it_begins_anew_with_an_empty_journal(world: World, jumps: Jumps) -> None:
    app = world.app(REPORT, PATIENT)
    app.schedules.engine.turns = 3
    app.schedule("hourly", REPORT, "all", every=HOUR)
    await app.open()
    world.apps.append(app)
    await just_after_the_hour(jumps)
    for number in range(1, 7):
        await settled(app, REPORT, number)
        await jumps.on(HOUR)
    await settled(app, REPORT, 7)
    await app.schedules.pause("hourly")
    status = await app.schedules.trigger("hourly")
    assert status.state == "paused"
    await settled(app, REPORT, 8)
    record = await world.record("schedule/hourly")
    assert record.execution > 2
    assert len(await world.journal("schedule/hourly")) < 60


# -- overlap -----------------------------------------------------------------------------------


async def overlapping(world: World, jumps: Jumps, overlap: str) -> Aura:
    """An app whose schedule ticked twice, and the first run waits for a signal."""
    options = {"every": HOUR, "overlap": overlap}
    app = await opened(world, ("s", PATIENT, ("x",), options))
    await just_after_the_hour(jumps)
    await shows(app, "s", started=1)
    await jumps.on(HOUR)
    return app


async def test_skip(world: World, jumps: Jumps) -> None:
    app = await overlapping(world, jumps, "skip")
    await shows(app, "s", skipped=1, running=1)
    await (app.run(tick_id("s", hour(jumps, -1)))).signal("go", "1")
    await shows(app, "s", running=0)
    await jumps.on(HOUR)
    await shows(app, "s", started=2, running=1)


async def test_queue(world: World, jumps: Jumps) -> None:
    app = await overlapping(world, jumps, "queue")
    await shows(app, "s", queued=1, running=1)
    await (app.run(tick_id("s", hour(jumps, -1)))).signal("go", "1")
    status = await shows(app, "s", queued=0, started=2)
    assert status.book.running == (tick_id("s", hour(jumps)),)


async def test_cancel(world: World, jumps: Jumps) -> None:
    app = await overlapping(world, jumps, "cancel")
    status = await shows(app, "s", started=2)
    assert status.book.running == (tick_id("s", hour(jumps)),)
    assert (await app.run(tick_id("s", hour(jumps, -1))).status()) == "cancelled"


async def test_allow(world: World, jumps: Jumps) -> None:
    app = await overlapping(world, jumps, "allow")
    await shows(app, "s", started=2)
    ids = [run.id for run in await runs(app, PATIENT) if run.state != "completed"]
    assert ids == [tick_id("s", hour(jumps, -1)), tick_id("s", hour(jumps))]
    await app.schedules.delete("s")
    for one in ids:
        await app.run(one).signal("go", "on")
        assert await app.run(one).result(timeout=60) == "x on"


# -- orders ------------------------------------------------------------------------------------


async def test_pause_trigger_and_resume(world: World, jumps: Jumps) -> None:
    app = await opened(world, ("hourly", REPORT, ("all",), {"every": HOUR, "missed": "all"}))
    await just_after_the_hour(jumps)
    await settled(app, REPORT, 1)
    paused = await app.schedules.pause("hourly", by="ada", reason="holidays")
    assert (paused.state, paused.next) == ("paused", None)
    with pytest.raises(ScheduleError, match="schedule hourly is paused already"):
        await app.schedules.pause("hourly")
    await jumps.on(2 * HOUR)
    await app.schedules.trigger("hourly", id="ticket-1")
    await app.schedules.trigger("hourly", id="ticket-1")
    await settled(app, REPORT, 2)
    resumed = await app.schedules.resume("hourly")
    assert resumed.next == pytest.approx(hour(jumps, 1).timestamp())
    await jumps.on(HOUR)
    await settled(app, REPORT, 3)
    status = await shows(app, "hourly", started=3, running=0)
    assert [event.kind for event in status.book.history] == [
        "started", "paused", "triggered", "started", "resumed", "started",
    ]  # fmt: skip
    assert [run.state for run in await app.schedules.runs("hourly")] == ["completed"] * 3


async def test_a_pause_outlives_a_restart(world: World, jumps: Jumps) -> None:
    schedule = ("hourly", REPORT, ("all",), {"every": HOUR, "missed": "all"})
    app = await opened(world, schedule)
    await shows(app, "hourly", state="active")
    await app.schedules.pause("hourly")
    await app.close()
    world.apps.remove(app)
    await jumps.on(3 * HOUR)
    app = await opened(world, schedule)
    await app.schedules.resume("hourly")
    await shows(app, "hourly", state="active")
    assert await runs(app, REPORT) == []


async def test_backfill(world: World, jumps: Jumps) -> None:
    app = await opened(world, ("hourly", REPORT, ("all",), {"every": HOUR}))
    await just_after_the_hour(jumps)
    await settled(app, REPORT, 1)
    start, end = hour(jumps, -3), hour(jumps)
    status = await app.schedules.backfill("hourly", start, end)
    assert status.book.history[-1].kind in ("backfilled", "started", "refused")
    found = await settled(app, REPORT, 4)
    wanted = [start + timedelta(hours=number) for number in range(4)]
    assert [run.id for run in found] == [tick_id("hourly", tick) for tick in wanted]
    await shows(app, "hourly", queued=0, running=0)
    assert len(await runs(app, REPORT)) == 4  # the last one had run before
    with pytest.raises(ScheduleError, match="ends in the past"):
        await app.schedules.backfill("hourly", start, hour(jumps, 5))
    with pytest.raises(ScheduleError, match=r"begins before it ends.* to 2"):  # without an order
        await app.schedules.backfill("hourly", end, start)
    minute = timedelta(minutes=1)
    with pytest.raises(InvalidInput, match="a time of 'now'"):
        await app.schedules.backfill("hourly", start, "now")  # type: ignore[arg-type]
    with pytest.raises(ScheduleError, match="no tick"):
        await app.schedules.backfill("hourly", start + minute, start + 2 * minute)


async def test_backfill_takes_times_of_the_schedules_zone(world: World, jumps: Jumps) -> None:
    options = {"cron": "0 3 * * *", "timezone": "Asia/Kathmandu"}
    app = await opened(world, ("nightly", REPORT, ("all",), options))
    await shows(app, "nightly", state="active")
    day = datetime(2026, 3, 1, 3)  # noqa: DTZ001
    await app.schedules.backfill("nightly", day, day)
    (found,) = await settled(app, REPORT, 1)
    assert found.id == "nightly@2026-02-28T21:15:00Z"


async def test_delete(world: World, jumps: Jumps) -> None:
    schedule = ("s", PATIENT, ("x",), {"every": HOUR})
    app = await opened(world, schedule)
    await just_after_the_hour(jumps)
    await shows(app, "s", started=1)
    status = await app.schedules.delete("s")
    assert status.state == "deleting"
    with pytest.raises(ScheduleError, match="is deleted"):
        await app.schedules.resume("s")
    going_on = app.run(tick_id("s", hour(jumps)))
    await going_on.signal("go", "on")
    assert await going_on.result(timeout=60) == "x on"
    assert await app.run("schedule/s").result(timeout=60) == "deleted"
    assert await app.schedules.list() == []
    with pytest.raises(ScheduleError, match="there is no schedule s"):
        await app.schedules.show("s")
    await app.close()
    world.apps.remove(app)
    app = await opened(world, schedule)  # the code still declares it
    assert (await shows(app, "s", state="active")).run == "schedule/s/2"
    await jumps.on(HOUR)
    await shows(app, "s", started=1)


async def test_new_code_changes_the_schedule(world: World, jumps: Jumps) -> None:
    app = await opened(world, ("s", REPORT, ("old",), {"every": HOUR}))
    await just_after_the_hour(jumps)
    await settled(app, REPORT, 1)
    await app.close()
    world.apps.remove(app)
    changed = ("s", REPORT, ("new",), {"every": 600})
    apps = await asyncio.gather(opened(world, changed), opened(world, changed))

    async def updated() -> bool:
        return (await apps[0].schedules.show("s")).schedule.every == 600

    await until(updated, timeout=30)
    await jumps.on(600)
    found = await settled(apps[0], REPORT, 2)
    assert await apps[0].run(found[1].id).result(timeout=60) == f"new of {hour(jumps):%H}:10"
    status = await shows(apps[0], "s", started=2)
    assert [event.kind for event in status.book.history] == ["started", "updated", "started"]


async def test_one_that_was_cancelled_by_hand_goes_on_at_the_next_start(
    world: World, jumps: Jumps
) -> None:
    schedule = ("s", REPORT, ("all",), {"every": HOUR, "missed": "all", "overlap": "allow"})
    app = await opened(world, schedule)
    await just_after_the_hour(jumps)
    await settled(app, REPORT, 1)
    run = app.run("schedule/s")
    await run.cancel()
    with pytest.raises(aura.AuraError):
        await run.result(timeout=60)
    with pytest.raises(ScheduleError, match="is at its end"):
        await app.schedules.pause("s")
    await app.close()
    world.apps.remove(app)
    await jumps.on(2 * HOUR)
    app = await opened(world, schedule)
    await settled(app, REPORT, 3)
    assert (await app.schedules.show("s")).run == "schedule/s/2"


async def test_an_order_without_a_worker_is_carried_out_later(world: World, jumps: Jumps) -> None:
    schedule = ("s", REPORT, ("all",), {"every": HOUR})
    app = await opened(world, schedule)
    await shows(app, "s", state="active")
    await app.close()
    world.apps.remove(app)
    client = await opened(world, worker=False)
    client.schedules.patience = 0.1
    with pytest.raises(ResultTimeout):
        await client.schedules.pause("s")
    assert (await client.schedules.show("s")).state == "active"
    await opened(world, schedule)
    await shows(client, "s", state="paused")


async def test_a_schedule_may_be_created_while_the_app_is_open(world: World, jumps: Jumps) -> None:
    app = await opened(world)
    status = await app.schedules.create("s", REPORT, ["all"], every=HOUR)
    assert status.state in ("starting", "active")
    await app.schedules.create("s", REPORT, ["all"], every=HOUR)
    await just_after_the_hour(jumps)
    await settled(app, REPORT, 1)


async def test_nothing_of_it_can_be_read_in_the_database(tmp_path: Any) -> None:
    path = tmp_path / "aura.db"
    world = World(str(path))
    key = "k:" + base64.b64encode(bytes(range(32))).decode()
    app = world.app(REPORT, encryption_keys=(key,))
    app.schedule("s", REPORT, "topsecret", every=1)
    await app.open()
    world.apps.append(app)
    await until(lambda: _some(app), timeout=30)
    await world.close()
    assert b"topsecret" not in path.read_bytes()


async def _some(app: Aura) -> bool:
    return bool(await runs(app, REPORT))


# -- mistakes ----------------------------------------------------------------------------------


async def test_arguments_that_do_not_fit_are_refused_at_the_start(memory: World) -> None:
    app = memory.app(REPORT)
    app.schedule("s", REPORT, "a", "no time", every=60)
    with pytest.raises(InvalidInput, match="tick"):
        await app.open()
    memory.apps.append(app)


async def test_declarations_that_make_no_sense(memory: World) -> None:
    app = memory.app(REPORT)
    app.schedule("s", REPORT, "a", every=60)
    with pytest.raises(RegistrationError, match="declared twice"):
        app.schedule("s", REPORT, "a", every=60)
    with pytest.raises(RegistrationError, match="options evry"):
        app.schedule("t", REPORT, "a", evry=60)  # type: ignore[call-arg]
    with pytest.raises(RegistrationError, match="no workflow"):
        app.schedule("t", print, "a", every=60)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="time of '60'"):
        app.schedule("t", REPORT, "a", every="60")  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="either cron or every"):
        app.schedule("t", REPORT, "a")
    with pytest.raises(RegistrationError, match="cron=5"):
        app.schedule("t", REPORT, "a", cron=5)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="timezone=None"):
        app.schedule("t", REPORT, "a", every=60, timezone=None)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="of its own"):
        app.schedule("t", REPORT, "a", every=60, queue=app.place(dedup="x"))
    other = memory.app(REPORT)
    other.schedule("typo", "reprot", every=60)
    with pytest.raises(UnknownWorkflow, match="schedule typo: workflow reprot is not registered"):
        await other.open()
    app.schedule("lost", REPORT, "a", every=60, queue="nowhere")
    with pytest.raises(UnknownQueue, match="nowhere"):
        await app.open()
    memory.apps.append(app)


async def test_no_schedule(memory: World) -> None:
    app = await memory.open()
    desk: Schedules = app.schedules
    for order in (desk.show, desk.pause, desk.resume, desk.trigger, desk.delete, desk.runs):
        with pytest.raises(ScheduleError, match="there is no schedule x"):
            await order("x")
    assert await desk.list() == []


# -- whose time it is --------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [-7_200.0, 7_200.0])
async def test_the_databases_time_decides(postgres_url: str, ahead: float) -> None:
    """A worker whose clock is wrong by two hours sleeps, times out and ticks by the database's."""
    world = World(postgres_url)
    true = ClockAhead()

    async def flow() -> tuple[datetime, str]:
        began = aura.now()
        await aura.sleep(0.6)
        await aura.sleep_until(began + timedelta(seconds=0.8))
        try:
            async with aura.timeout(0.3):
                await aura.receive("nothing")
        except TimeoutError:
            return began, "late"
        return began, "?"

    workflow = declare(flow)
    world.clock = ClockAhead(ahead)
    app = await world.open(workflow, keep_in_memory=0.05)
    run = await app.start(workflow, id="r", deadline=60)
    began, said = await run.result(timeout=60)
    assert said == "late"
    assert abs(began.timestamp() - true.now()) < 30
    record = await world.record("r")
    assert record.deadline is not None
    assert abs(record.deadline - 60 - record.created_at) < 30
    assert record.epoch < 20  # it was not claimed over and over
    await world.close()
