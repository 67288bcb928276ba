"""What copies have shown: which fields differ, what is noise, and how sure that is."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.delivery.guard import Guard, GuardState, judge
from aura.delivery.observation import Observation
from aura.delivery.shadow import (
    MOST_EXAMPLES,
    MOST_FIELDS,
    Example,
    Field,
    Finding,
    ShadowReport,
    Thresholds,
    add,
    evidence,
    is_noise,
    merged,
    real,
    shown,
)
from aura.errors import CodecError, ConfigError

LIMITS = Thresholds()
BLANK = ShadowReport("s", "new")


def finding(*differences: str, noise: tuple[str, ...] | None = None, **more: object) -> Finding:
    examples = {path: Example("1", "2", "value", 5.0) for path in differences}
    found = Finding(examples, None if noise is None else frozenset(noise))
    return replace(found, **more)  # type: ignore[arg-type]


def after(*findings: Finding, report: ShadowReport = BLANK) -> ShadowReport:
    for at, one in enumerate(findings, start=1):
        report = add(report, one, float(at), LIMITS)
    return report


def test_a_field_that_always_differs_by_itself_is_noise() -> None:
    """A time stamp: each of both copies differs in it, whoever answers."""
    report = after(*[finding("$.time", noise=("$.time",)) for _ in range(50)])
    assert is_noise(report, "$.time", LIMITS)
    assert evidence(report.fields["$.time"]) == 1.0
    assert report.differing == 0
    assert real(report, finding("$.time"), LIMITS) == ()


def test_a_field_about_which_the_baseline_agrees_with_itself_is_real_at_once() -> None:
    report = after(finding("$.total", noise=()))
    assert not is_noise(report, "$.total", LIMITS)
    assert real(report, finding("$.total"), LIMITS) == ("$.total",)
    assert report.differing == 1


def test_a_real_difference_below_noise_is_found_when_there_is_enough_evidence() -> None:
    """The baseline differs from itself in 30 % of the requests, the candidate in 90 %."""
    rng = random.Random(3)
    report = BLANK
    seen = []
    for at in range(400):
        theirs = ("$.text",) if rng.random() < 0.9 else ()
        noise = ("$.text",) if rng.random() < 0.3 else ()
        report = add(report, finding(*theirs, noise=noise), float(at), LIMITS)
        seen.append(is_noise(report, "$.text", LIMITS))
    assert not seen[-1]
    assert evidence(report.fields["$.text"]) > 1_000


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.5, 0.9])
def test_noise_of_any_rate_hardly_ever_counts(rate: float) -> None:
    """The candidate is the baseline: the guard sees nothing in 60 streams of 200 requests."""
    rng = random.Random(int(rate * 100))
    wrong = 0
    for _ in range(60):
        report, hits = BLANK, 0
        for at in range(200):
            theirs = ("$.x",) if rng.random() < rate else ()
            noise = ("$.x",) if rng.random() < rate else ()
            one = finding(*theirs, noise=noise if at < 20 or at % 5 == 0 else None)
            report = add(report, one, float(at), LIMITS)
            hits += bool(real(report, one, LIMITS))
        wrong += hits > 0.05 * 200
    assert wrong <= 3  # 5 % of the streams: the evidence of 20 is crossed by at most so many


def test_the_guard_counts_what_is_left_and_not_what_was_not_compared() -> None:
    guard = Guard(kind="differences", allowed=0.05, alpha=0.01)
    noisy, different, unknown = (GuardState(guard, "old", "new") for _ in range(3))

    def seen(differences: tuple[str, ...], error: str = "") -> Observation:
        return Observation(
            "s", 1, "new", "u", 1.0, ok=True, latency=0.1, shadow=True,
            differences=differences, error=error,
        )  # fmt: skip

    for _ in range(40):
        noisy.fold(seen(()))
        different.fold(seen(("$.total",)))
        unknown.fold(seen((), "not compared: suppressed: no answer"))
    assert judge(noisy, 0.0).verdict == "pass"
    assert judge(different, 0.0).verdict == "trip"
    assert judge(unknown, 0.0).verdict == "not-enough"


def test_what_was_not_compared_counts_by_its_reason() -> None:
    many = [
        finding(f"$.{number % 300}", effects=(("step", f"s{number}", "stub"),))
        for number in range(900)
    ]
    report = after(*many)
    assert len(report.fields) == MOST_FIELDS
    assert report.dropped > 0
    assert len(report.effects) <= 101
    assert max(len(one.examples) for one in report.fields.values()) == 3
    long = Finding({"$.a": Example("x" * 10_000, "y" * 10_000, "value", 1.0)})
    again = after(*[long] * 20)
    assert len(again.fields["$.a"].examples) == MOST_EXAMPLES
    assert len(again.to_json()) < 3_000


findings = st.builds(
    lambda paths, noise, cost: finding(*paths, noise=noise, cost=cost),
    st.lists(st.sampled_from(["$.a", "$.b", "$.c"]), unique=True),
    st.none() | st.lists(st.sampled_from(["$.a", "$.d"]), unique=True).map(tuple),
    st.integers(0, 4).map(float),
)


@given(st.lists(findings, max_size=12), st.integers(0, 12))
def test_reports_of_several_gateways_add_up(seen: list[Finding], cut: int) -> None:
    whole = after(*seen)
    parts = merged(after(*seen[:cut]), after(*seen[cut:]))
    assert (parts.copies, parts.compared, parts.paired, parts.cost) == (
        whole.copies, whole.compared, whole.paired, whole.cost
    )  # fmt: skip
    assert {path: replace(one, examples=()) for path, one in parts.fields.items()} == {
        path: replace(one, examples=()) for path, one in whole.fields.items()
    }
    assert ShadowReport.from_json(parts.to_json()) == parts


def test_the_shown_report_marks_noise_and_puts_what_is_real_first() -> None:
    report = after(*[finding("$.time", "$.total", noise=("$.time",)) for _ in range(30)])
    fields = shown(report, LIMITS)["fields"]
    assert [(one["field"], one["noise_field"]) for one in fields] == [
        ("$.total", False), ("$.time", True)
    ]  # fmt: skip
    assert fields[0]["raw_rate"] == 1.0
    assert fields[0]["noise_rate"] == 0.0
    assert fields[0]["evidence"] > 20
    assert fields[0]["examples"][0]["left"] == "1"


def test_evidence_is_the_e_process_against_one_half() -> None:
    """Eight discordant copies, all the candidate's: B(9, 1)/B(1, 1) over (1/2)^8, one-sided."""
    assert evidence(Field(only_candidate=8)) == pytest.approx((1 - 0.5**9) / 9 * 2**8 * 2)


@pytest.mark.parametrize(
    "wrong", [{"relative": 1.0}, {"absolute": -0.1}, {"evidence": 0.5}, {"evidence": float("nan")}]
)
def test_thresholds_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Thresholds(**wrong)


def test_a_document_that_is_no_report() -> None:
    with pytest.raises(CodecError, match="shadow clear"):
        ShadowReport.from_json(b"{}")
