"""What the copies of requests have shown: in which fields answers differ, and what is only noise.

Answers differ by themselves: times, ids, the order of what has none. So a part of the requests is
sent to the baseline once more. A field in which the baseline differs from itself about as often as
the candidate differs from it is **noise** (Twitter's Diffy, 2015; the rule is that of its
DifferencesFilter): with the rates r of the candidate and n of the baseline, it is real when

    r > n   and   |r - n| / (r + n) > relative   and   |r - n| > absolute

Rates of few requests say little. So for a field in which the baseline has ever differed from itself
there is a second condition, which may be looked at all the time. Of the requests with both copies
those count in which only one of the two differed. If the candidate were like the baseline, that
would be either copy with probability 1/2, whatever the field's noise; the e-process of
`aura.stats.eprocess` against 1/2 has to reach `evidence`. The evidence of each field is in the
report: it is McNemar's test, made valid at every look.

Everything here is pure. A report is bounded: in fields, in examples, and in the size of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aura.errors import CodecError, ConfigError
from aura.stats.eprocess import as_evidence, log_evidence

MOST_FIELDS = 200
"""Fields of one report; those that come later are counted as `dropped`."""

MOST_EXAMPLES = 5
"""Examples of one field: the first ones."""

MOST_EFFECTS = 100
LONGEST = 120
"""Characters of an example, a reason or a name."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a difference is real: see this module's docstring. Rates are 0 to 1, `evidence` is an
    e-value. Raises ConfigError."""

    relative: float = 0.2
    absolute: float = 0.0003
    evidence: float = 20.0

    def __post_init__(self) -> None:
        for name in ("relative", "absolute"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"the {name} threshold of noise is {getattr(self, name)}",
                    hint="It is at least 0 and below 1, say 20%",
                )
        if not (math.isfinite(self.evidence) and self.evidence >= 1):
            raise ConfigError(
                f"the evidence of noise is {self.evidence}", hint="It is an e-value: 1 or more"
            )


@dataclass(frozen=True, slots=True)
class Example:
    """One difference, short. `at` is epoch seconds; `run` the shadow run, `baseline_run` the other
    one, "" where there is none."""

    left: str
    right: str
    kind: str
    at: float
    run: str = ""
    baseline_run: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the answers. Counts are of requests.

    `raw`             the candidate's answer differed from the baseline's
    `noise`           the baseline's second answer did
    `only_candidate`  of those with both: only the candidate's, and `only_baseline` only that one
    `uncompared`      its comparer said nothing usable
    """

    raw: int = 0
    noise: int = 0
    only_candidate: int = 0
    only_baseline: int = 0
    uncompared: int = 0
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What one copy has shown.

    `differences` are the fields that differ with an example each, `noise` those in which the
    baseline differs from itself (None: it was not asked again). `uncompared` are fields whose
    comparer failed. `reason` says why nothing was compared at all. `effects` are what a shadow run
    would have done: (what, name, answered by). `cost` is what the copy cost, in the unit of who
    reports it.
    """

    differences: Mapping[str, Example] = field(default_factory=dict)
    noise: frozenset[str] | None = None
    uncompared: tuple[str, ...] = ()
    reason: str = ""
    effects: tuple[tuple[str, str, str], ...] = ()
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What all copies of one split for one arm have shown. Times are epoch seconds, 0.0 for none.

    `copies` were answered, `compared` of them compared, `paired` with a second answer of the
    baseline; in `differing` some field differed that was no noise then. `reasons` says why others
    were not compared, `skipped` why copies were not sent. `effects` counts what was suppressed, by
    "what name: answered by", and `violations` what answers that users got broke of the contract.
    `dropped` fields are over the bounds.
    """

    split: str
    arm: str
    since: float = 0.0
    until: float = 0.0
    copies: int = 0
    compared: int = 0
    paired: int = 0
    differing: int = 0
    cost: float = 0.0
    fields: Mapping[str, Field] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    effects: Mapping[str, int] = field(default_factory=dict)
    violations: Mapping[str, int] = field(default_factory=dict)
    dropped: int = 0

    @property
    def empty(self) -> bool:
        """Whether it says nothing at all."""
        return not (self.copies or self.skipped or self.violations)

    def to_json(self) -> bytes:
        """Compact JSON."""
        return _adapter().dump_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> ShadowReport:
        """Read what `to_json` wrote. Raises CodecError."""
        try:
            return _adapter().validate_json(data)
        except ValidationError as error:
            raise CodecError(
                f"a stored shadow report cannot be read: {error}",
                hint="It was not written by this version of Aura; clear it: aura shadow clear",
            ) from error


@cache
def _adapter() -> TypeAdapter[ShadowReport]:
    return TypeAdapter(ShadowReport)


def add(report: ShadowReport, found: Finding, at: float, limits: Thresholds) -> ShadowReport:
    """The report with one more copy."""
    report = replace(
        report,
        since=report.since or at,
        until=max(report.until, at),
        copies=report.copies + 1,
        cost=report.cost + found.cost,
        effects=_counted(report.effects, map(_effect, found.effects), MOST_EFFECTS),
    )
    if found.reason:
        reasons = _counted(report.reasons, [found.reason[:LONGEST]], MOST_EFFECTS)
        return replace(report, reasons=reasons)
    report = replace(
        report, compared=report.compared + 1, paired=report.paired + (found.noise is not None)
    )
    fields, dropped = dict(report.fields), report.dropped
    for path in dict.fromkeys([*found.differences, *(found.noise or ()), *found.uncompared]):
        if path not in fields and len(fields) >= MOST_FIELDS:
            dropped += 1
            continue
        fields[path] = _one_more(fields.get(path, Field()), path, found)
    report = replace(report, fields=fields, dropped=dropped)
    differing = report.differing + bool(real(report, found, limits))
    return replace(report, differing=differing)


def skip(report: ShadowReport, why: str) -> ShadowReport:
    """The report with one copy that was not sent."""
    return replace(report, skipped=_counted(report.skipped, [why], MOST_EFFECTS))


def violate(report: ShadowReport, what: Iterable[str]) -> ShadowReport:
    """The report with one answer that broke the contract in these ways."""
    return replace(report, violations=_counted(report.violations, map(_cut, what), MOST_EFFECTS))


def merged(one: ShadowReport, other: ShadowReport) -> ShadowReport:
    """Both together; of examples those of the first one go first."""
    fields, dropped = dict(one.fields), one.dropped + other.dropped
    for path, more in other.fields.items():
        if path not in fields and len(fields) >= MOST_FIELDS:
            dropped += 1
            continue
        fields[path] = _together(fields.get(path, Field()), more)
    return replace(
        one,
        since=min(filter(None, (one.since, other.since)), default=0.0),
        until=max(one.until, other.until),
        copies=one.copies + other.copies,
        compared=one.compared + other.compared,
        paired=one.paired + other.paired,
        differing=one.differing + other.differing,
        cost=one.cost + other.cost,
        fields=fields,
        reasons=_sum(one.reasons, other.reasons),
        skipped=_sum(one.skipped, other.skipped),
        effects=_sum(one.effects, other.effects),
        violations=_sum(one.violations, other.violations),
        dropped=dropped,
    )


def real(report: ShadowReport, found: Finding, limits: Thresholds) -> tuple[str, ...]:
    """The differences of one copy that are no noise, as far as the report knows: neither did the
    baseline differ from itself there this time, nor does it do so about as often."""
    now = found.noise or frozenset()
    return tuple(
        path
        for path in found.differences
        if path not in now and not is_noise(report, path, limits)
    )  # fmt: skip


def is_noise(report: ShadowReport, path: str, limits: Thresholds) -> bool:
    """Whether the differences in a field are noise; False for one that the baseline agrees with
    itself about."""
    one = report.fields.get(path)
    if one is None or not one.noise:
        return False
    candidate = one.raw / max(1, report.compared)
    baseline = one.noise / max(1, report.paired)
    gap = candidate - baseline
    beyond = gap > limits.absolute and gap / (candidate + baseline) > limits.relative
    return not (beyond and evidence(one) >= limits.evidence)


def evidence(one: Field) -> float:
    """The e-value against "the candidate differs no more than the baseline does from itself"."""
    if not one.only_candidate + one.only_baseline:
        return 1.0
    return as_evidence(log_evidence(one.only_candidate, one.only_baseline, 0.5, one_sided=True))


def shown(report: ShadowReport, limits: Thresholds) -> dict[str, Any]:
    """A report as JSON values: fields with the real ones first, each with its rates."""
    plain: dict[str, Any] = _adapter().dump_python(report, mode="json")
    plain["fields"] = [
        {
            "field": path,
            "noise_field": is_noise(report, path, limits),
            "raw_rate": round(one.raw / max(1, report.compared), 6),
            "noise_rate": round(one.noise / report.paired, 6) if report.paired else None,
            "evidence": evidence(one) if report.paired else None,
            **plain["fields"][path],
        }
        for path, one in sorted(
            report.fields.items(),
            key=lambda pair: (is_noise(report, pair[0], limits), -pair[1].raw, pair[0]),
        )
    ]
    return plain


def _one_more(one: Field, path: str, found: Finding) -> Field:
    example = found.differences.get(path)
    noisy = found.noise is not None and path in found.noise
    paired = found.noise is not None and path not in found.uncompared
    examples = one.examples
    if example is not None and len(examples) < MOST_EXAMPLES:
        short = replace(example, left=_cut(example.left), right=_cut(example.right))
        examples = (*examples, short)
    return Field(
        one.raw + (example is not None),
        one.noise + noisy,
        one.only_candidate + (paired and example is not None and not noisy),
        one.only_baseline + (paired and noisy and example is None),
        one.uncompared + (path in found.uncompared),
        examples,
    )


def _together(one: Field, other: Field) -> Field:
    return Field(
        one.raw + other.raw,
        one.noise + other.noise,
        one.only_candidate + other.only_candidate,
        one.only_baseline + other.only_baseline,
        one.uncompared + other.uncompared,
        (*one.examples, *other.examples)[:MOST_EXAMPLES],
    )


def _effect(effect: tuple[str, str, str]) -> str:
    what, name, answer = effect
    return f"{what} {_cut(name)}: {answer}"


def _counted(counts: Mapping[str, int], names: Iterable[str], most: int) -> Mapping[str, int]:
    found = dict(counts)
    for name in names:
        known = name if name in found or len(found) < most else "others"
        found[known] = found.get(known, 0) + 1
    return found


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    found = dict(one)
    for name, count in other.items():
        known = name if name in found or len(found) < MOST_EFFECTS else "others"
        found[known] = found.get(known, 0) + count
    return found


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
