"""Guards: what must not happen to the candidate, and how sure we are that it does.

A guard folds observations one by one (O(1) each) and can be asked at any time. It looks at two
things. A **statistical test** (see `aura.stats.eprocess`) that compares the candidate with the
baseline of the same hours:

    errors        which arm did a failed request fall on?       null: the candidate's share
    latency       which arm did a request over the SLA fall on? null: the candidate's share
    assignment    which arm was a unit sent to? (two-sided)     null: the candidate's share
    differences   did the shadow's answer differ?               null: the allowed rate

When both arms fail in proportion, nothing happens: the share is all that counts. At a share of 1
there is nobody to compare with, and `errors` and `latency` are tested against the allowed rate.
`alpha` is the probability that a candidate as good as the baseline ever trips the guard; a plan
with several guards divides its alpha among them.

And **hard limits** (`max_error_rate`, `max_p95`, `max_mean`) over a sliding window with at least
`min_sample` requests of the candidate, which begins anew with each share. A rollback must help:
while the baseline has the same trouble as often (and the candidate's latency is not far worse), a
limit does not trip.

**Sticky units.** The requests of one unit are all on one arm, so one broken client can look like
a broken arm. With few, chatty units use `per: unit`: a unit counts once per stage. What is known
of a unit from earlier stages enters its null probability: who was on the baseline at 10 % is on
the candidate at 25 % with probability (0.25 - 0.10) / 0.90; who was on the candidate stays there
and says nothing new. In a plan, `assignment` counts per unit unless told otherwise.

A request that the baseline answered in the candidate's place is the candidate's failure or
lateness. Shadow requests count for `differences` and for the candidate's `max_error_rate` only.

Once tripped, a guard stays tripped: the evidence was there, and Ville's inequality allows one to
stop at the first time. So it does not matter how often it is judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from aura.delivery.observation import Observation
from aura.errors import ConfigError
from aura.stats.eprocess import as_evidence, log_evidence, log_excess, log_mixture
from aura.stats.hashing import BUCKETS
from aura.stats.quantiles import Window

Kind = Literal["errors", "latency", "differences", "assignment"]
Per = Literal["request", "unit"]
Verdict = Literal["pass", "trip", "not-enough"]

KINDS: tuple[Kind, ...] = get_args(Kind)

OPTIONS: dict[str, frozenset[str]] = {
    "errors": frozenset({"max_error_rate", "allowed", "window", "min_sample", "per"}),
    "latency": frozenset({"max_p95", "max_mean", "allowed", "window", "min_sample", "per"}),
    "differences": frozenset({"allowed", "min_sample", "per"}),
    "assignment": frozenset({"min_sample", "per"}),
}
"""Which settings each kind of guard has."""

ALLOWED = 0.05
"""The rate of failed, late or differing requests that is allowed when nothing else is said."""

IN_LINE = 4.0
"""So many standard errors above the baseline's rate the candidate's is still in line with it."""

EXCUSING = 2
"""So many failed (late) requests the baseline must have in the window to excuse the candidate's."""

SLOWER = 1.5
"""A latency that is over its limit is excused up to this multiple of the baseline's, if that is
near or over the limit too."""

NEAR = 0.8
"""The part of a limit from which on a mean is near it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What is watched, and where it trips. Raises ConfigError for settings that make no sense.

    `alpha`            this guard's part of the error probability, 0 < alpha < 1
    `segments`         how many stages with different shares the plan has
    `sla`              seconds after which a request is late (kind `latency`)
    `allowed`          the allowed rate, 0 < allowed < 1, where there is no baseline to compare
                       with; None: `max_error_rate` if there is one, else 5 %
    `max_error_rate`   hard limit, 0..1;  `max_p95`, `max_mean`  hard limits in seconds
    `window`           the hard limits' window, in seconds
    `min_sample`       requests of the candidate, in the window for hard limits, in the stage for
                       a verdict of `pass`
    `per`              what counts as one event: each request, or a unit's first in a stage
    """

    kind: Kind
    alpha: float = 0.01
    segments: int = 1
    sla: float | None = None
    allowed: float | None = None
    max_error_rate: float | None = None
    max_p95: float | None = None
    max_mean: float | None = None
    window: float = 60.0
    min_sample: int = 20
    per: Per = "request"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"no guard of kind {self.kind!r}", hint=f"use {', '.join(KINDS)}")
        if self.per not in get_args(Per):
            raise ConfigError(f"a guard counts per {self.per!r}", hint="use request or unit")
        if self.kind == "latency" and self.sla is None:
            raise ConfigError("a latency guard has no SLA", hint="set sla, say 800ms")
        if self.segments < 1 or self.min_sample < 1:
            raise ConfigError("segments or min_sample is below 1", hint="use whole numbers from 1")
        for name in ("alpha", "allowed"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < 1:
                raise ConfigError(
                    f"{name} of the {self.kind} guard is {rate}",
                    hint="it lies between 0 and 1, without these",
                )
        if self.max_error_rate is not None and not 0 <= self.max_error_rate < 1:
            raise ConfigError(
                f"max_error_rate is {self.max_error_rate}", hint="it is at least 0 and below 1"
            )
        for name in ("sla", "max_p95", "max_mean", "window"):
            seconds = getattr(self, name)
            if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
                raise ConfigError(
                    f"{name} of the {self.kind} guard is {seconds} s", hint="use a positive time"
                )

    @property
    def allowed_rate(self) -> float:
        """The null hypothesis where there is no baseline to compare with."""
        return self.allowed or self.max_error_rate or ALLOWED

    @property
    def limited(self) -> bool:
        """Whether it has any hard limit."""
        return any(x is not None for x in (self.max_error_rate, self.max_p95, self.max_mean))

    def applies(self, *, shadow: bool) -> bool:
        """Whether it can find out anything in a stage of that kind."""
        return self.kind in ("errors", "differences") if shadow else self.kind != "differences"

    def relevant(self, observation: Observation) -> bool:
        """Whether the observation is an event that the guard's test counts."""
        match self.kind:
            case "errors":
                return not observation.ok
            case "latency":
                return self.sla is not None and observation.latency > self.sla
            case "differences":
                return bool(observation.differences)
            case "assignment":
                return True


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a guard says. It trips when `evidence` reaches `limit` (1/alpha) or at a hard limit.

    `reason` is a sentence with the numbers; `at` is the time (epoch seconds) of the observation
    that tripped it, 0.0 when it has not tripped; `hard` says that a hard limit did. `excused` says
    which limit the candidate breaks just now without tripping, because the baseline does as well.
    """

    guard: Kind
    verdict: Verdict
    evidence: float
    limit: float
    reason: str
    at: float = 0.0
    hard: bool = False
    excused: str = ""


class GuardState:
    """What one guard has seen. `fold` each observation of the split, in the feed's order.

    It holds sums, a window of bounded size and, with `per: unit`, one entry per counted unit. It
    is never stored: folding the feed again gives the same state.
    """

    __slots__ = (
        "_baseline_window",
        "_bounds",
        "_counted",
        "_limited",
        "_logs",
        "_now",
        "_samples",
        "_segments",
        "_window",
        "baseline",
        "candidate",
        "excused",
        "guard",
        "trip",
    )

    def __init__(self, guard: Guard, baseline: str, candidate: str) -> None:
        self.guard = guard
        self.baseline = baseline
        self.candidate = candidate
        self.trip: Judgement | None = None
        self.excused = ""
        self._window, self._baseline_window = self._new_windows()
        self._now = (-1.0, -1)
        self._segments: dict[float, dict[float, list[int]]] = {}
        self._logs: dict[float, float] = {}
        self._bounds: dict[str, tuple[float, float]] = {}
        self._counted: set[str] = set()
        self._samples: dict[int, int] = {}
        self._limited = guard.limited

    def fold(self, observation: Observation, stage: int | None = None) -> None:
        """Take in one observation; those of other arms are ignored. `stage` is the key of the stage
        that it counts for; its own (`stage_key`) when None."""
        on_candidate = observation.arm == self.candidate
        if not on_candidate and observation.arm != self.baseline:
            return
        if on_candidate and self._is_sample(observation):
            key = stage_key(observation) if stage is None else stage
            self._samples[key] = self._samples.get(key, 0) + 1
        if self._limited and (not observation.shadow or self.guard.kind == "errors"):
            self._fold_limits(observation, on_candidate)
        null = self._null(observation, on_candidate)
        if 0 < null < 1:
            absolute = self._is_absolute(observation)
            hit = self.guard.relevant(observation) if absolute else on_candidate
            self._fold_event(observation, null, hit)

    def sample(self, share: float) -> int:
        """Requests of the candidate in the stage of that share (0 for shadow)."""
        key = 0 if self.guard.kind == "differences" else round(share * BUCKETS)
        return self._samples.get(key, 0)

    @property
    def log_evidence(self) -> float:
        """ln E of everything seen so far."""
        for share, groups in self._segments.items():
            if share not in self._logs:
                self._logs[share] = math.fsum(
                    self._log_test(s1, s0, null) for null, (s1, s0) in groups.items()
                )
        return log_mixture([self._logs[share] for share in self._segments], self.guard.segments)

    def _log_test(self, s1: int, s0: int, null: float) -> float:
        if self.guard.kind == "assignment":
            return log_evidence(s1, s0, null, one_sided=False)
        return log_excess(s1, s0, null)

    def totals(self, *, absolute: bool) -> tuple[int, int, float]:
        """Events on the candidate, all events, and how many the candidate should have had."""
        groups = [
            (null, counts)
            for share, segment in self._segments.items()
            if (not 0 < share < 1) == absolute
            for null, counts in segment.items()
        ]
        hits = sum(s1 for _, (s1, _) in groups)
        everything = sum(s1 + s0 for _, (s1, s0) in groups)
        return hits, everything, math.fsum(null * (s1 + s0) for null, (s1, s0) in groups)

    def _is_absolute(self, observation: Observation) -> bool:
        return self.guard.kind == "differences" or observation.share >= 1

    def _is_sample(self, observation: Observation) -> bool:
        if self.guard.kind == "differences":
            return _compared(observation)
        if observation.shadow:
            return self.guard.kind == "errors"
        return observation.share > 0

    def _null(self, observation: Observation, on_candidate: bool) -> float:
        """The null probability of this observation's event; 0 or 1 when it tells nothing."""
        kind = self.guard.kind
        if kind == "differences":
            testable = _compared(observation)
        else:
            testable = not observation.shadow and observation.share > 0
        if not testable:
            return 0.0
        if self._is_absolute(observation):
            fits = on_candidate and kind != "assignment"
            return self._absolute_null(observation) if fits else 0.0
        if not self.guard.relevant(observation):
            return 0.0
        if self.guard.per == "unit":
            return self._unit_null(observation, on_candidate)
        return observation.share

    def _absolute_null(self, observation: Observation) -> float:
        """Per unit, its first request counts, whatever became of that."""
        if self.guard.per == "unit":
            if observation.unit in self._counted:
                return 0.0
            self._counted.add(observation.unit)
        return self.guard.allowed_rate

    def _unit_null(self, observation: Observation, on_candidate: bool) -> float:
        """The unit's chance to be on the candidate, given the arms on which it was counted before.

        A unit is on the candidate when its bucket lies below the share, so each event bounds
        where its bucket can be.
        """
        low, high = self._bounds.get(observation.unit, (0.0, 1.0))
        inside = min(max(observation.share, low), high)
        self._bounds[observation.unit] = (low, inside) if on_candidate else (inside, high)
        return (inside - low) / (high - low) if high > low else 0.0

    def _fold_event(self, observation: Observation, null: float, hit: bool) -> None:
        share = 0.0 if self.guard.kind == "differences" else observation.share
        counts = self._segments.setdefault(share, {}).setdefault(null, [0, 0])
        counts[0 if hit else 1] += 1
        self._logs.pop(share, None)
        could_rise = hit or self.guard.kind == "assignment"
        if could_rise and self.trip is None and self.log_evidence >= -math.log(self.guard.alpha):
            self._set_trip(describe(self), observation)

    def _fold_limits(self, observation: Observation, on_candidate: bool) -> None:
        if not self._is_of_now(observation):
            return
        window = self._window if on_candidate else self._baseline_window
        window.add(observation.at, observation.ok, observation.latency)
        if on_candidate and self.trip is None and len(window) >= self.guard.min_sample:
            self._baseline_window.forget(observation.at)
            broken, excused = _broken_limit(self.guard, window, self._baseline_window)
            self.excused = broken if excused else ""
            if broken and not excused:
                self._set_trip(broken, observation, hard=True)

    def _is_of_now(self, observation: Observation) -> bool:
        """False for what is late, from another share. With a new share the windows begin anew: an
        arm that has just got most of the traffic has had most of its requests just now, so what
        both have had in the same seconds would not look alike."""
        share, epoch = self._now
        if observation.share == share:
            return True
        if observation.epoch < epoch:
            return False
        self._now = (observation.share, observation.epoch)
        self._window, self._baseline_window = self._new_windows()
        return True

    def _new_windows(self) -> tuple[Window, Window]:
        over = math.inf if self.guard.max_p95 is None else self.guard.max_p95
        return Window(self.guard.window, over=over), Window(self.guard.window, over=over)

    def _set_trip(self, why: str, observation: Observation, *, hard: bool = False) -> None:
        self.trip = Judgement(
            guard=self.guard.kind,
            verdict="trip",
            evidence=as_evidence(self.log_evidence),
            limit=1 / self.guard.alpha,
            reason=f"{self.guard.kind}: {why}",
            at=observation.at,
            hard=hard,
        )


def judge(state: GuardState, share: float) -> Judgement:
    """What the guard says in the stage with that share of traffic, 0.0 to 1.0 (0.0 for shadow).

    `trip` as soon as there is reason to; else `not-enough` until the candidate has had
    `min_sample` requests in this stage; else `pass`.
    """
    if state.trip is not None:
        return state.trip
    guard = state.guard
    sample = state.sample(share)
    verdict: Verdict = "pass"
    text = describe(state)
    if share <= 0 and guard.kind in ("latency", "assignment"):
        verdict = "not-enough"
        text = "a shadow stage has none that count; it does not wait for this guard"
    elif sample < guard.min_sample:
        verdict = "not-enough"
        what = (
            "copies compared" if guard.kind == "differences" else "requests of the candidate seen"
        )
        text = f"{sample:,} of {guard.min_sample:,} {what}; {text}"
    return Judgement(
        guard=guard.kind,
        verdict=verdict,
        evidence=as_evidence(state.log_evidence),
        limit=1 / guard.alpha,
        reason=f"{guard.kind}: {text}",
        excused=f"{guard.kind}: {state.excused}" if state.excused else "",
    )


_EVENTS = {
    "errors": ("failures", "requests failed"),
    "latency": ("late requests", "requests were late"),
    "differences": ("", "shadow answers differed"),
    "assignment": ("assignments", ""),
}


def describe(state: GuardState) -> str:
    """The test's counts and its evidence in words."""
    events, happened = _EVENTS[state.guard.kind]
    parts = []
    hits, everything, expected = state.totals(absolute=False)
    if everything:
        parts.append(
            f"{hits:,} of {everything:,} {events} fell on the candidate, {expected:,.1f} expected"
        )
    hits, everything, _ = state.totals(absolute=True)
    if everything:
        allowed = _percent(state.guard.allowed_rate)
        parts.append(f"{hits:,} of {everything:,} {happened}, {allowed} allowed")
    if not parts:
        return f"no {events or 'shadow answers'} yet"
    evidence, limit = as_evidence(state.log_evidence), 1 / state.guard.alpha
    return f"{'; '.join(parts)} (evidence {_number(evidence)}, trips at {_number(limit)})"


def stage_key(observation: Observation) -> int:
    """The stage that an observation belongs to: the candidate's share in 0.01 %, 0 for shadow."""
    return 0 if observation.shadow else round(observation.share * BUCKETS)


def _compared(observation: Observation) -> bool:
    """Whether it is a shadow with an answer that could be compared."""
    good = observation.ok and not observation.error
    return observation.shadow and (good or bool(observation.differences))


def _broken_limit(guard: Guard, window: Window, baseline: Window) -> tuple[str, bool]:
    """Which hard limit the candidate breaks, in words ("": none), and whether the baseline breaks
    it as well, so that a rollback would not help. One that it breaks alone goes first."""
    found = [
        broken
        for broken in (
            _too_many_failures(guard.max_error_rate, window, baseline),
            _slow_p95(guard.max_p95, window, baseline),
            _slow_mean(guard.max_mean, window, baseline),
        )
        if broken is not None
    ]
    return min(found, key=lambda broken: broken[1], default=("", False))


def _too_many_failures(
    limit: float | None, window: Window, baseline: Window
) -> tuple[str, bool] | None:
    rate = window.failed / len(window)
    if limit is None or rate <= limit:
        return None
    excused = _in_line(window.failed, len(window), baseline.failed, len(baseline))
    if excused and baseline.failed <= limit * len(baseline):
        return None  # it may be chance
    return (
        f"{window.failed:,} of the last {len(window):,} requests of the candidate failed "
        f"({_percent(rate)}, at most {_percent(limit)} allowed)",
        excused,
    )


def _slow_p95(limit: float | None, window: Window, baseline: Window) -> tuple[str, bool] | None:
    if limit is None or not window.exceeds(0.95):
        return None
    if not _in_line(window.late, len(window), baseline.late, len(baseline)):
        return _too_slow("95th percentile", window.quantile(0.95), limit, window), False
    if not baseline.exceeds(0.95):
        return None  # it may be chance
    value = window.latencies.quantile(0.95) or 0.0
    if value <= SLOWER * (baseline.latencies.quantile(0.95) or 0.0):
        return _too_slow("95th percentile", value, limit, window), True
    return _too_slow("95th percentile", window.quantile(0.95), limit, window), False


def _slow_mean(limit: float | None, window: Window, baseline: Window) -> tuple[str, bool] | None:
    mean, other = window.latencies.mean or 0.0, baseline.latencies.mean or 0.0
    if limit is None or mean <= limit:
        return None
    excused = other >= NEAR * limit and mean <= SLOWER * other and len(baseline) >= EXCUSING
    if excused and other <= limit:
        return None  # the baseline is near the limit too
    return _too_slow("mean", mean, limit, window), excused


def _in_line(count: int, total: int, other: int, other_total: int) -> bool:
    """Whether the candidate's rate fits the baseline's: a two-sample test of proportions.

    It only delays a hard limit, and only while the baseline has the same trouble, so it need not
    be valid at every look.
    """
    if other < EXCUSING:
        return False
    pooled = (count + other) / (total + other_total)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / total + 1 / other_total))
    return count / total - other / other_total <= IN_LINE * spread


def _too_slow(what: str, value: float | None, limit: float, window: Window) -> str:
    return (
        f"the {what} of the candidate's last {len(window):,} latencies is {_ms(value)}, "
        f"at most {_ms(limit)} allowed"
    )


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1000:.4g} ms"


def _percent(rate: float) -> str:
    return f"{rate * 100:.3g} %"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.2g}"
