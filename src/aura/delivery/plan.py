"""A plan: the stages by which traffic moves to a candidate, and what must hold in each.

    rollout:
      name: replace-legacy
      split: research            # default: the name
      baseline: legacy
      candidate: research@2.0.0
      alpha: 0.01                # probability that a candidate as good as the baseline trips
      sla: 800ms
      guards:
        - errors: {max_error_rate: 10%, min_sample: 20, window: 60s}
        - latency: {max_p95: 1200ms, min_sample: 50}
        - differences: {allowed: 2%}
      stages:
        - shadow: {sample: 100%, min_requests: 40, min_time: 2s, max_time: 5m}
        - 10%: {min_requests: 30, min_time: 2s}
        - 25%
        - {weight: 50%, name: half, min_requests: 100, min_units: 10}
        - 100%: {approval: {needed: 1, from: [ann, bob], timeout: 2d, on_refusal: rollback}}
      defaults: {min_requests: 30, min_time: 2s, max_time: 10m}
      windows: [{days: mon-thu, hours: 09:00-16:00, timezone: Europe/Berlin}]
      together: [{split: billing, baseline: billing@1.4.0, candidate: billing@2.0.0}]
      on_trip: rollback          # rollback | gradual | hold
      gradual: {steps: [75%, 50%, 25%, 10%], min_requests: 30, min_time: 1m, max_time: 10m}
      in_flight: pin             # pin | fork | compensate
      hash: {algorithm: unleash, seed: new-checkout}  # growthbook | unleash | flagd
      on_not_enough: hold        # hold | extend | rollback

Rates are written with %, times with a unit (250ms, 2s, 5m, 48h, 2d). Every error names the file
and the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from aura import yamlnodes
from aura.delivery.approval import ApprovalRule, approval_of
from aura.delivery.arms import Policy, misfit
from aura.delivery.channels import Channel, read_channels
from aura.delivery.descent import DESCENT, Descent, descent_of
from aura.delivery.guard import KINDS, OPTIONS, Guard
from aura.delivery.hashed import hashing_of, untellable
from aura.delivery.split import Hashing
from aura.delivery.windows import Window, window_of
from aura.errors import ConfigError, PlanError
from aura.spans import span
from aura.yamlnodes import SIZE_LIMIT as SIZE_LIMIT
from aura.yamlnodes import Node

OnTrip = Literal["rollback", "gradual", "hold"]
OnNotEnough = Literal["hold", "extend", "rollback"]

DEFAULT_MAX_ERROR_RATE = 0.1
"""A plan that names no guards has `errors` with this hard limit, and `latency` if it has an SLA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of a plan. Times are in seconds.

    `weight`         the candidate's share of traffic, 0.0 to 1.0; 0.0 in the shadow stage
    `sample`         in the shadow stage: the share of units whose requests are copied
    `min_requests`   so many requests the candidate must have had in this stage, by so many
    `min_units`      different units
    `min_time`       the stage lasts at least this long
    `max_time`       when the evidence is still missing then, `on_not_enough` says what happens
    `windows`        when it may be passed; None: as the plan says, none: at any time
    `approval`       who has to approve before it is passed
    """

    name: str
    weight: float
    sample: float = 1.0
    min_requests: int = 100
    min_units: int = 1
    min_time: float = 60.0
    max_time: float = 3600.0
    windows: tuple[Window, ...] | None = None
    approval: ApprovalRule | None = None

    @property
    def shadow(self) -> bool:
        """Whether the candidate only gets copies."""
        return self.weight == 0


class PlanFlaw(PlanError):
    """A plan that contradicts itself; `where` is the setting, such as ("stages", 2)."""

    def __init__(self, message: str, *, where: tuple[str | int, ...], hint: str) -> None:
        self.where = where
        super().__init__(message, hint=hint)


@dataclass(frozen=True, slots=True)
class Pair:
    """A split, and the two of its arms between which a plan moves the traffic."""

    split: str
    baseline: str
    candidate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Stages of weights with minimum evidence, guards, and what happens on a trip.

    `split` names the split whose weights it changes, `baseline` and `candidate` two of its arms;
    `together` has further splits that are moved in step. `sla` is in seconds, None when there is
    none. `alpha` is the sum of the guards' alphas, over all splits. `windows` hold where a stage
    has none of its own; `gradual` is for `on_trip: gradual`. `alerts` are told what happens;
    `in_flight` says what becomes of the candidate's runs at a rollback. `hashing` is the hash of
    the system that the units come from, with its seed ("": the split's name). Raises PlanFlaw when
    it contradicts itself.
    """

    name: str
    split: str
    baseline: str
    candidate: str
    guards: tuple[Guard, ...]
    stages: tuple[Stage, ...]
    alpha: float = 0.01
    sla: float | None = None
    on_trip: OnTrip = "rollback"
    on_not_enough: OnNotEnough = "hold"
    windows: tuple[Window, ...] = ()
    together: tuple[Pair, ...] = ()
    gradual: Descent = DESCENT
    alerts: tuple[Channel, ...] = ()
    in_flight: Policy = "pin"
    hashing: Hashing | None = None

    def __post_init__(self) -> None:
        for flaw in _flaws(self):
            raise flaw

    def stage_names(self) -> tuple[str, ...]:
        """The stages' names, in order."""
        return tuple(stage.name for stage in self.stages)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """What it moves: its own split first, then those together with it."""
        return Pair(self.split, self.baseline, self.candidate), *self.together

    def windows_of(self, stage: Stage) -> tuple[Window, ...]:
        """When the stage may be passed; at any time when there are none."""
        return self.windows if stage.windows is None else stage.windows


def _flaws(plan: Plan) -> Iterator[PlanFlaw]:
    if plan.baseline == plan.candidate:
        yield PlanFlaw(
            f"baseline and candidate are both {plan.baseline!r}",
            where=("candidate",),
            hint="name the target that should take over",
        )
    yield from _pair_flaws(plan)
    for pair in plan.pairs:
        if flaw := misfit(plan.in_flight, pair.baseline, pair.candidate):
            yield PlanFlaw(
                flaw, where=("in_flight",), hint="leave `in_flight` out: such runs just finish"
            )
    if not plan.guards:
        yield PlanFlaw(
            "the plan has no guards", where=("guards",), hint="give at least one, say `- errors`"
        )
    if not plan.stages:
        yield PlanFlaw(
            "the plan has no stages", where=("stages",), hint="give at least one, say `- 100%`"
        )
    yield from _stage_flaws(plan.stages)
    yield from _hash_flaws(plan)
    kinds = [guard.kind for guard in plan.guards]
    for index, kind in enumerate(kinds):
        if kind in kinds[:index]:
            yield PlanFlaw(
                f"two guards of kind {kind}", where=("guards", index), hint="join them into one"
            )
        if kind == "differences" and not any(stage.shadow for stage in plan.stages):
            yield PlanFlaw(
                "a differences guard without a shadow stage",
                where=("guards", index),
                hint="put `- shadow` before the other stages or remove the guard",
            )


def _pair_flaws(plan: Plan) -> Iterator[PlanFlaw]:
    splits = [pair.split for pair in plan.pairs]
    for index, pair in enumerate(plan.together):
        where = ("together", index)
        if pair.split in splits[: index + 1]:
            yield PlanFlaw(
                f"the split {pair.split!r} is moved twice",
                where=where,
                hint="a split is moved by one line; remove the other",
            )
        if pair.baseline == pair.candidate:
            yield PlanFlaw(
                f"baseline and candidate of the split {pair.split} are both {pair.baseline!r}",
                where=where,
                hint="name the target that should take over",
            )


def _hash_flaws(plan: Plan) -> Iterator[PlanFlaw]:
    for index, stage in enumerate(plan.stages):
        for error in untellable(plan.hashing, plan.candidate, [stage.weight]):
            yield PlanFlaw(error.message, where=("stages", index), hint=error.hint)
    if plan.on_trip == "gradual":
        for error in untellable(plan.hashing, plan.candidate, plan.gradual.steps):
            yield PlanFlaw(error.message, where=("gradual",), hint=error.hint)


def _stage_flaws(stages: tuple[Stage, ...]) -> Iterator[PlanFlaw]:
    for index, stage in enumerate(stages):
        where = ("stages", index)
        if not 0 <= stage.weight <= 1:
            yield PlanFlaw(
                f"stage {stage.name} has the weight {stage.weight:g}",
                where=where,
                hint="weights lie between 0 and 1",
            )
        if stage.name in [earlier.name for earlier in stages[:index]]:
            yield PlanFlaw(
                f"two stages are named {stage.name!r}", where=where, hint="rename one with `name:`"
            )
        if index and stage.weight <= stages[index - 1].weight:
            before = stages[index - 1]
            yield PlanFlaw(
                f"stage {stage.name} does not rise above stage {before.name}",
                where=where,
                hint="each stage has more weight than the one before; shadow comes first",
            )
        if stage.max_time < stage.min_time:
            yield PlanFlaw(
                f"max_time of stage {stage.name} ({span(stage.max_time)}) is shorter than its "
                f"min_time ({span(stage.min_time)})",
                where=where,
                hint="raise max_time or lower min_time",
            )


def load_plan(path: str | Path) -> Plan:
    """Read a plan file (YAML, UTF-8). Raises PlanError with file, line and what to do."""
    return parse_plan(yamlnodes.read(Path(path), kind="plan", error=PlanError), str(path))


def parse_plan(text: str, source: str = "plan") -> Plan:
    """Read a plan from YAML text; `source` names it in errors. Raises PlanError."""
    root = yamlnodes.load(text, file=source, kind="plan", begin="rollout:", error=PlanError)
    top = root.fields({"rollout", "gateway", "experiment", "alerts", "decommission", "catalog"})
    if "rollout" not in top:
        root.fail("there is no rollout", "begin with `rollout:`")
    plan = _plan(top["rollout"])
    everybody = read_channels(top["alerts"]) if "alerts" in top else ()
    return replace(plan, alerts=tuple(dict.fromkeys((*everybody, *plan.alerts))))


_REQUIRED = ("name", "baseline", "candidate", "stages")
_OPTIONAL = (
    *("split", "alpha", "sla", "guards", "defaults", "on_trip", "on_not_enough"),
    *("windows", "together", "gradual", "alerts", "in_flight", "start", "incompatible"),
    "hash",
)
_TIMES = frozenset({"min_time", "max_time"})
_EVIDENCE = frozenset({"min_requests", "min_units"}) | _TIMES
_STAGE_KEYS = _EVIDENCE | {"name", "sample", "weight", "windows", "approval"}
_Places = dict[tuple[str | int, ...], Node]


def _plan(body: Node) -> Plan:
    found = body.fields(_OPTIONAL, _REQUIRED)
    places: _Places = {(name,): node for name, node in found.items()}
    alpha = _alpha(found["alpha"]) if "alpha" in found else 0.01
    sla = found["sla"].seconds(positive=True) if "sla" in found else None
    stages = _stages(found, places)
    guards = _guards(found.get("guards"), sla, stages, places)
    together = _together(found.get("together"), places)
    each = alpha / len(guards) / (1 + len(together)) if guards else alpha
    try:
        return Plan(
            name=found["name"].text(),
            split=found["split" if "split" in found else "name"].text(),
            baseline=found["baseline"].text(),
            candidate=found["candidate"].text(),
            guards=tuple(replace(guard, alpha=each) for guard in guards),
            stages=stages,
            alpha=alpha,
            sla=sla,
            on_trip=cast(OnTrip, _choice(found, "on_trip", get_args(OnTrip))),
            on_not_enough=cast(OnNotEnough, _choice(found, "on_not_enough", get_args(OnNotEnough))),
            windows=_windows(found["windows"]) if "windows" in found else (),
            together=together,
            gradual=descent_of(found["gradual"]) if "gradual" in found else DESCENT,
            alerts=read_channels(found["alerts"]) if "alerts" in found else (),
            in_flight=cast(Policy, _choice(found, "in_flight", get_args(Policy))),
            hashing=hashing_of(found["hash"]) if "hash" in found else None,
        )
    except PlanFlaw as flaw:
        places.get(flaw.where, body).fail(flaw.message, flaw.hint)


def _together(node: Node | None, places: _Places) -> tuple[Pair, ...]:
    nodes = node.items("a split") if node else []
    places.update({("together", index): each for index, each in enumerate(nodes)})
    found = [each.fields((), ("split", "baseline", "candidate")) for each in nodes]
    return tuple(Pair(**{name: value.text() for name, value in one.items()}) for one in found)


def _windows(node: Node) -> tuple[Window, ...]:
    return tuple(window_of(each) for each in node.items("a window"))


def _choice(found: dict[str, Node], name: str, allowed: tuple[str, ...]) -> str:
    return found[name].choice(*allowed) if name in found else allowed[0]


def _alpha(node: Node) -> float:
    value = node.number()
    if not 1e-9 <= value <= 0.5:
        node.fail(f"alpha is {value:g}", "it lies between 1e-9 and 0.5; 0.01 is usual")
    return value


def _stages(found: dict[str, Node], places: _Places) -> tuple[Stage, ...]:
    given = found["defaults"].fields(_EVIDENCE) if "defaults" in found else {}
    defaults = {name: _setting(name, node) for name, node in given.items()}
    nodes = found["stages"].items("a stage")
    places.update({("stages", index): node for index, node in enumerate(nodes)})
    return tuple(_stage(node, defaults) for node in nodes)


def _stage(node: Node, defaults: dict[str, Any]) -> Stage:
    head, found = _stage_parts(node)
    shadow = head.scalar == "shadow"
    weight = 0.0 if shadow else head.named("a stage's weight").percent()
    if not shadow and weight == 0:
        head.fail("a stage has the weight 0%", "use `shadow` for a stage without traffic")
    if "sample" in found and not shadow:
        found["sample"].fail("only the shadow stage has a sample", "remove it")
    settings = {name: _setting(name, value) for name, value in found.items() if name != "weight"}
    name = settings.pop("name", "shadow" if shadow else f"{weight * 100:g}%")
    return Stage(name=name, weight=weight, **{**defaults, **settings})


def _stage_parts(node: Node) -> tuple[Node, dict[str, Node]]:
    """The node with the weight and the settings, of any of the three ways to write a stage."""
    hint = "write `- shadow`, `- 25%`, `- 25%: {...}` or `- {weight: 25%, ...}`"
    if node.scalar:
        return node, {}
    if node.shown != "a mapping" or not node.node.value:
        node.fail(f"a stage is {node.shown}", hint)
    if pair := node.pair():
        key, value = pair
        if key.scalar == "shadow" or "%" in key.scalar or re.fullmatch(r"[\d.]+", key.scalar):
            return key, value.named(f"stage {key.scalar}").fields(_STAGE_KEYS - {"weight"})
    found = node.fields(_STAGE_KEYS)
    if "weight" not in found:
        node.fail("a stage has no weight", hint)
    return found["weight"], found


def _setting(name: str, node: Node) -> Any:
    if name in _TIMES:
        return node.seconds()
    if name == "windows":
        return _windows(node)
    if name == "approval":
        return approval_of(node)
    if name == "name":
        return node.scalar or node.text()
    if name == "sample":
        value = node.percent()
        if value == 0:
            node.fail("sample is 0%", "copy at least 0.01% of the units")
        return value
    return node.integer()


def _guards(
    node: Node | None, sla: float | None, stages: tuple[Stage, ...], places: _Places
) -> list[Guard]:
    base: dict[str, Any] = {"sla": sla, "segments": max(1, sum(not s.shadow for s in stages))}
    if node is None:
        errors = Guard(**base, kind="errors", max_error_rate=DEFAULT_MAX_ERROR_RATE)
        return [errors] if sla is None else [errors, Guard(**base, kind="latency")]
    nodes = node.items("a guard")
    places.update({("guards", index): each for index, each in enumerate(nodes)})
    return [_guard(each, base) for each in nodes]


def guards_of(node: Node | None, sla: float | None, alpha: float) -> tuple[Guard, ...]:
    """The guards of an experiment, written as in a plan; they divide `alpha`. Raises PlanError."""
    found = _guards(node, sla, (), {})
    return tuple(replace(guard, alpha=alpha / len(found)) for guard in found)


def _guard(node: Node, base: dict[str, Any]) -> Guard:
    key, body = node.pair() or (node, None)
    if not key.scalar:
        node.fail(f"a guard is {node.shown}", "write `- errors` or `- errors: {...}`")
    if key.scalar not in KINDS:
        key.fail(f"there is no guard {key.scalar!r}", yamlnodes.meant(key.scalar, KINDS))
    kind = key.scalar
    given = body.named(f"the guard {kind}").fields(OPTIONS[kind]) if body else {}
    settings = {name: _guard_setting(name, value) for name, value in given.items()}
    if kind == "assignment":
        settings.setdefault("per", "unit")
    if kind == "differences":
        base = {**base, "segments": 1}
    try:
        return Guard(**base, kind=kind, **settings)
    except ConfigError as error:
        key.fail(error.message, error.hint)


def _guard_setting(name: str, node: Node) -> Any:
    if name in ("max_error_rate", "allowed"):
        return node.percent()
    if name in ("max_p95", "max_mean", "window"):
        return node.seconds()
    return node.choice("request", "unit") if name == "per" else node.integer()
