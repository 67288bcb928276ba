from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.delivery.split import Arm, Hashing, Split
from aura.errors import SplitError
from aura.stats.hashing import BUCKETS, Hash, growthbook_hash

UNITS = [f"unit-{n}" for n in range(300)]


def split(*weights: float, mirror: str = "", sample: float = 1.0) -> Split:
    """A split of a baseline and candidates a, b, c, ... with these weights."""
    candidates = tuple(Arm("abcdefgh"[n], weight) for n, weight in enumerate(weights))
    rest = max(0.0, 1 - math.fsum(weights))
    return Split("s", 1, "seed", (Arm("base", rest), *candidates), mirror, sample)


@st.composite
def rising(draw: st.DrawFn, most: int = 4) -> tuple[list[float], list[float]]:
    """Weights of candidates, in buckets of 0.01 %, and weights that are nowhere smaller."""
    cuts = draw(st.lists(st.integers(0, BUCKETS), min_size=2, max_size=most + 1))
    edges = sorted(cuts)
    after = [high - low for low, high in zip([0, *edges[:-1]], edges, strict=True)][1:]
    before = [draw(st.integers(0, width)) for width in after]
    return [w / BUCKETS for w in before], [w / BUCKETS for w in after]


@given(rising())
def test_raising_weights_moves_nobody_back(weights: tuple[list[float], list[float]]) -> None:
    before, after = split(*weights[0]), split(*weights[1])
    for unit in UNITS:
        if before.assign(unit) != "base":
            assert after.assign(unit) != "base"


@given(rising(most=2))
def test_with_two_candidates_nobody_leaves_a_candidate(
    weights: tuple[list[float], list[float]],
) -> None:
    before, after = split(*weights[0]), split(*weights[1])
    for unit in UNITS:
        if before.assign(unit) != "base":
            assert after.assign(unit) == before.assign(unit)


@given(rising())
def test_shares_are_exact_and_add_up(weights: tuple[list[float], list[float]]) -> None:
    one = split(*weights[1])
    shares = [one.share(arm.name) for arm in one.arms]
    assert math.fsum(shares) == pytest.approx(1, abs=1e-12)
    assert shares[1:] == pytest.approx(weights[1], abs=1e-12)


def test_arms_own_the_ranges_of_growthbooks_hash() -> None:
    two = split(0.25, 0.1)
    for unit in UNITS:
        hashed = growthbook_hash("seed", unit)
        expected = "a" if hashed < 0.25 else "b" if hashed >= 0.9 else "base"
        assert two.assign(unit) == expected


def test_observed_shares_fit_the_weights() -> None:
    three = split(0.3, 0.2, 0.1)
    names = [three.assign(f"someone-{n}") for n in range(20_000)]
    for arm in three.arms:
        assert names.count(arm.name) / 20_000 == pytest.approx(three.share(arm.name), abs=0.015)


def test_all_or_nothing() -> None:
    assert {split(1.0).assign(unit) for unit in UNITS} == {"a"}
    assert {split(0.0).assign(unit) for unit in UNITS} == {"base"}
    assert {split().assign(unit) for unit in UNITS} == {"base"}
    assert {split(0.5, 0.5).assign(unit) for unit in UNITS} == {"a", "b"}


def test_the_resolution_is_a_hundredth_of_a_percent() -> None:
    assert split(0.0001).share("a") == 0.0001
    assert split(0.29).share("a") == 0.29
    assert split(0.12345).share("a") == 0.1234  # rounded down
    assert split(1 / 3, 1 / 3).share("base") == 0.3334
    with pytest.raises(SplitError, match="below the resolution"):
        Arm("a", 0.00005)


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, math.inf, -math.inf])
def test_impossible_weights_are_refused(weight: float) -> None:
    with pytest.raises(SplitError, match="weight of arm a"):
        Arm("a", weight)


def test_impossible_arms_are_refused() -> None:
    with pytest.raises(SplitError, match=r"add up to 1\.1"):
        Split("s", 1, "x", (Arm("base", 0.5), Arm("a", 0.6)))
    with pytest.raises(SplitError, match="two arms of the name a"):
        Split("s", 1, "x", (Arm("a", 0.5), Arm("a", 0.5)))
    with pytest.raises(SplitError, match="no arms"):
        Split("s", 1, "x", ())
    with pytest.raises(SplitError, match="empty name"):
        Arm("", 0.5)
    with pytest.raises(SplitError, match="mirrors to base"):
        split(0.0, mirror="base")
    with pytest.raises(SplitError, match="share of nan"):
        split(0.0, mirror="a", sample=math.nan)


def test_new_weights_are_the_next_epoch_with_the_same_seed() -> None:
    first = split(0.0)
    second = first.with_weights({"a": 0.1}, mirror="a")
    assert (second.epoch, second.seed, second.mirror) == (2, "seed", "a")
    assert [(arm.name, arm.weight) for arm in second.arms] == [("base", 0.9), ("a", 0.1)]
    third = second.with_weights({"base": 0.0, "a": 1.0})
    assert (third.epoch, third.mirror, third.share("base")) == (3, "", 0.0)
    assert third.with_weights({"base": 1.0, "a": 0.0}).share("a") == 0.0


def test_arms_that_are_not_named_keep_their_weight() -> None:
    assert split(0.2, 0.3).with_weights({"a": 0.1}).share("b") == 0.3


def test_new_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SplitError, match=r"no arm 'c'.*base, a, b"):
        split(0.2, 0.3).with_weights({"c": 0.1})
    with pytest.raises(SplitError, match="add up to"):
        split(0.2, 0.3).with_weights({"a": 0.9})
    with pytest.raises(SplitError, match="more than 1"):
        split(0.2).with_weights({"a": 0.9, "base": 0.9})
    with pytest.raises(SplitError, match="weight of arm a is nan"):
        split(0.2).with_weights({"a": math.nan})
    with pytest.raises(SplitError, match="no arm 'x'"):
        split(0.2).share("x")


def test_mirroring_a_sample_is_sticky_and_independent_of_the_arm() -> None:
    half = split(0.0, mirror="a", sample=0.5)
    mirrored = [unit for unit in UNITS if half.mirror_for(unit) == "a"]
    assert 100 < len(mirrored) < 200
    assert [half.mirror_for(unit) for unit in mirrored] == ["a"] * len(mirrored)
    low = [growthbook_hash("seed", unit) < 0.5 for unit in mirrored]
    assert 0.3 < sum(low) / len(low) < 0.7
    assert {split(0.0, mirror="a").mirror_for(unit) for unit in UNITS} == {"a"}
    assert {split(0.5).mirror_for(unit) for unit in UNITS} == {""}


@given(rising(), st.integers(0, 10**9), st.text(), st.floats(0, 1))
def test_json_round_trip(
    weights: tuple[list[float], list[float]], epoch: int, seed: str, sample: float
) -> None:
    arms = split(*weights[0]).arms
    one = Split("ß", epoch, seed, arms, mirror="a", sample=sample)
    assert Split.from_json(one.to_json()) == one
    assert Split.from_json(one.to_json()).to_json() == one.to_json()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"{}",
        b"[" * 100_000,
        b'{"name":"s","epoch":1e400,"seed":"x","arms":[["a",1]]}',
        b'{"name":"s","epoch":true,"seed":"x","arms":[["a",1]]}',
        b'{"name":"s","epoch":1,"seed":"x","arms":[["a",NaN]]}',
        b'{"name":"s","epoch":1,"seed":"x","arms":[["a",true]]}',
        b'{"name":"s","epoch":1,"seed":"x","arms":[["a"]]}',
        b'{"name":"s","epoch":1,"seed":"x","arms":[[1,1]]}',
        b'{"name":"s","epoch":1,"seed":"x","arms":7}',
        b'{"name":"s","epoch":1,"seed":"x","arms":[["a",1' + b"0" * 400 + b"]]}",
        b'{"name":null,"epoch":1,"seed":"x","arms":[["a",1]]}',
    ],
    ids=range(15),
)
def test_bytes_that_are_no_split_are_refused(data: bytes) -> None:
    with pytest.raises(SplitError):
        Split.from_json(data)


def test_a_newer_auras_keys_are_ignored() -> None:
    body = json.loads(split(0.5).to_json()) | {"new": 1}
    assert Split.from_json(json.dumps(body).encode()) == split(0.5)


# ------------------------------------------------------------------ other systems' hashes


def moved_in(algorithm: Hash, seed: str, weight: float) -> Split:
    arms = (Arm("base", 1 - weight), Arm("cand", weight))
    return Split("s", 1, "s/run", arms, hashing=Hashing(algorithm, seed))


def test_who_comes_from_another_system_keeps_the_users_places() -> None:
    """The published cases of Unleash and flagd (see tests/stats/test_hashing.py), as splits."""
    half = moved_in("unleash", "AB12A", 0.5)
    assert [half.assign(unit) for unit in ("122", "155")] == ["cand", "base"]
    tenth = moved_in("unleash", "Feature.flexibleRollout.10", 0.1)
    assert [tenth.assign(unit) for unit in ("174", "499")] == ["cand", "base"]
    heads = moved_in("flagd", "fractional-flag-shorthand", 0.5)
    assert heads.assign("jon@company.com") == "cand"
    assert heads.assign("jane@company.com") == "base"
    # GrowthBook: cases.json has 0.0505 for the seed "seed" and "a"
    assert moved_in("growthbook", "seed", 0.06).assign("a") == "cand"
    assert moved_in("growthbook", "seed", 0.05).assign("a") == "base"


def test_another_hash_is_stored_and_the_usual_one_is_not() -> None:
    split = moved_in("flagd", "key", 0.25)
    assert Split.from_json(split.to_json()) == split
    assert split.with_weights({"cand": 0.5}).hashing == Hashing("flagd", "key")
    assert b"hashing" not in moved_in("growthbook", "", 0.25).to_json()


def test_weights_that_a_hash_cannot_tell_are_refused() -> None:
    with pytest.raises(SplitError, match=r"0\.005.*unleash.*1%"):
        moved_in("unleash", "g", 0.005)
    with pytest.raises(SplitError, match="md5"):
        Hashing("md5")  # type: ignore[arg-type]
    with pytest.raises(SplitError, match="md5"):
        Split.from_json(moved_in("flagd", "key", 0.25).to_json().replace(b"flagd", b"md5"))
