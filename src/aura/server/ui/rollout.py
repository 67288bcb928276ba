"""One rollout: where its traffic goes now, which stage it is in, what the guards say and have said,
how both arms answer, who did what and why; and the buttons that steer it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from aura.delivery.curve import Curve, Latencies, Point
from aura.delivery.decide import Order as OrderName
from aura.delivery.status import ArmStatus, GuardStatus, PairStatus, RolloutStatus, StageStatus
from aura.server import emergencies, rollouts, shadows
from aura.server.drivers import NOBODY
from aura.server.emergencies import ForcedView
from aura.server.rollouts import HistoryView
from aura.server.ui import charts
from aura.server.ui.backtest import show_backtest
from aura.server.ui.charts import Bucket, Hill
from aura.server.ui.differences import Differences
from aura.server.ui.drawn import TONES, Drawing, Ladder, Meter, Traffic, Word, percent
from aura.server.ui.forms import Field, Form, as_given, ask
from aura.server.ui.pages import page
from aura.server.ui.parts import Click, Column, Empty, Stat, Table, button, card, el, heading
from aura.server.ui.paths import path
from aura.server.ui.plans import backtest
from aura.server.ui.rollouts import LOOK, NEEDS, forced_line, shares, to_the_baseline
from aura.server.ui.visit import Order, Visit
from aura.server.views import time_of
from aura.spans import span

SLOWLY = 2.0
"""Seconds between two looks at curves, reports and history."""

STAGES = (
    Column("name", "Stage"),
    Column("requests", "Requests", "number"),
    Column("errors", "Errors (baseline)"),
    Column("p95", "p95 (baseline)"),
)
HISTORY = (
    Column("at", "When", "time"),
    Column("what", "What", "badge"),
    Column("by", "Who"),
    Column("reason", "Why"),
)
EARLIER = (
    Column("run", "Run", "link"),
    Column("state", "Ended", "badge"),
    Column("arms", "From and to", narrow=False),
    Column("reason", "Why"),
    Column("at", "When", "time"),
)


class _Ask(NamedTuple):
    """A button: the order, what it says, what follows from it, and in which states it is shown."""

    order: OrderName
    label: str
    question: str
    consequence: str
    states: tuple[str, ...]
    tone: str = ""


ASKS = (
    _Ask(
        "advance", "Advance", "Go on to the next stage?",
        "It goes on now, without waiting for the evidence and the time that the plan asks for. You "
        "answer for what is missing.", ("running", "held", "paused"),
    ),
    _Ask(
        "pause", "Pause", "Pause the rollout?",
        "Shares stay as they are and the clock of the stage stops. Guards go on watching.",
        ("running",),
    ),
    _Ask(
        "hold", "Hold", "Hold the rollout?",
        "Shares stay as they are until somebody resumes it; then the stage begins anew.",
        ("running", "descending", "paused"),
    ),
    _Ask(
        "resume", "Resume", "Resume the rollout?", "It goes on with its stage.",
        ("held", "paused"), "primary",
    ),
    _Ask(
        "retry", "Retry the stage", "Begin the stage anew?",
        "Its requests and its clock count from zero again.", ("running", "held", "paused"),
    ),
    _Ask(
        "rollback", "Roll back", "Send everybody back to {baseline}?",
        "All traffic goes back at once, and the rollout ends.",
        ("running", "held", "paused", "descending"), "danger",
    ),
)  # fmt: skip


@page("/rollouts/{name:segment}", "Rollout", menu="/rollouts")
async def one_rollout(visit: Visit, name: str) -> None:
    """The page of one of them."""
    first = await rollouts.show_rollout(visit.app, name)
    arms = f"{first.baseline} → {first.candidate}"
    begun = f", begun by {first.by}" if first.by else ""
    with heading(first.name, f"split {first.split}: {arms}{begun}"):
        actions = Actions(visit, name)
    now = Now(first)
    detail = Details(visit, first)

    async def look() -> tuple[RolloutStatus, tuple[ForcedView, ...]]:
        status = await rollouts.show_rollout(visit.app, name)
        found = (await emergencies.forced(visit.app)).splits
        return status, tuple(one for one in found if one.split in status.splits)

    def show(found: tuple[RolloutStatus, tuple[ForcedView, ...]]) -> None:
        status, forced = found
        actions.show(status)
        now.show(status, forced, visit)
        detail.show(status)

    await visit.live(look, show, key=("rollout", name), every=LOOK)
    await detail.follow()


class Actions:
    """The buttons that fit the state."""

    def __init__(self, visit: Visit, name: str) -> None:
        self._visit = visit
        self._name = name
        self._box = el("div", "page-actions")
        self._shown: tuple[object, ...] | None = None

    def show(self, status: RolloutStatus) -> None:
        """For this state."""
        wanted = status.approval
        asks = wanted is not None and wanted.asked_at is not None
        shown = (status.state, asks, status.baseline, status.stage)
        if shown == self._shown:
            return
        self._shown = shown
        why_not = self._visit.may(NEEDS)
        self._box.clear()
        with self._box:
            if asks:
                button(f"Approve {status.stage}", self._approve(status, True), "primary", why_not)
                button("Refuse", self._approve(status, False), "", why_not)
            for order in ASKS:
                if status.state in order.states:
                    button(order.label, self._give(order, status), order.tone, why_not)
            later = [one.name for one in status.stages[status.stage_index + 1 :]]
            if not status.ended and later:
                button("Skip to a stage", lambda: self._skip(later), "", why_not)
            button("Try another plan", self._backtest, "", why_not)
            if not status.ended:
                names = status.splits
                button(
                    "Force the baseline …", lambda: to_the_baseline(self._visit, names), "danger",
                    why_not,
                )  # fmt: skip

    async def _skip(self, later: Sequence[str]) -> None:
        visit, name = self._visit, self._name
        form = Form(
            "Skip to a later stage?",
            "It goes on there now, without the stages between. You answer for what is missing.",
            "Skip",
            (Field("stage", "Stage", "choice", options=tuple(later)),),
        )
        answer = await ask(visit, form, as_given)
        if answer is None:
            return
        why, stage = answer.why, str(answer.found["stage"])
        done = await visit.act(
            Order("rollout skip", NEEDS, {"name": name, "stage": stage}), why,
            lambda: rollouts.order_rollout(
                visit.app, name, "skip", by=visit.caller.name, reason=why, stage=stage
            ),
        )  # fmt: skip
        if done is not None:
            _say(visit, done, f"{name} is told to skip to {stage}.")

    async def _backtest(self) -> None:
        found = await backtest(self._visit, self._name)
        if found is not None:
            show_backtest(self._visit, found)

    def _give(self, ask: _Ask, status: RolloutStatus) -> Click:
        async def give() -> None:
            visit, name = self._visit, self._name
            question = ask.question.format(baseline=status.baseline)
            why = await visit.confirm(
                question, ask.consequence, label=ask.label, danger=ask.tone == "danger"
            )
            if why is None:
                return
            done = await visit.act(
                Order(f"rollout {ask.order}", NEEDS, {"name": name}),
                why,
                lambda: rollouts.order_rollout(
                    visit.app, name, ask.order, by=visit.caller.name, reason=why
                ),
            )
            if done is not None:
                _say(visit, done, f"{name} is told to {ask.order}.")

        return give

    def _approve(self, status: RolloutStatus, ok: bool) -> Click:
        async def say() -> None:
            visit, name, stage = self._visit, self._name, status.stage
            what = "Approve" if ok else "Refuse to approve"
            why = await visit.confirm(
                f"{what} stage {stage}?",
                "The rollout goes on when it has what else it needs."
                if ok
                else "What follows is what the plan says.",
                label=what, danger=not ok,
            )  # fmt: skip
            if why is None:
                return
            target = {"name": name, "stage": stage} | ({} if ok else {"refuse": "True"})
            done = await visit.act(
                Order("rollout approve", NEEDS, target),
                why,
                lambda: rollouts.approve_rollout(
                    visit.app, name, by=visit.caller.name, reason=why, stage=stage, ok=ok
                ),
            )
            if done is not None:
                _say(visit, done, f"Stage {stage} is {done.order}.")

        return say


def _say(visit: Visit, done: rollouts.OrderView, told: str) -> None:
    if not done.driven:
        told += f" No live worker is there to carry it out. {NOBODY}"
    visit.say(told, "" if done.driven else "problem")


class Now:
    """What is current: traffic, stage, and the state in a sentence."""

    def __init__(self, status: RolloutStatus) -> None:
        self._forced_box = el("div", "stack")
        self._forced: tuple[ForcedView, ...] | None = None
        with card(classes="hero"):
            with el("div", "hero-line"):
                self._state = Word(status.state)
                self._reason = el("p", "hero-reason", "")
            self._notes = el("p", "hero-note", "")
            self._arms: tuple[tuple[str, str, str], ...] = ()
            self._bar_box = el("div", "stack")
            self._bars: list[Traffic] = []
            self._ladder = Ladder()
        with el("div", "stats"):
            self._share = Stat("On the candidate", "–")
            self._requests = Stat("Requests in this stage", "–")
            self._errors = Stat("Errors of the candidate", "–")
            self._p95 = Stat("95 % of its answers within", "–")

    def show(self, status: RolloutStatus, forced: tuple[ForcedView, ...], visit: Visit) -> None:
        """As it is now."""
        if forced != self._forced:
            self._forced = forced
            self._forced_box.clear()
            with self._forced_box:
                for one in forced:
                    forced_line(visit, one)
        self._state.show(status.state)
        self._reason.show(status.reason)
        self._notes.show("; ".join(status.notes))
        self._traffic(status)
        self._ladder.show(status.stages)
        self._numbers(status.stages[status.stage_index], status)

    def _traffic(self, status: RolloutStatus) -> None:
        arms = tuple((pair.split, pair.baseline, pair.candidate) for pair in status.pairs)
        if arms != self._arms:  # another run of the same name
            self._arms = arms
            self._bar_box.clear()
            with self._bar_box:
                self._bars = [
                    Traffic(shares(pair), f"Traffic of split {pair.split}") for pair in status.pairs
                ]
        for bar, pair in zip(self._bars, status.pairs, strict=True):
            bar.show(shares(pair))

    def _numbers(self, stage: StageStatus, status: RolloutStatus) -> None:
        candidate, baseline = stage.candidate, stage.baseline
        self._share.show(percent(status.weight), f"stage {stage.name}")
        self._requests.show(
            f"{candidate.requests:,}", f"of {candidate.requests + baseline.requests:,} in all"
        )
        self._errors.show(rate(candidate), f"baseline {rate(baseline)}")
        self._p95.show(ms(candidate.p95_ms), f"baseline {ms(baseline.p95_ms)}")


def rate(arm: ArmStatus) -> str:
    """The part of an arm's requests that failed."""
    return f"{100 * arm.errors / arm.requests:.2g} %" if arm.requests else "–"


def ms(value: float | None) -> str:
    """Milliseconds in their fitting unit."""
    return "–" if value is None else span(value / 1000)


class Details:
    """What is looked at closer: guards over time, latencies, differences, stages, history."""

    def __init__(self, visit: Visit, status: RolloutStatus) -> None:
        self._visit = visit
        self._name = status.name
        self._guards: dict[tuple[str, str], Guard] = {}
        self._several = len(status.pairs) > 1
        self._guard_box = el("div", "charts")
        with el("div", "charts"):
            with card("Latencies"):
                self._told = el("p", "muted chart-hint", "")
                self._latencies = Drawing()
            with card("Stages"):
                self._stages = Table(STAGES, label="Both arms by stage")
        self._differences = Differences(visit)
        with card("History", "who did what, when and why", "whole"):
            nothing = Empty("Nothing has happened yet", "A worker has not taken it up.")
            self._history = Table(HISTORY, label="History", empty=nothing)
        self._earlier_box = el("div", "stack")
        self._earlier: Table | None = None
        self._in_flight = InFlightLine()
        self._status = status
        self.show(status)

    def show(self, status: RolloutStatus) -> None:
        """As it is now."""
        self._status = status
        self._stages.show(_stage_rows(status))
        self._history.show(_history_rows(status))
        self._in_flight.show(status)
        for pair in status.pairs:
            for one in pair.evidence:
                place = (pair.split, one.guard)
                if place not in self._guards:
                    with self._guard_box:
                        self._guards[place] = Guard(one, pair.split if self._several else "")
                self._guards[place].show(one)

    async def follow(self) -> None:
        """What costs more, less often."""
        name, app = self._name, self._visit.app

        async def look() -> tuple[Curve, HistoryView, tuple[shadows.ReportView, ...]]:
            curve, past = await asyncio.gather(
                rollouts.curve_of(app, name), rollouts.history_of(app, name)
            )
            splits = [pair.split for pair in self._status.pairs]
            found = [await shadows.show_shadows(app, split) for split in splits]
            return curve, past, tuple(one for each in found for one in each.reports)

        await self._visit.live(look, self._shown, key=("rollout-details", name), every=SLOWLY)

    def _shown(self, found: tuple[Curve, HistoryView, tuple[shadows.ReportView, ...]]) -> None:
        curve, past, reports = found
        for (split, guard), drawn in self._guards.items():
            drawn.draw(curve, split, guard, ended=self._status.ended)
        self._draw_latencies(curve)
        self._differences.show(reports)
        self._show_earlier(past)

    def _draw_latencies(self, curve: Curve) -> None:
        pair = self._status.pairs[0]
        hills, stage = hills_of(curve.latencies, pair)
        self._told.show(f"Stage {stage}: {pair.baseline} and {pair.candidate}" if stage else "")
        self._latencies.show(charts.latencies(hills))

    def _show_earlier(self, past: HistoryView) -> None:
        rows = [
            {
                "id": one.run, "run": one.run, "href": path("runs", one.run), "state": one.state,
                "state_tone": TONES.get(one.state, "grey"),
                "arms": f"{one.baseline} → {one.candidate}", "reason": one.reason,
                "at": time_of(one.history[-1].at) if one.history else None,
            }
            for one in reversed(past.runs)
            if one.run != self._status.run
        ]  # fmt: skip
        if rows and self._earlier is None:
            with self._earlier_box, card("Earlier", "runs of the same name"):
                self._earlier = Table(EARLIER, label="Earlier rollouts of the same name")
        if self._earlier is not None:
            self._earlier.show(rows)


class Guard:
    """A guard: its verdict, its reason in words, and its evidence over time."""

    def __init__(self, found: GuardStatus, split: str) -> None:
        with card(f"Guard: {found.guard}", split):
            with el("div", "guard-line"):
                self._verdict = Word(found.verdict)
                self._meter = Meter("evidence")
            self._reason = el("p", "muted chart-hint", "")
            self._drawing = Drawing()

    def show(self, found: GuardStatus) -> None:
        """What it says now."""
        self._verdict.show(found.verdict)
        self._meter.show(found)
        self._reason.show(found.reason)

    def draw(self, curve: Curve, split: str, guard: str, *, ended: bool) -> None:
        """Its evidence over time."""
        points = [
            (point.at, tell.evidence[guard])
            for point in curve.points
            for tell in point.splits
            if tell.split == split and guard in tell.evidence
        ]
        limit = curve.limits.get(guard)
        if limit is None:
            self._drawing.show(charts.nothing("No evidence yet."))
            return
        end = "the end" if ended else "now"
        marks = list(stage_marks(curve.points))
        self._drawing.show(charts.evidence(guard, points, limit, marks, end=end))


def stage_marks(points: Sequence[Point]) -> Iterator[tuple[float, str]]:
    """When each stage began."""
    if points:
        yield points[0].at, points[0].stage
    for one, other in pairwise(points):
        if one.stage != other.stage:
            yield other.at, other.stage


def hills_of(found: Sequence[Latencies], pair: PairStatus) -> tuple[list[Hill], str]:
    """The latencies of both arms, the baseline first, in the last stage in which the candidate had
    any; and that stage's name."""
    mine = [one for one in found if one.split == pair.split]
    stage = next((one.stage for one in reversed(mine) if one.arm == pair.candidate), "")
    arms = {one.arm: one for one in mine if one.stage == stage}
    order = [arm for arm in (pair.baseline, pair.candidate) if arm in arms]
    hills = [
        Hill(arm, [Bucket(low / 1000, high / 1000, n) for low, high, n in arms[arm].buckets])
        for arm in order
    ]
    return hills, stage


class InFlightLine:
    """What became of the candidate's runs after a rollback."""

    def __init__(self) -> None:
        self._box = el("div", "hidden")
        with self._box, card("Runs in flight", "of the candidate, at the rollback"):
            self._told = el("p", "", "")

    def show(self, status: RolloutStatus) -> None:
        """When there is something to tell."""
        found = status.in_flight
        if found is None:
            return
        counts = ", ".join(f"{count:,} {what}" for what, count in found.counts.items())
        self._told.show(f"By the plan's policy ({found.policy}): {counts or 'there were none'}.")
        self._box.classes(replace="")


def _stage_rows(status: RolloutStatus) -> list[dict[str, object]]:
    return [
        {
            "id": f"{pair.split} {stage.name}",
            "name": stage.name if len(status.pairs) == 1 else f"{pair.split}: {stage.name}",
            "requests": stage.candidate.requests,
            "errors": f"{rate(stage.candidate)} ({rate(stage.baseline)})",
            "p95": f"{ms(stage.candidate.p95_ms)} ({ms(stage.baseline.p95_ms)})",
        }
        for pair in status.pairs
        for stage in pair.stages
    ]


_TOLD = {"rollback": "red", "descend": "amber", "hold": "amber", "complete": "green"}


def _history_rows(status: RolloutStatus) -> list[dict[str, object]]:
    return [
        {
            "id": str(number),
            "at": time_of(one.at),
            "what": one.what,
            "what_tone": _TOLD.get(one.what, "blue"),
            "by": one.by or "the plan",
            "reason": one.reason,
        }
        for number, one in reversed(list(enumerate(status.history)))
    ]
