"""What the faces of Aura have in common about learning: choices inside workflows (`aura.choose`),
and splits that learn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aura.app import Aura
from aura.delivery.flow import Flow
from aura.delivery.learning import LearningPlan, LearningStatus, parse_learning
from aura.delivery.status import Event
from aura.delivery.worth import logged, worth
from aura.errors import InvalidInput, UnknownFlow
from aura.server.drivers import is_driven
from aura.server.given import read_given
from aura.server.operations import storable
from aura.stats.means import ConfidenceSequence


@dataclass(frozen=True, slots=True)
class FlowArm:
    """What is known of an arm: the `probability` with which it is taken now, how often it was, how
    many rewards it has had and their mean, and why it is not taken any more ("": it is)."""

    probability: float
    choices: int
    rewarded: int
    mean: float
    overdue: int
    good: int
    failed: int
    tripped: str


@dataclass(frozen=True, slots=True)
class FlowView:
    """A choice: its arms by name, the choices that wait for their reward, and lines of the log that
    could not be used. `policy` as it was asked for last, None when this process has not heard."""

    name: str
    arms: dict[str, FlowArm]
    pending: int
    ignored: int
    policy: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class FlowList:
    """All choices that have been made, by name."""

    flows: tuple[FlowView, ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """An estimate with its confidence sequence after `n` choices; None while nothing can be
    said."""

    estimate: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class WorthView:
    """What a policy would have earned per choice, by two estimators; `logged` is what the choices
    of the log earned, `effective` how many choices of this policy the log is as good as."""

    ips: Bounds
    doubly_robust: Bounds
    logged: float
    n: int
    effective: float


@dataclass(frozen=True, slots=True)
class LearntArm:
    """An arm of a split that learns: its share of units now, its rewards and their mean."""

    share: float
    rewarded: int
    mean: float
    tripped: str


@dataclass(frozen=True, slots=True)
class LearningView:
    """A split that learns, and who did what to it, when and why."""

    name: str
    split: str
    run: str
    state: str
    epoch: int
    arms: dict[str, LearntArm]
    history: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class LearningList:
    """All of them, by name."""

    learning: tuple[LearningView, ...]


@dataclass(frozen=True, slots=True)
class LearningStarted:
    """A split that begins to learn, None in a dry run; without `driven` no worker is there."""

    learning: LearningView | None
    driven: bool


# -- choices -----------------------------------------------------------------------------------


async def list_flows(app: Aura) -> FlowList:
    """All of them."""
    names = await app.flows.names()
    return FlowList(tuple([_flow(await app.flows.show(name)) for name in names]))


async def show_flow(app: Aura, name: str) -> FlowView:
    """One of them. Raises UnknownFlow."""
    return _flow(await app.flows.show(_known(name)))


async def evaluate_flow(app: Aura, name: str, policy: str, alpha: float = 0.05) -> WorthView:
    """What a policy would have earned: weights by arm, as in "fast=0.2,deep=0.8", or the name of
    one arm. Raises UnknownFlow, FlowError, InvalidInput."""
    weights = read_weights(policy)
    await app.flows.show(_known(name))
    found = worth(logged(await app.flows.lines(name)), weights, alpha)
    return WorthView(
        _bounds(found.ips), _bounds(found.doubly_robust), found.logged, found.n, found.effective
    )


async def release_arm(app: Aura, name: str, arm: str, *, by: str) -> FlowView:
    """Let a tripped arm be taken again. Raises UnknownFlow, FlowError."""
    await app.flows.release(_known(name), arm, by=by)
    return _flow(await app.flows.show(name))


def read_weights(text: str) -> dict[str, float]:
    """A policy as it is written in one line. Raises InvalidInput."""
    if "=" not in text:
        return {text: 1.0}
    try:
        found = [one.split("=", 1) for one in text.split(",")]
        weights = {arm.strip(): float(share) for arm, share in found}
    except ValueError:
        weights = {}
    if not weights or not all(map(math.isfinite, weights.values())):
        raise InvalidInput(
            f"the policy is {text[:200]!r}",
            hint='Write "fast=0.2,deep=0.8", or the name of one arm',
        )
    return weights


# -- splits that learn -------------------------------------------------------------------------


async def read_learning(plan: Mapping[str, Any]) -> LearningPlan:
    """What was sent as a file's `learning:` section. Raises PlanError."""
    return await read_given({"learning": plan}, parse_learning)


async def list_learning(app: Aura) -> LearningList:
    """All of them."""
    return LearningList(tuple(map(_learning, await app.learning.all())))


async def show_learning(app: Aura, name: str) -> LearningView:
    """One of them. Raises UnknownFlow."""
    return _learning(await app.learning.status(_known(name)))


async def start_learning(
    app: Aura, plan: LearningPlan, *, dry_run: bool = False
) -> LearningStarted:
    """Let a split learn, or with `dry_run` only say whether its plan can be read. Raises
    FlowError."""
    driven = await is_driven(app, app.learning.workflow)
    if dry_run:
        return LearningStarted(None, driven)
    return LearningStarted(_learning(await app.learning.start(plan)), driven)


async def stop_learning(
    app: Aura, name: str, *, by: str, reason: str = "", keep: bool = False
) -> LearningView:
    """Order it to end: everybody to the baseline, or with `keep` as they are. Raises UnknownFlow,
    FlowError."""
    await app.learning.stop(_known(name), keep=keep, by=by, reason=reason)
    return _learning(await app.learning.status(name))


def _known(name: str) -> str:
    if not storable(name):
        raise UnknownFlow("there is no choice of that name", hint="Use other characters")
    return name


def _flow(flow: Flow) -> FlowView:
    arms = {
        name: FlowArm(
            flow.probabilities.get(name, 0.0), arm.choices, arm.rewarded, arm.mean, arm.overdue,
            arm.good, arm.failed, arm.tripped,
        )
        for name, arm in flow.arms.items()
    }  # fmt: skip
    policy = None if flow.policy is None else json.loads(json.dumps(asdict(flow.policy)))
    return FlowView(flow.name, arms, flow.pending, flow.ignored, policy)


def _bounds(found: ConfidenceSequence) -> Bounds:
    low = found.low if math.isfinite(found.low) else None
    high = found.high if math.isfinite(found.high) else None
    return Bounds(found.estimate, low, high, found.n)


def _learning(status: LearningStatus) -> LearningView:
    known = status.ledger["arms"]
    arms = {
        arm: LearntArm(
            share,
            known.get(arm, {}).get("rewarded", 0),
            _mean(known.get(arm, {})),
            str(known.get(arm, {}).get("tripped", "")),
        )
        for arm, share in status.weights.items()
    }
    history = tuple(
        Event(float(one["at"]), str(one["what"]), str(one["reason"]), str(one["by"]))
        for one in status.history
    )
    return LearningView(
        status.name, status.split, status.run, status.state, status.epoch, arms, history
    )


def _mean(arm: Mapping[str, Any]) -> float:
    return float(arm["total"] / arm["rewarded"]) if arm.get("rewarded") else 0.0
