"""The first page: how it all stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aura.delivery.status import RolloutStatus
from aura.server import operations, outline
from aura.server.operations import Overview
from aura.server.trends import Trend
from aura.server.ui.charts import sparkline
from aura.server.ui.drawn import Drawing
from aura.server.ui.first import first_command
from aura.server.ui.pages import page
from aura.server.ui.parts import Column, Empty, Stat, Table, card, el, empty, heading
from aura.server.ui.paths import path
from aura.server.ui.rollouts import UnderWay
from aura.server.ui.visit import Visit
from aura.server.views import RunView, WorkerView
from aura.spans import span

WORKERS = (
    Column("host", "Worker", "link"),
    Column("pid", "Process", "code", narrow=False),
    Column("runs", "Runs", "number"),
    Column("workflows", "Workflows", "number", narrow=False),
    Column("started_at", "Since", "time"),
)
TROUBLE = (
    Column("id", "Run", "link"),
    Column("state", "State", "state"),
    Column("error", "Why"),
    Column("at", "When", "time"),
)
NOBODY = Empty("No worker is running", "Runs wait until there is one.", "aura worker app:app")
CALM = Empty("Nothing needs you", "Runs that failed or were parked would be here.")
FIRST = Empty(
    "Nothing has run yet",
    "Start a run from the command line, the API or your own code; it appears here at once.",
)
TONES = {
    "running": "blue", "waiting": "violet", "pending": "violet", "completed": "green",
    "failed": "red", "parked": "amber", "cancelled": "grey", "moved": "grey",
}  # fmt: skip


@page("/", "Overview")
async def overview(visit: Visit) -> None:
    """Numbers, states, what needs somebody, rollouts under way, workers."""
    heading("Overview", visit.app.name)
    numbers = _Numbers()
    with el("div", "grid overview-grid"):
        with card("Runs by state"):
            states = _States(replace(FIRST, command=first_command(visit.app)))
        with card("Needs attention", "parked, and failed lately"):
            trouble = Table(TROUBLE, label="Runs that need attention", empty=CALM)
    with el("div", "stack"):
        under_way = _Rollouts()
    with card("Workers"):
        workers = Table(WORKERS, label="Workers", empty=NOBODY)

    def show(found: tuple[Overview, Trend]) -> None:
        numbers.show(*found)
        states.show(found[0].runs)
        workers.show(_worker(one) for one in found[0].workers)

    async def look() -> tuple[Overview, Trend]:
        return await operations.overview(visit.app), visit.trends.now()

    await visit.live(look, show, key="overview")
    await visit.live(
        lambda: outline.troubled(visit.app),
        lambda found: trouble.show(_trouble(one) for one in found),
        key="troubled",
    )
    await visit.live(visit.app.rollouts.all, under_way.show, key="overview rollouts")


class _Rollouts:
    """A card for each that is under way; a line where there are none."""

    def __init__(self) -> None:
        with el("div") as self._none, card("Rollouts under way"):
            el("p", "muted", "None: nothing is being replaced just now.")
        self._some = el("div", "stack")
        self._under_way: UnderWay | None = None

    def show(self, found: Sequence[RolloutStatus]) -> None:
        """These, without those that have ended."""
        moving = [one for one in found if not one.ended]
        self._none.set_visibility(not moving)
        self._some.set_visibility(bool(moving))
        if moving and self._under_way is None:
            with self._some:
                self._under_way = UnderWay()
        if moving and self._under_way is not None:
            self._under_way.show(moving, none_at_all=False)


class _Numbers:
    """Throughput, latency, errors, work under way, parked work and workers."""

    def __init__(self) -> None:
        with el("div", "stats"):
            self._rate, self._rates = _with_line("Throughput")
            self._slow, self._slows = _with_line("Latency, 95 %")
            self._errors, self._failures = _with_line("Errors")
            self._active = Stat("Under way", "–")
            with el("a", "stat-link", href="/runs?state=parked"):
                self._parked = Stat("Parked", "–")
            self._workers = Stat("Workers", "–")

    def show(self, found: Overview, trend: Trend) -> None:
        """As it is now."""
        runs = found.runs
        self._rate.show(f"{trend.rate:,.1f} /s", "runs ended")
        self._rates.show(sparkline("Throughput", trend.rates))
        slow = span(trend.slow)
        half = "runs of this process" if trend.median is None else f"50 %: {span(trend.median)}"
        self._slow.show(slow, half)
        self._slows.show(sparkline("Latency", trend.latencies))
        share = "–" if trend.errors is None else f"{100 * trend.errors:.1f} %"
        self._errors.show(share, f"{sum(trend.failures):,} failed, 10 min")
        self._failures.show(sparkline("Errors", trend.failures))
        active = runs["running"] + runs["waiting"] + runs["pending"]
        self._active.show(f"{active:,}", f"{runs['running']:,} running now")
        self._parked.show(f"{runs['parked']:,}", "wait for a person" if runs["parked"] else "none")
        held = sum(one.runs for one in found.workers)
        self._workers.show(f"{len(found.workers):,}", f"{held:,} runs in memory")


def _with_line(label: str) -> tuple[Stat, Drawing]:
    with el("div", "stat-with-line"):
        return Stat(label, "–"), Drawing(sparkline(label, ()))


class _States:
    """A bar for each state, in proportion."""

    def __init__(self, first: Empty) -> None:
        self._lines: dict[str, tuple[Any, Any]] = {}
        with el("div", "states") as self._box:
            for state in TONES:
                with el("a", "state-line", href=f"/runs?state={state}"):
                    el("span", f"dot-word {TONES[state]}", state)
                    with el("span", "state-bar"):
                        bar = el("span", f"state-part {TONES[state]}")
                    self._lines[state] = el("span", "number", "–"), bar
        self._first = el("div")
        with self._first:
            empty(first)

    def show(self, runs: dict[str, int]) -> None:
        """How many are in each state."""
        none = not sum(runs.values())
        self._box.classes(replace="states hidden" if none else "states")
        self._first.classes(replace="" if none else "hidden")
        most = max(1, *runs.values())
        for state, (count, bar) in self._lines.items():
            there = runs.get(state, 0)
            count.show(f"{there:,}")
            bar.style(replace=f"width: {100 * there / most:.1f}%")


def _worker(one: WorkerView) -> dict[str, Any]:
    return {
        "id": one.id, "host": one.host, "href": path("workers", one.id), "pid": one.pid,
        "runs": one.runs, "workflows": len(one.workflows), "started_at": one.started_at,
    }  # fmt: skip


def _trouble(one: RunView) -> dict[str, Any]:
    return {
        "id": one.id, "href": path("runs", one.id), "state": one.state,
        "error": f"{one.error.type}: {one.error.message}"[:140] if one.error else "",
        "at": one.finished_at or one.created_at,
    }  # fmt: skip
