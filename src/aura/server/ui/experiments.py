"""Experiments: all of them with their layers, and what learns by itself: splits and choices."""

from __future__ import annotations

from typing import NamedTuple

from aura.delivery.experiment_status import ExperimentStatus
from aura.delivery.report import interval, percent
from aura.server import experiments, flows
from aura.server.access import Needs
from aura.server.experiments import ExperimentList
from aura.server.flows import FlowList, FlowView, LearningList, LearningView
from aura.server.ui.drawn import TONES, Share, Traffic
from aura.server.ui.forms import Field, Form, as_given, ask
from aura.server.ui.pages import page
from aura.server.ui.parts import (
    Click,
    Column,
    Empty,
    Table,
    badge,
    button,
    card,
    el,
    empty,
    heading,
)
from aura.server.ui.paths import path
from aura.server.ui.plans import start_experiment, start_learning
from aura.server.ui.visit import Order, Visit
from aura.server.views import time_of

NEEDS = Needs("operator")
NOTHING = Empty(
    "No experiments yet",
    "An experiment gives each unit of a split one arm, compares what they experience, and may be "
    "looked at all the time. Write it into a file, then type:",
    "aura experiment start experiment.yaml",
)
COLUMNS = (
    Column("name", "Experiment", "link"),
    Column("state", "State", "badge"),
    Column("split", "Split", narrow=False),
    Column("primary", "Primary metric", narrow=False),
    Column("difference", "Difference"),
    Column("interval", "Interval", narrow=False),
    Column("units", "Units", "number"),
    Column("looked", "Seen", "time"),
)
LAYERS = (
    Column("name", "Layer"),
    Column("free", "Free", "share"),
    Column("experiments", "Experiments"),
)
ARMS = (
    Column("arm", "Arm"),
    Column("share", "Share now", "share"),
    Column("rewarded", "Rewards", "number"),
    Column("mean", "Mean reward", "number"),
    Column("tripped", "Tripped"),
)


class Found(NamedTuple):
    """What the page shows."""

    experiments: ExperimentList
    learning: LearningList
    choices: FlowList


@page("/experiments", "Experiments")
async def all_experiments(visit: Visit) -> None:
    """Experiments, splits that learn, choices inside workflows."""
    with heading("Experiments", "What is compared, and what learns its route by itself"):
        refused = visit.may(NEEDS)
        button("Start an experiment", lambda: start_experiment(visit), "primary", refused)
        button("Let a split learn", lambda: start_learning(visit), "", refused)
    with card("Experiments"):
        table = Table(COLUMNS, label="Experiments", empty=NOTHING)
    layers_box, learning = el("div", "stack"), Learners(visit)
    layers: Table | None = None

    async def look() -> Found:
        return Found(
            await experiments.list_experiments(visit.app),
            await flows.list_learning(visit.app),
            await flows.list_flows(visit.app),
        )

    def show(found: Found) -> None:
        nonlocal layers
        table.show(map(_row, found.experiments.experiments))
        if found.experiments.layers and layers is None:
            hint = f"hold-out {found.experiments.holdout:.2%}"
            with layers_box, card("Layers", hint):
                layers = Table(LAYERS, label="Layers")
        if layers is not None:
            layers.show(
                {
                    "id": one.name, "name": one.name, "free": one.free,
                    "experiments": ", ".join(one.experiments),
                }
                for one in found.experiments.layers
            )  # fmt: skip
        learning.show(found.learning.learning, found.choices.flows)

    await visit.live(look, show, key="experiments")


def _row(one: ExperimentStatus) -> dict[str, object]:
    first = one.comparisons[0] if one.comparisons else None
    return {
        "id": one.name,
        "name": one.name,
        "href": path("experiments", one.name),
        "state": one.state,
        "state_tone": TONES.get(one.state, "grey"),
        "split": one.split,
        "primary": one.experiment.primary.name,
        "difference": percent(first.relative) if first else None,
        "interval": interval(first.low, first.high) if first else None,
        "units": sum(one.ratio.units.values()) if one.ratio else 0,
        "looked": time_of(one.looked) if one.looked else None,
    }


class Learners:
    """Splits that learn and choices inside workflows, each with the shares of its arms."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        with card("Splits that learn", "more traffic for the arm that earns more"):
            self._splits = el("div", "stack")
        with card("Choices in workflows", "aura.choose"):
            self._choices = el("div", "stack")
        self._known: dict[tuple[str, ...], _Learner] = {}
        self._shown: tuple[tuple[str, ...], ...] | None = None

    def show(self, splits: tuple[LearningView, ...], choices: tuple[FlowView, ...]) -> None:
        """These; a bar stays as long as its arms are the same."""
        visit = self._visit
        wanted = (
            *(("split", one.name, one.state, *one.arms) for one in splits),
            *(("choice", one.name, *one.arms, *_tripped(one)) for one in choices),
        )
        if wanted != self._shown:
            self._shown = wanted
            self._known = {}
            self._splits.clear()
            self._choices.clear()
            with self._splits:
                for one in splits:
                    self._known["split", one.name] = _Learner(
                        one.name, tuple(one.arms), one.state, self._stop(one), visit.may(NEEDS)
                    )
                if not splits:
                    empty(Empty("No split learns", "", "aura flows start learning.yaml"))
            with self._choices:
                for each in choices:
                    self._known["choice", each.name] = _Learner(
                        each.name,
                        tuple(each.arms),
                        "",
                        self._release(each),
                        visit.may(NEEDS) or ("" if _tripped(each) else "no arm is tripped"),
                    )
                if not choices:
                    said = "A workflow makes one with aura.choose, and tells later what it earned."
                    empty(Empty("No choices yet", said, "aura flows list"))
        for one in splits:
            self._known["split", one.name].show(
                [Share(arm, known.share) for arm, known in one.arms.items()],
                [
                    (arm, known.share, known.rewarded, known.mean, known.tripped)
                    for arm, known in one.arms.items()
                ],
            )
        for each in choices:
            self._known["choice", each.name].show(
                [Share(arm, known.probability) for arm, known in each.arms.items()],
                [
                    (arm, known.probability, known.rewarded, known.mean, known.tripped)
                    for arm, known in each.arms.items()
                ],
            )

    def _stop(self, one: LearningView) -> Click | None:
        visit, name = self._visit, one.name
        form = Form(
            f"Stop learning {name}?", "Everybody goes to the baseline.", "Stop",
            (Field("keep", "Leave the shares as they are instead", "yes"),),
        )  # fmt: skip

        async def stop() -> None:
            answer = await ask(visit, form, as_given)
            if answer is None:
                return
            why, keep = answer.why, "keep" in answer.found
            await visit.act(
                Order("flows stop", NEEDS, {"name": name} | ({"keep": "True"} if keep else {})),
                why,
                lambda: flows.stop_learning(
                    visit.app, name, by=visit.caller.name, reason=why, keep=keep
                ),
                f"{name} is told to stop",
            )

        return stop if one.state == "running" else None

    def _release(self, one: FlowView) -> Click:
        visit, name, tripped = self._visit, one.name, _tripped(one)

        async def release() -> None:
            form = Form(
                f"Release an arm of {name}?", "It may be taken again, and its failures count anew.",
                "Release", (Field("arm", "Arm", "choice", options=tripped),),
            )  # fmt: skip
            answer = await ask(visit, form, as_given)
            if answer is not None:
                arm = str(answer.found["arm"])
                await visit.act(
                    Order("flows release", NEEDS, {"name": name, "arm": arm}), answer.why,
                    lambda: flows.release_arm(visit.app, name, arm, by=visit.caller.name),
                    f"{arm} may be taken again.",
                )  # fmt: skip

        return release


def _tripped(one: FlowView) -> tuple[str, ...]:
    return tuple(arm for arm, known in one.arms.items() if known.tripped)


class _Learner:
    def __init__(
        self, name: str, arms: tuple[str, ...], state: str, order: Click | None, why_not: str
    ) -> None:
        with el("div", "learner", role="group", aria_label=name):
            with el("div", "toolbar"):
                el("h3", "", name)
                if state:
                    badge(state)
                el("span", "spacer")
                if order is not None:
                    button("Stop" if state else "Release an arm", order, "", why_not)
            self._bar = Traffic([Share(arm, 0.0) for arm in arms], name)
            self._table = Table(ARMS, label=f"Arms of {name}")

    def show(self, shares: list[Share], arms: list[tuple[str, float, int, float, str]]) -> None:
        self._bar.show(shares)
        self._table.show(
            {"id": arm, "arm": arm, "share": share, "rewarded": n, "mean": mean, "tripped": why}
            for arm, share, n, mean, why in arms
        )
