"""An experiment: a plan over a split that asks which arm is better, instead of moving to one.

    experiment:
      name: checkout-copy
      split: checkout                # default: the name
      arms: {old: 50%, new: 50%}     # the first one is the baseline; they add up to 100 %
      primary: {metric: revenue, from: reward, horizon: 7d, better: higher, effect: 5%}
      secondary:
        - latency                    # outcome, latency, cost and tokens are known
        - {metric: basket, from: observation, better: higher, aggregate: sum}
      guards:                        # as in a rollout
        - errors: {max_error_rate: 10%}
      alpha: 0.05                    # probability of a wrong winner when there is no difference
      min_time: 1d
      max_time: 14d
      min_units: 100                 # in each arm
      on_win: promote                # promote | hold | rollout (the file's `rollout:` section)
      on_not_enough: stop            # at max_time: stop | hold
      share: 100%                    # of the units that are not held out
      layer: checkout                # or {name: checkout, from: 20%}: see aura.delivery.layers
      holdout: 5%                    # of all units; the same for all experiments
      unit: {name: customer, missing: exclude}
      planned: 10000                 # units after which the intervals are narrowest
      hash: {algorithm: unleash, seed: checkout}  # as in a rollout
      pre_period: 14d                # what units did before the start reduces the variance

**What is counted.** The unit is what is randomised, so it is what is counted: each unit gives one
value per metric, made of what it had from its first request on for as long as the metric's
`horizon` (0: its first request only). The value is final then, and a chatty unit weighs as much as
a quiet one. `missing` says what a unit counts that had nothing by then: `zero`, or nothing at all
(`censored`). Rates are written with %, times with a unit. Every error names the file and the line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from aura import yamlnodes
from aura.delivery.guard import Guard
from aura.delivery.hashed import hashing_of, untellable
from aura.delivery.plan import Plan, PlanFlaw, guards_of, parse_plan
from aura.delivery.split import Arm, Hashing
from aura.errors import PlanError, SplitError
from aura.spans import span
from aura.stats.hashing import BUCKETS
from aura.stats.means import PLANNED
from aura.yamlnodes import Node

Source = Literal["outcome", "latency", "observation", "reward"]
Better = Literal["higher", "lower"]
Aggregate = Literal["mean", "sum"]
Missing = Literal["zero", "censored"]
OnWin = Literal["promote", "hold", "rollout"]
OnNotEnough = Literal["stop", "hold"]
Keyless = Literal["exclude", "include"]

GUARD_ALPHA = 0.01
"""The probability that an arm as good as the baseline trips any guard."""

RATIO_ALPHA = 0.001
"""The probability that the sample-ratio check invalidates a sound experiment."""

HOUR, DAY = 3600.0, 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number per unit.

    `source`     outcome (1.0 for a good request, 0.0 for a failed one), latency (seconds), a number
                 of that name in `Observation.metrics`, or a late reward of that name
    `better`     which way is an improvement
    `aggregate`  what becomes of a unit's several numbers
    `horizon`    so many seconds after its first request a unit's value is final
    `missing`    what a unit counts that had none by then
    `effect`     the smallest improvement that matters, 0: any; with `relative` a part of the
                 baseline's mean (0.05 is 5 %), else in the metric's own unit
    """

    name: str
    source: Source
    better: Better
    aggregate: Aggregate = "mean"
    horizon: float = HOUR
    missing: Missing = "censored"
    effect: float = 0.0
    relative: bool = True

    @property
    def sign(self) -> int:
        """1 when more is better, -1 when less is."""
        return 1 if self.better == "higher" else -1


KNOWN: dict[str, Metric] = {
    "outcome": Metric(name="outcome", source="outcome", better="higher"),
    "latency": Metric(name="latency", source="latency", better="lower"),
    "cost": Metric(name="cost", source="observation", better="lower"),
    "tokens": Metric(name="tokens", source="observation", better="lower"),
}
"""Metrics that need no more than their name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Arms, metrics, guards, and what happens at the end. Raises PlanFlaw when it contradicts
    itself.

    `arms` are (name, weight) of all units that take part, the first one is the baseline.
    `share` of the units take part, of the layer's when it has one (from place `begin` on, 0.0 to
    1.0). `holdout` is a share of all units, None: what is set already. Times are in seconds.
    After `planned` units the confidence sequences are narrowest.
    `then` is the rollout that goes on from the winner when `on_win` is "rollout". `hashing` is the
    hash of the system that the units come from, with its seed ("": the split's name).
    """

    name: str
    split: str
    arms: tuple[tuple[str, float], ...]
    primary: Metric
    secondary: tuple[Metric, ...] = ()
    guards: tuple[Guard, ...] = ()
    alpha: float = 0.05
    sla: float | None = None
    min_time: float = DAY
    max_time: float = 14 * DAY
    min_units: int = 100
    on_win: OnWin = "promote"
    on_not_enough: OnNotEnough = "stop"
    share: float = 1.0
    layer: str = ""
    begin: float | None = None
    holdout: float | None = None
    unit: str = "unit"
    keyless: Keyless = "exclude"
    pre_period: float = 14 * DAY
    planned: int = PLANNED
    then: Plan | None = None
    hashing: Hashing | None = None

    def __post_init__(self) -> None:
        for flaw in _flaws(self):
            raise flaw

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with."""
        return self.arms[0][0]

    @property
    def candidates(self) -> tuple[str, ...]:
        """The other arms, in order."""
        return tuple(name for name, _ in self.arms[1:])

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The primary metric and then the others."""
        return (self.primary, *self.secondary)

    def weight(self, arm: str) -> float:
        """The arm's share of the units that take part."""
        return dict(self.arms)[arm]


def _flaws(one: Experiment) -> Iterator[PlanFlaw]:
    names = [name for name, _ in one.arms]
    if len(names) < 2:
        yield PlanFlaw(
            "an experiment has two arms or more", where=("arms",), hint="{old: 50%, new: 50%}"
        )
    for name, weight in one.arms:
        if names.count(name) > 1:
            yield PlanFlaw(f"two arms are named {name}", where=("arms",), hint="rename one")
        try:
            useless = Arm(name, weight).weight == 0
        except SplitError as error:
            yield PlanFlaw(error.message, where=("arms",), hint=error.hint)
        else:
            if useless:
                yield PlanFlaw(
                    f"arm {name} has the weight 0", where=("arms",), hint="remove it, or raise it"
                )
    total = math.fsum(weight for _, weight in one.arms)
    if abs(total - 1) > 0.5 / BUCKETS:
        yield PlanFlaw(
            f"the weights of the arms add up to {total * 100:g} %",
            where=("arms",),
            hint="they add up to 100 %; to let fewer units take part write `share:`",
        )
    yield from _hash_flaws(one)
    yield from _setting_flaws(one)
    yield from _metric_flaws(one)
    for index, guard in enumerate(one.guards):
        if guard.kind in ("differences", "assignment"):
            why = "compares shadows" if guard.kind == "differences" else "is always checked"
            yield PlanFlaw(
                f"the guard {guard.kind} {why}", where=("guards", index), hint="remove it"
            )
        if guard.kind in [other.kind for other in one.guards[:index]]:
            yield PlanFlaw(
                f"two guards of kind {guard.kind}", where=("guards", index), hint="join them"
            )


def _hash_flaws(one: Experiment) -> Iterator[PlanFlaw]:
    for name, weight in one.arms[1:]:
        for error in untellable(one.hashing, name, [weight]):
            yield PlanFlaw(error.message, where=("arms",), hint=error.hint)


def _setting_flaws(one: Experiment) -> Iterator[PlanFlaw]:
    if not 1e-9 <= one.alpha <= 0.5:
        yield PlanFlaw(
            f"alpha is {one.alpha:g}", where=("alpha",), hint="it lies between 1e-9 and 0.5"
        )
    if one.max_time < one.min_time:
        yield PlanFlaw(
            f"max_time ({span(one.max_time)}) is shorter than min_time ({span(one.min_time)})",
            where=("max_time",),
            hint="raise max_time or lower min_time",
        )
    if not 0 < one.share <= 1:
        yield PlanFlaw("no unit takes part", where=("share",), hint="give a share above 0%")
    if one.holdout is not None and not 0 <= one.holdout < 1:
        yield PlanFlaw(
            f"the hold-out is {one.holdout:g}", where=("holdout",), hint="it is below 100%"
        )
    if one.begin is not None and one.begin + one.share > 1 + 0.5 / BUCKETS:
        yield PlanFlaw(
            f"it has {one.share * 100:g} % of its layer from {one.begin * 100:g} % on",
            where=("layer",),
            hint="lower `from` or `share`",
        )
    if (one.then is None) == (one.on_win == "rollout"):
        yield PlanFlaw(
            "on_win: rollout needs a plan, and nothing else does",
            where=("on_win",),
            hint="add the section `rollout:` to the file",
        )
    if one.then is not None and (one.then.split, one.then.baseline) != (one.split, one.baseline):
        yield PlanFlaw(
            f"its rollout is from {one.then.baseline} on split {one.then.split}",
            where=("on_win",),
            hint=f"give the rollout `split: {one.split}` and `baseline: {one.baseline}`",
        )


def _metric_flaws(one: Experiment) -> Iterator[PlanFlaw]:
    names = [metric.name for metric in one.metrics]
    for index, metric in enumerate(one.metrics):
        where: tuple[str | int, ...] = ("secondary", index - 1) if index else ("primary",)
        if metric.name in names[:index]:
            yield PlanFlaw(f"the metric {metric.name} stands twice", where=where, hint="remove one")
        if metric.horizon > one.max_time:
            yield PlanFlaw(
                f"the horizon of {metric.name} ({span(metric.horizon)}) is longer than max_time "
                f"({span(one.max_time)})",
                where=where,
                hint="no unit's value would ever be final; raise max_time",
            )
        if not (math.isfinite(metric.effect) and metric.effect >= 0):
            yield PlanFlaw(
                f"the effect of {metric.name} is {metric.effect}", where=where, hint="say 5%"
            )


# -- files -------------------------------------------------------------------------------------


def load_experiment(path: str | Path) -> Experiment:
    """Read an experiment's file (YAML, UTF-8). Raises PlanError with file, line and what to do."""
    text = yamlnodes.read(Path(path), kind="experiment", error=PlanError)
    return parse_experiment(text, str(path))


def parse_experiment(text: str, source: str = "experiment") -> Experiment:
    """Read an experiment from YAML text; `source` names it in errors. Raises PlanError."""
    root = yamlnodes.load(
        text, file=source, kind="experiment", begin="experiment:", error=PlanError
    )
    top = root.members()
    if "experiment" not in top:
        root.fail("there is no experiment", "begin with `experiment:`")
    then = parse_plan(text, source) if _wants_rollout(top["experiment"]) else None
    return _experiment(top["experiment"], then)


_REQUIRED = ("name", "arms", "primary")
_OPTIONAL = (
    *("split", "secondary", "guards", "guard_alpha", "alpha", "sla", "min_time", "max_time"),
    *(
        "min_units",
        "on_win",
        "on_not_enough",
        "share",
        "layer",
        "holdout",
        "unit",
        "pre_period",
        "planned",
        "hash",
        "start",
    ),
)


def _wants_rollout(body: Node) -> bool:
    on_win = body.fields(_OPTIONAL, _REQUIRED).get("on_win")
    return on_win is not None and on_win.scalar == "rollout"


def _experiment(body: Node, then: Plan | None) -> Experiment:
    found = body.fields(_OPTIONAL, _REQUIRED)
    places: dict[tuple[str | int, ...], Node] = {(name,): node for name, node in found.items()}
    secondary = found["secondary"].items("a metric") if "secondary" in found else []
    guards = found["guards"].items() if "guards" in found else []
    places |= {("secondary", index): node for index, node in enumerate(secondary)}
    places |= {("guards", index): node for index, node in enumerate(guards)}
    sla = found["sla"].seconds(positive=True) if "sla" in found else None
    settings: dict[str, Any] = {
        name: read(found[name]) for name, read in _PLAIN.items() if name in found
    }
    try:
        return Experiment(
            name=found["name"].text(),
            split=found["split" if "split" in found else "name"].text(),
            arms=tuple((name, node.percent()) for name, node in found["arms"].members().items()),
            primary=_metric(found["primary"]),
            secondary=tuple(_metric(node) for node in secondary),
            guards=_guards(found, sla),
            sla=sla,
            then=then,
            hashing=hashing_of(found["hash"]) if "hash" in found else None,
            **settings,
            **_layer(found),
            **_unit(found),
        )
    except PlanFlaw as flaw:
        places.get(flaw.where, body).fail(flaw.message, flaw.hint)


def _guards(found: dict[str, Node], sla: float | None) -> tuple[Guard, ...]:
    alpha = GUARD_ALPHA
    if "guard_alpha" in found:
        alpha = found["guard_alpha"].number()
        if not 1e-9 <= alpha <= 0.5:
            found["guard_alpha"].fail("guard_alpha is out of range", "say 0.01")
    candidates = max(1, len(found["arms"].members()) - 1)
    return guards_of(found.get("guards"), sla, alpha / candidates)


def _metric(node: Node) -> Metric:
    if node.scalar:
        known = KNOWN.get(node.scalar)
        if known is None:
            node.fail(
                f"there is no metric {node.scalar!r}",
                f"use {', '.join(KNOWN)}, or {{metric: {node.scalar}, from: reward, ...}}",
            )
        return known
    found = node.fields(
        {"from", "better", "aggregate", "horizon", "missing", "effect"}, required=("metric",)
    )
    usual = _usual(node, found)
    effect, relative = _effect(found["effect"]) if "effect" in found else (0.0, True)
    return Metric(
        name=usual.name,
        source=usual.source,
        better=cast(Better, _chosen(found, "better", get_args(Better), usual.better)),
        aggregate=cast(
            Aggregate, _chosen(found, "aggregate", get_args(Aggregate), usual.aggregate)
        ),
        horizon=found["horizon"].seconds() if "horizon" in found else usual.horizon,
        missing=cast(Missing, _chosen(found, "missing", get_args(Missing), usual.missing)),
        effect=effect,
        relative=relative,
    )


def _usual(node: Node, found: dict[str, Node]) -> Metric:
    """The metric with everything that need not be written."""
    name = found["metric"].text()
    known = KNOWN.get(name)
    if known is not None:
        if "from" in found:
            found["from"].fail(f"where {name} comes from is known", "remove `from`")
        return known
    for wanted, how in (("from", "observation or reward"), ("better", "higher or lower")):
        if wanted not in found:
            node.fail(f"the metric {name} has no {wanted}", f"add `{wanted}:` ({how})")
    if found["from"].choice("observation", "reward") == "observation":
        return Metric(name=name, source="observation", better="higher")
    if "horizon" not in found or not found["horizon"].seconds():
        node.fail(
            f"the reward {name} has no horizon",
            "add `horizon: 7d`: so long after a unit's first request its rewards are waited for",
        )
    return Metric(name=name, source="reward", better="higher", aggregate="sum", missing="zero")


def _effect(node: Node) -> tuple[float, bool]:
    if "%" in node.scalar:
        return node.percent(), True
    return node.number(), False


def _chosen(found: dict[str, Node], name: str, allowed: tuple[str, ...], otherwise: str) -> str:
    return found[name].choice(*allowed) if name in found else otherwise


def _layer(found: dict[str, Node]) -> dict[str, Any]:
    if "layer" not in found:
        return {}
    node = found["layer"]
    if node.scalar:
        return {"layer": node.text()}
    parts = node.fields({"from"}, required=("name",))
    begin = parts["from"].percent() if "from" in parts else None
    return {"layer": parts["name"].text(), "begin": begin}


def _unit(found: dict[str, Node]) -> dict[str, Any]:
    if "unit" not in found:
        return {}
    node = found["unit"]
    if node.scalar:
        return {"unit": node.text()}
    parts = node.fields({"missing"}, required=("name",))
    keyless = parts["missing"].choice(*get_args(Keyless)) if "missing" in parts else "exclude"
    return {"unit": parts["name"].text(), "keyless": keyless}


_PLAIN: dict[str, Any] = {
    "alpha": Node.number,
    "min_time": Node.seconds,
    "max_time": Node.seconds,
    "min_units": lambda node: node.integer(least=1),
    "on_win": lambda node: node.choice(*get_args(OnWin)),
    "on_not_enough": lambda node: node.choice(*get_args(OnNotEnough)),
    "share": Node.percent,
    "holdout": Node.percent,
    "pre_period": Node.seconds,
    "planned": lambda node: node.integer(least=1),
}
