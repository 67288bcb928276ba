"""Counts and durations by labels, of which there is only so much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aura.server import instruments
from aura.server.instruments import OTHER, Counts, Durations, Gauges, Spec

SPEC = Spec("aura_x", "counter", "x", ("name", "outcome"), 1)


def test_what_is_over_the_limit_goes_to_other_and_stays_there() -> None:
    counts = Counts(replace(SPEC, name="aura_x_total"), most=2)
    for name in ("a", "b", "c", "d", "a", "c"):
        counts.add(name, "ok")
    counts.add("b", "failed")  # a name that is known has all outcomes
    values = {tuple(s.labels.values()): s.value for s in counts.family().samples}
    assert values == {
        ("a", "ok"): 2, ("b", "ok"): 1, (OTHER, "ok"): 3, ("b", "failed"): 1,
    }  # fmt: skip


def test_durations_fall_into_the_bucket_that_they_are_at_most() -> None:
    spec = Spec("aura_y_seconds", "histogram", "y", ("name",), 1)
    took = Durations(spec, (0.1, 1.0))
    for seconds in (0.1, 0.2, 1.0, 5.0, -3.0):
        took.add(("a",), seconds)
    values = {s.labels.get("le", s.name): s.value for s in took.family().samples}
    assert values == {
        "0.1": 2, "1.0": 4, "+Inf": 5, "aura_y_seconds_count": 5,
        "aura_y_seconds_sum": pytest.approx(6.3),
    }  # fmt: skip


def test_what_is_gone_makes_room() -> None:
    gauges = Gauges(Spec("aura_z", "gauge", "z", ("name",), 1), most=2)
    for names in (("a", "b"), ("c", "d", "e"), ("e",)):
        found = gauges.family(((name,), 1.0) for name in names)
        labels = [s.labels["name"] for s in found.samples]
        assert labels == [*names[:2], *[OTHER] * (len(names) > 2)]


def test_odd_labels_are_written() -> None:
    counts = Counts(Spec("aura_x_total", "counter", "x", ("name",), 1))
    odd = 'a"b\\c\nd\ud800' + "x" * 1_000
    counts.add(odd)
    counts.add(odd)
    [sample] = [s for s in counts.family().samples if s.name == "aura_x_total"]
    assert sample.value == 2
    assert len(sample.labels["name"]) == instruments.LONGEST
    sample.labels["name"].encode()
