"""Schedules: when they tick next, what they did, and pause, resume, trigger."""

from __future__ import annotations

from collections.abc import Mapping

from aura.server import schedules
from aura.server.schedules import (
    ScheduleDetail,
    ScheduleView,
)
from aura.server.scopes import require_schedule
from aura.server.ui.drawn import Word
from aura.server.ui.pages import page
from aura.server.ui.parts import Column, Empty, Stat, Table, button, card, el, facts, heading
from aura.server.ui.paths import path
from aura.server.ui.schedule_actions import NEEDS, Actions, put
from aura.server.ui.values import line
from aura.server.ui.visit import Visit

NOTHING = Empty(
    "No schedules yet",
    "A schedule starts a workflow by the clock. Declare one in the app, and start a worker: "
    'app.schedule("nightly", report, cron="0 3 * * *", timezone="Europe/Berlin")',
    "aura serve app:app",
)
COLUMNS = (
    Column("name", "Schedule", "link"),
    Column("state", "State", "badge"),
    Column("words", "When"),
    Column("workflow", "Workflow", narrow=False),
    Column("next", "Next", "time"),
    Column("started", "Started", "number"),
    Column("missed", "Missed", "number", narrow=False),
)
TICKS = (Column("at", "Next ticks", "time"), Column("utc", "UTC"))
HISTORY = (
    Column("at", "When", "time"),
    Column("what", "What", "badge"),
    Column("run", "Run", "link"),
    Column("state", "Run's state", "state"),
    Column("reason", "Why", narrow=False),
)
TONES: Mapping[str, str] = {"active": "green", "paused": "amber", "deleted": "grey"}


@page("/schedules", "Schedules", about="body")
async def all_schedules(visit: Visit) -> None:
    """All of them."""
    with heading("Schedules", "Workflows that start by the clock"):
        button("New schedule", lambda: put(visit), "primary", visit.may(NEEDS))
    with card("Schedules"):
        table = Table(COLUMNS, label="Schedules", empty=NOTHING)

    def show(found: list[ScheduleView]) -> None:
        table.show(map(_row, found))

    async def look() -> list[ScheduleView]:
        found = await schedules.list_schedules(visit.app)
        return [one for one in found if visit.caller.may_see(one.workflow)]

    key = ("schedules", visit.caller.role, visit.caller.workflows)
    await visit.live(look, show, key=key)


def _row(one: ScheduleView) -> dict[str, object]:
    return {
        "id": one.name,
        "name": one.name,
        "href": path("schedules", one.name),
        "state": one.state,
        "state_tone": TONES.get(one.state, "grey"),
        "words": one.words,
        "workflow": f"{one.workflow} {one.version}",
        "next": one.next,
        "started": one.counts.started,
        "missed": one.counts.missed,
    }


@page("/schedules/{name:segment}", "Schedule", about="body", menu="/schedules")
async def one_schedule(visit: Visit, name: str) -> None:
    """The page of one of them."""
    await require_schedule(visit.app, visit.caller, name)
    first = await schedules.show_schedule(visit.app, name)
    with heading(name, f"{first.schedule.words}: {first.schedule.workflow}"):
        actions = Actions(visit, name)
    with el("div", "toolbar"):
        state = Word(first.schedule.state)
    with el("div", "stats"):
        stats = {label: Stat(label, "–") for label in ("Started", "Skipped", "Missed", "Running")}
    with el("div", "charts"):
        with card("Next"):
            nothing = Empty("It does not tick", "It is paused, or its time is over.")
            ticks = Table(TICKS, label="Next ticks", empty=nothing)
        with card("Rules"):
            facts(_rules(first.schedule))
    with card("History", classes="whole"):
        history = Table(HISTORY, label="History", empty=Empty("It has done nothing yet"))

    def show(found: ScheduleDetail) -> None:
        one = found.schedule
        actions.show(one)
        state.show(one.state)
        stats["Started"].show(f"{one.counts.started:,}")
        stats["Skipped"].show(f"{one.counts.skipped:,}", "another one still ran")
        stats["Missed"].show(f"{one.counts.missed:,}", "nobody was there")
        stats["Running"].show(f"{len(one.running):,}", f"{len(one.waiting):,} wait")
        ticks.show(
            {"id": str(at), "at": at, "utc": at.strftime("%Y-%m-%d %H:%M:%S")} for at in found.ticks
        )
        history.show(_history(found))

    key = ("schedule", name, visit.caller.role, visit.caller.workflows)
    await visit.live(lambda: schedules.show_schedule(visit.app, name), show, key=key)


def _rules(one: ScheduleView) -> dict[str, object]:
    return {
        "workflow": f"{one.workflow} {one.version}",
        "when": one.words,
        "time zone": one.timezone,
        "overlap": one.overlap,
        "missed ticks": one.missed,
        "jitter": f"{one.jitter:g} s" if one.jitter else "none",
        "deadline": f"{one.deadline:g} s" if one.deadline else "none",
        "queue": one.queue,
        "input": line(one.input),
    }


def _history(found: ScheduleDetail) -> list[dict[str, object]]:
    return [
        {
            "id": str(number), "at": one.at, "what": one.kind, "what_tone": "blue", "run": one.run,
            "href": path("runs", one.run) if one.run else None, "state": found.runs.get(one.run),
            "reason": one.reason,
        }
        for number, one in reversed(list(enumerate(found.schedule.history)))
    ]  # fmt: skip
