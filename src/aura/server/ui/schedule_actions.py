"""What a schedule is told: made, changed, triggered, paused, resumed, made up for, deleted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, get_args

from aura.engine.schedule import Missed, Overlap
from aura.errors import InvalidInput
from aura.server import schedules
from aura.server.access import Needs
from aura.server.drivers import NOBODY
from aura.server.schedules import OrderName, OrderView, ScheduleOrder, ScheduleSpec, ScheduleView
from aura.server.schedules_api import BackfillBody, ScheduleBody
from aura.server.scopes import require_schedule
from aura.server.ui.forms import Answer, Field, Form, ask, give, into
from aura.server.ui.parts import button, el
from aura.server.ui.paths import path
from aura.server.ui.visit import Order, Visit

NEEDS = Needs("operator", "body")
ASKS: Mapping[OrderName, tuple[str, str, str]] = {
    "trigger": ("Trigger now", "Start its workflow now?", "Also while it is paused."),
    "pause": (
        "Pause", "Pause the schedule?",
        "It starts nothing until it is resumed; ticks of that time are not made up for.",
    ),
    "resume": ("Resume", "Resume the schedule?", "It goes on with its next tick."),
    "delete": ("Delete", "Delete the schedule?", "What it has started goes on."),
}  # fmt: skip


class Actions:
    """The buttons that fit the state."""

    def __init__(self, visit: Visit, name: str) -> None:
        self._visit = visit
        self._name = name
        self._box = el("div", "page-actions")
        self._shown = ""

    def show(self, one: ScheduleView) -> None:
        """For this state."""
        if one.state == self._shown:
            return
        self._shown = one.state
        self._box.clear()
        refused = self._visit.may(NEEDS)
        with self._box:
            self._button("trigger")
            self._button("resume" if one.state == "paused" else "pause")
            button("Backfill", partial(_backfill, self._visit, self._name), "", refused)
            button("Change", partial(put, self._visit, one), "", refused)
            self._button("delete")

    def _button(self, order: OrderName) -> None:
        label, question, consequence = ASKS[order]
        danger = order == "delete"

        async def ask_why() -> None:
            why = await self._visit.confirm(question, consequence, label=label, danger=danger)
            if why is not None:
                wish = ScheduleOrder(order, reason=why)
                done = await _give(self._visit, self._name, wish)
                if danger and done:
                    self._visit.go("/schedules")

        button(label, ask_why, "danger" if danger else "", self._visit.may(NEEDS))


async def _give(visit: Visit, name: str, wish: ScheduleOrder, **target: str) -> bool:
    wish = replace(wish, by=visit.caller.name)

    async def act() -> OrderView:
        await require_schedule(visit.app, visit.caller, name)
        return await schedules.order_schedule(visit.app, name, wish)

    what = Order(f"schedules {wish.name}", NEEDS, {"name": name, **target})
    done = await visit.act(what, wish.reason, act)
    if done is not None:
        _say(visit, done, f"{wish.name} {name}")
    return done is not None


def _say(visit: Visit, done: OrderView, told: str) -> None:
    if done.done:
        visit.say(f"Done: {told}.")
    else:
        later = "a worker does it soon" if done.driven else f"no worker is there. {NOBODY}"
        visit.say(f"Recorded: {told}; {later}.", "" if done.driven else "problem")


async def _backfill(visit: Visit, name: str) -> None:
    form = Form(
        f"Backfill {name}",
        "Start the ticks of a time that has passed, where they have no run. Both ends count.",
        "Backfill",
        (
            Field("start", "First tick, a time with its zone: 2026-05-01T00:00:00Z"),
            Field("end", "Last tick (now, if empty)"),
        ),
    )
    answer = await ask(visit, form, into(BackfillBody))
    if answer is not None:
        body = answer.found
        wish = ScheduleOrder("backfill", start=body.start, end=body.end, reason=answer.why)
        target = {"end": body.end.isoformat()} if body.end else {}
        await _give(visit, name, wish, start=body.start.isoformat(), **target)


def _fields(one: ScheduleView | None) -> tuple[Field, ...]:
    def number(value: float | None) -> str:
        return f"{value:g}" if value else ""

    given = json.dumps(one.input.value, ensure_ascii=False) if one and one.input else "{}"
    whole = one is None or one.input is None or (one.input.whole and not one.input.encrypted)
    missed = number(one.window) if one and one.missed == "window" else one.missed if one else ""
    return (
        *(() if one else (Field("name", "Name"),)),
        Field("workflow", "Workflow", value=one.workflow if one else ""),
        Field("version", "Version or range", value=one.version if one else ""),
        Field("input", "Arguments by name, as JSON", "json", given if whole else "{}"),
        Field("cron", "Cron: minute hour day month weekday", value=one.cron if one else ""),
        Field("every", "Or every so many seconds", "number", number(one.every if one else None)),
        Field("timezone", "Time zone of the cron", value=one.timezone if one else "UTC"),
        Field(
            "overlap", "When the last run still goes on", "choice", one.overlap if one else "skip",
            get_args(Overlap),
        ),
        Field("missed", f"Missed ticks: {', '.join(_WORDS)}, or seconds", value=missed or "latest"),
        Field("jitter", "Jitter in seconds", "number", number(one.jitter if one else None)),
        Field("deadline", "Deadline in seconds", "number", number(one.deadline if one else None)),
        Field("queue", "Queue", value=(one.queue or "") if one else ""),
    )  # fmt: skip


_WORDS = tuple(one for one in get_args(Missed) if one != "window")


async def put(visit: Visit, one: ScheduleView | None = None) -> None:
    """Create a schedule, or replace this one."""
    form = Form(
        f"Change {one.name}" if one else "New schedule",
        "One that the code declares says what the code says again when a worker starts.",
        "Save" if one else "Create",
        _fields(one),
    )

    async def check(given: dict[str, Any]) -> tuple[str, ScheduleBody]:
        name = one.name if one else str(given.pop("name", ""))
        body = ScheduleBody.model_validate(given)
        if not name:
            raise InvalidInput("the schedule has no name", hint="Give it one")
        await _require(visit, name, body)
        return name, body

    async def do(answer: Answer[tuple[str, ScheduleBody]]) -> tuple[str, OrderView] | None:
        name, body = answer.found

        async def act() -> tuple[str, OrderView]:
            await _require(visit, name, body)
            options = body.model_dump(exclude={"workflow", "version", "input", "queue"})
            spec = ScheduleSpec(body.workflow, body.version, body.input, options, body.queue)
            return name, await schedules.put_schedule(visit.app, name, spec)

        target = {"name": name, "workflow": body.workflow}
        return await visit.act(Order("schedules put", NEEDS, target), answer.why, act)

    made = await give(visit, form, check, do)
    if made is not None:
        name, done = made
        if one is None:
            visit.go(path("schedules", name))
        _say(visit, done, f"{done.order} {name}")


async def _require(visit: Visit, name: str, body: ScheduleBody) -> None:
    """Raises Refused, UnknownSchedule."""
    visit.caller.require(body.workflow.partition("@")[0])
    if visit.caller.workflows:
        await require_schedule(visit.app, visit.caller, name, new=True)
