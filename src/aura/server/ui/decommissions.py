"""Targets that are taken out of service: what each waits for, its endpoints and late calls."""

from __future__ import annotations

from aura.delivery.retirement import Done, Endpoint
from aura.server import decommissions
from aura.server.decommissions import DecommissionView
from aura.server.drivers import NOBODY
from aura.server.ui.drawn import Word
from aura.server.ui.pages import page
from aura.server.ui.parts import Column, Empty, Table, button, card, el, facts, heading, link
from aura.server.ui.paths import path
from aura.server.ui.plans import ADMIN, NEEDS, start_decommission
from aura.server.ui.visit import Order, Visit
from aura.server.views import time_of

NOTHING = Empty(
    "Nothing is taken out of service",
    "When everybody has moved away from a target, its endpoints are disabled one after the other, "
    "with a grace time for late callers. Write which into a file, then type:",
    "aura decommission aura.yaml",
)
COLUMNS = (
    Column("target", "Target", "link"),
    Column("state", "State", "badge"),
    Column("endpoints", "Endpoints off"),
    Column("calls", "Calls since", "number"),
    Column("waits", "Waits for"),
)
ENDPOINTS = (
    Column("path", "Endpoint", "code"),
    Column("phase", "Phase", "badge"),
    Column("since", "Since", "time"),
    Column("until", "Grace until", "time"),
    Column("calls", "Calls since", "number"),
)
HISTORY = (
    Column("at", "When", "time"),
    Column("what", "What", "badge"),
    Column("by", "Who"),
    Column("reason", "Why"),
)
PHASES = {"on": "green", "grace": "amber", "off": "grey"}
OVER = ("archived", "undone")


@page("/decommissions", "Decommissions")
async def all_decommissions(visit: Visit) -> None:
    """All of them."""
    with heading("Decommissions", "Targets that are taken out of service, or were"):
        button(
            "Take a target out of service …", lambda: start_decommission(visit), "danger",
            visit.may(ADMIN),
        )  # fmt: skip
    with card("Targets"):
        table = Table(COLUMNS, label="Decommissions", empty=NOTHING)

    await visit.live(
        lambda: decommissions.list_decommissions(visit.app),
        lambda found: table.show(map(_row, found.targets)),
        key="decommissions",
    )


def _row(one: DecommissionView) -> dict[str, object]:
    off = sum(each.phase == "off" for each in one.endpoints)
    return {
        "id": one.target, "target": one.target, "href": path("decommissions", one.target),
        "state": one.state, "state_tone": "grey" if one.state in OVER else "blue",
        "endpoints": f"{off} of {len(one.endpoints)}", "calls": sum(one.calls.values()),
        "waits": "; ".join(one.gates),
    }  # fmt: skip


@page("/decommissions/{target:segment}", "Decommission", menu="/decommissions")
async def one_decommission(visit: Visit, target: str) -> None:
    """One target."""
    first = await decommissions.show_decommission(visit.app, target)
    with heading(first.target, "is taken out of service"):
        buttons = el("div", "page-actions")
    with el("div", "toolbar"):
        state = Word(first.state)
        gates = el("span", "muted", "")
    with card("Endpoints"):
        endpoints = Table(ENDPOINTS, label="Endpoints", empty=Empty("No endpoint is named"))
    with card("What is kept"):
        kept = el("div")
    if first.run:
        link("The run that does it", path("runs", first.run))
    with card("History", "who did what, when and why", "whole"):
        history = Table(HISTORY, label="History", empty=Empty("Nothing has happened yet"))
    shown = ""

    def show(one: DecommissionView) -> None:
        nonlocal shown
        state.show(one.state)
        gates.show(f"Waits for {'; '.join(one.gates)}" if one.gates else "")
        endpoints.show(_endpoint(each, one.calls.get(each.path, 0)) for each in one.endpoints)
        history.show(_event(at, each) for at, each in reversed(list(enumerate(one.history))))
        if one.state != shown:
            shown = one.state
            buttons.clear()
            with buttons:
                if one.state not in OVER:
                    button("Undo", lambda: _undo(visit, target), "danger", visit.may(NEEDS))
            kept.clear()
            with kept:
                facts({"backup": _backup(one), "archive": one.archive, "instead": one.link})

    key = ("decommission", target)
    await visit.live(lambda: decommissions.show_decommission(visit.app, target), show, key=key)


def _backup(one: DecommissionView) -> str:
    return ", ".join(f"{name}: {value}" for name, value in one.backup.items())


def _endpoint(one: Endpoint, calls: int) -> dict[str, object]:
    return {
        "id": one.path, "path": one.path, "phase": one.phase,
        "phase_tone": PHASES.get(one.phase, "grey"),
        "since": time_of(one.since) if one.since else None,
        "until": time_of(one.until) if one.until else None,
        "calls": calls,
    }  # fmt: skip


def _event(number: int, one: Done) -> dict[str, object]:
    return {
        "id": str(number), "at": time_of(one.at), "what": one.what, "what_tone": "blue",
        "by": one.by or "the plan", "reason": one.reason,
    }  # fmt: skip


async def _undo(visit: Visit, target: str) -> None:
    why = await visit.confirm(
        f"Bring {target} back?", "Every endpoint is enabled again.", label="Undo", danger=True
    )
    if why is None:
        return
    done = await visit.act(
        Order("decommission undo", NEEDS, {"target": target}), why,
        lambda: decommissions.undo_decommission(
            visit.app, target, by=visit.caller.name, reason=why
        ),
    )  # fmt: skip
    if done is not None:
        later = "" if done.driven else f" No live worker is there to carry it out. {NOBODY}"
        visit.say(f"{target} is told to come back.{later}", "" if done.driven else "problem")
