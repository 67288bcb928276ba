"""One experiment: what it has found so far, with confidence sequences over time."""

from __future__ import annotations

from aura.delivery.analysis import Comparison
from aura.delivery.conclude import Order as Say
from aura.delivery.experiment_status import ExperimentStatus
from aura.delivery.report import counted, interval, percent, plot, shown
from aura.server import experiments
from aura.server.drivers import NOBODY
from aura.server.learning_api import UnitRewardBody
from aura.server.ui import charts
from aura.server.ui.drawn import TONES, Drawing, Share, Traffic, Word
from aura.server.ui.experiments import NEEDS
from aura.server.ui.forms import Field, Form, ask, into
from aura.server.ui.pages import page
from aura.server.ui.parts import Click, Column, Empty, Stat, Table, button, card, el, heading
from aura.server.ui.visit import Order, Visit
from aura.server.views import time_of

ARMS = (
    Column("arm", "Arm"),
    Column("note", "Role"),
    Column("share", "Share now", "share"),
    Column("units", "Units", "number"),
    Column("expected", "Expected", "number"),
)
METRICS = (
    Column("metric", "Metric"),
    Column("arm", "Arm"),
    Column("verdict", "Verdict", "badge"),
    Column("relative", "Relative", "number"),
    Column("difference", "Difference", "number"),
    Column("interval", "Interval", "number"),
    Column("mean", "Mean (baseline)", "number", narrow=False),
    Column("p", "p", "number", narrow=False),
    Column("reduction", "Variance removed", "share", narrow=False),
)
GUARDS = (
    Column("arm", "Arm"),
    Column("guard", "Guard"),
    Column("verdict", "Verdict", "badge"),
    Column("evidence", "Evidence"),
    Column("reason", "Why"),
)
HISTORY = (
    Column("at", "When", "time"),
    Column("what", "What", "badge"),
    Column("by", "Who"),
    Column("reason", "Why"),
)


@page("/experiments/{name:segment}", "Experiment", menu="/experiments")
async def one_experiment(visit: Visit, name: str) -> None:
    """The page of one of them."""
    first = await experiments.show_experiment(visit.app, name)
    arms = ", ".join(arm for arm, _ in first.experiment.arms)
    with heading(first.name, f"split {first.split}: {arms}"):
        actions = Actions(visit, name)
    view = View(first)

    def show(status: ExperimentStatus) -> None:
        actions.show(status)
        view.show(status)

    key = ("experiment", name)
    await visit.live(lambda: experiments.show_experiment(visit.app, name), show, key=key)


class Actions:
    """Stop it, or end it with an arm as the winner."""

    def __init__(self, visit: Visit, name: str) -> None:
        self._visit = visit
        self._name = name
        self._box = el("div", "page-actions")
        self._shown: tuple[object, ...] | None = None

    def show(self, status: ExperimentStatus) -> None:
        """The buttons that fit."""
        live = [
            arm
            for arm, _ in status.experiment.arms
            if arm != status.experiment.baseline and arm not in status.dropped
        ]
        shown_now = (status.ended, *live)
        if shown_now == self._shown:
            return
        self._shown = shown_now
        self._box.clear()
        if status.ended:
            return
        why_not = self._visit.may(NEEDS)
        with self._box:
            for arm in live:
                button(f"Promote {arm}", self._promote(arm), "", why_not)
            button("Reward a unit", self._reward, "", why_not)
            button("Stop", self._stop, "danger", why_not)

    async def _stop(self) -> None:
        consequence = "It ends without a winner, and everybody goes to the baseline."
        await self._give("stop", "Stop the experiment?", consequence, "")

    async def _reward(self) -> None:
        visit, name = self._visit, self._name
        form = Form(
            "Reward a unit", "What it turned out to be worth, be it days later.", "Reward",
            (
                Field("unit", "Unit"),
                Field("metric", "Metric"),
                Field("value", "Value", "number"),
                Field("id", "Id: two rewards of the same one are one"),
            ),
        )  # fmt: skip
        answer = await ask(visit, form, into(UnitRewardBody))
        if answer is not None:
            one = answer.found
            target = {"name": name, "metric": one.metric} | ({"id": one.id} if one.id else {})
            await visit.act(
                Order("experiment reward", NEEDS, target), answer.why,
                lambda: experiments.reward_unit(
                    visit.app, name, (one.unit, one.metric, one.value), one.id
                ),
                "The reward is durable.",
            )  # fmt: skip

    def _promote(self, arm: str) -> Click:
        async def promote() -> None:
            consequence = f"It ends with {arm} as the winner. You answer for what is missing."
            await self._give("promote", f"Promote {arm}?", consequence, arm)

        return promote

    async def _give(self, order: Say, question: str, consequence: str, arm: str) -> None:
        visit, name = self._visit, self._name
        why = await visit.confirm(
            question, consequence, label=order.capitalize(), danger=order == "stop"
        )
        if why is None:
            return
        target = {"name": name} | ({"arm": arm} if arm else {})
        done = await visit.act(
            Order(f"experiment {order}", NEEDS, target),
            why,
            lambda: experiments.order_experiment(
                visit.app, name, order, by=visit.caller.name, reason=why, arm=arm
            ),
        )
        if done is not None:
            told = f"{name} is told to {order}."
            visit.say(told if done.driven else f"{told} No worker carries it out. {NOBODY}")


class View:
    """What was found."""

    def __init__(self, status: ExperimentStatus) -> None:
        self._ratio = el("div", "stack")
        self._ratio_shown = False
        with card(classes="hero"):
            with el("div", "hero-line"):
                self._state = Word(status.state)
                self._reason = el("p", "hero-reason", "")
            self._bar = Traffic(_shares(status), f"Split {status.split}")
        with el("div", "stats"):
            primary = status.experiment.primary
            better = "higher" if primary.sign > 0 else "lower"
            self._difference = Stat(f"{primary.name}, {better} is better", "–")
            self._p = Stat("p, valid at every look", "–")
            self._units = Stat("Units", "–")
            self._sample = Stat("Sample ratio", "–")
        candidates = len(status.experiment.arms) - 1
        beside = len(status.experiment.metrics) * candidates % 2 == 1  # else a half row stays empty
        self._plots: dict[tuple[str, str], Drawing] = {}
        with el("div", "charts"):
            self._plots_box = el("div", "contents")
            if beside:
                self._arms = _arms_card()
        with el("div", "charts"):
            if not beside:
                self._arms = _arms_card()
            with card("Guards"):
                nothing = Empty("No guards", "Add some to the experiment's file: guards: [errors]")
                self._guards = Table(GUARDS, label="Guards", empty=nothing)
        with card("Metrics", "intervals hold at all times at once"):
            nothing = Empty("No comparison yet", "Units have no final value yet.")
            self._metrics = Table(METRICS, label="Metrics", empty=nothing)
        with card("Counts"):
            self._counts = el("p", "muted", "")
        with card("History", "who did what, when and why", "whole"):
            self._history = Table(HISTORY, label="History", empty=Empty("Nothing happened yet"))

    def show(self, status: ExperimentStatus) -> None:
        """As it is now."""
        self._state.show(status.state)
        self._reason.show(status.reason)
        self._bar.show(_shares(status))
        self._numbers(status)
        self._draw(status)
        self._metrics.show(_metric_row(n, one) for n, one in enumerate(status.comparisons))
        self._arms.show(_arm_rows(status))
        self._guards.show(_guard_rows(status))
        self._counts.show("; ".join(counted(status)))
        self._history.show(
            {
                "id": str(number), "at": time_of(one.at), "what": one.what, "what_tone": "blue",
                "by": one.by or "the experiment", "reason": one.reason,
            }
            for number, one in reversed(list(enumerate(status.history)))
        )  # fmt: skip

    def _numbers(self, status: ExperimentStatus) -> None:
        ratio = status.ratio
        if status.comparisons:
            first = status.comparisons[0]
            bounds = interval(first.low, first.high)
            self._difference.show(percent(first.relative), f"{first.arm}: {bounds}")
            self._p.show(charts.number(first.p), first.verdict)
        if ratio is not None:
            expected = f"evidence {charts.number(ratio.evidence)} of {charts.number(ratio.limit)}"
            self._units.show(f"{sum(ratio.units.values()):,}", f"{len(ratio.units)} arms")
            self._sample.show("wrong" if ratio.tripped else "right", expected)
        if ratio is not None and ratio.tripped and not self._ratio_shown:
            self._ratio_shown = True
            with self._ratio, el("div", "problem", role="alert"):
                el("strong", "", "The sample-ratio check has failed")
                el("p", "", "Units get lost on the way: nothing below can be believed.")

    def _draw(self, status: ExperimentStatus) -> None:
        for number, one in enumerate(status.comparisons):
            place = (one.metric, one.arm)
            if place not in self._plots:
                with self._plots_box, card(f"{one.metric}: {one.arm}", "difference over time"):
                    self._plots[place] = Drawing()
            self._plots[place].show(
                f'<div class="chart">{plot(one, status.began, number)}</div>'
                if len(one.points) > 1
                else charts.nothing("Not enough units with a final value yet.")
            )


def _arms_card() -> Table:
    with card("Arms"):
        return Table(ARMS, label="Arms")


def _shares(status: ExperimentStatus) -> list[Share]:
    return [Share(arm, status.weights.get(arm, 0.0)) for arm, _ in status.experiment.arms]


def _metric_row(number: int, one: Comparison) -> dict[str, object]:
    return {
        "id": f"{one.metric} {one.arm}",
        "metric": one.metric if number else f"{one.metric} (primary)",
        "arm": one.arm,
        "verdict": one.verdict,
        "verdict_tone": TONES.get(one.verdict, "grey"),
        "difference": shown(one.difference, signed=True),
        "interval": interval(one.low, one.high),
        "relative": percent(one.relative),
        "mean": f"{shown(one.mean)} ({shown(one.baseline_mean)})",
        "p": charts.number(one.p),
        "reduction": one.reduction,
    }


def _arm_rows(status: ExperimentStatus) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for index, (arm, _) in enumerate(status.experiment.arms):
        note = "baseline" if index == 0 else "candidate"
        note = "winner" if arm == status.winner else "dropped" if arm in status.dropped else note
        ratio = status.ratio
        rows.append(
            {
                "id": arm, "arm": arm, "note": note,
                "share": status.weights.get(arm, 0.0),
                "units": ratio.units.get(arm, 0) if ratio else 0,
                "expected": round(ratio.expected.get(arm, 0.0), 1) if ratio else None,
            }
        )  # fmt: skip
    return rows


def _guard_rows(status: ExperimentStatus) -> list[dict[str, object]]:
    return [
        {
            "id": f"{arm} {one.guard}", "arm": arm, "guard": one.guard, "verdict": one.verdict,
            "verdict_tone": TONES.get(one.verdict, "grey"), "reason": one.reason,
            "evidence": f"{charts.number(one.evidence)} of {charts.number(one.limit)}",
        }
        for arm, found in (status.guards or {}).items()
        for one in found
    ]  # fmt: skip
