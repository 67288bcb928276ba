"""The hash against published numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.stats.hashing import (
    BUCKETS,
    HASHES,
    STEP,
    bucket,
    fnv1a32,
    growthbook_bucket,
    growthbook_hash,
    growthbook_ranges,
    growthbook_variation,
    murmur3_32,
    unleash_place,
)

# github.com/growthbook/growthbook, packages/sdk-js/test/cases.json, "hash" (specVersion 0.8.0):
# seed, value, version, expected.
PUBLISHED = [
    ("", "a", 1, 0.22),
    ("", "b", 1, 0.077),
    ("b", "a", 1, 0.946),
    ("ef", "d", 1, 0.652),
    ("asdf", "8952klfjas09ujk", 1, 0.549),
    ("", "123", 1, 0.011),
    ("", '___)((*":&', 1, 0.563),
    ("seed", "a", 2, 0.0505),
    ("seed", "b", 2, 0.2696),
    ("foo", "ab", 2, 0.2575),
    ("foo", "def", 2, 0.2019),
    ("89123klj", "8952klfjas09ujkasdf", 2, 0.124),
    ("90850943850283058242805", "123", 2, 0.7516),
    ("()**(%$##$%#$#", '___)((*":&', 2, 0.0128),
]

# Results of GrowthBook's JavaScript algorithm (packages/sdk-js/src/util.ts) in Node.js for text
# outside ASCII: FNV-1a of the text, and version 2 with the seed "seed".
JAVASCRIPT = [
    ("é", 0x6C0B6C44, 0.8663),
    ("日本", 0x5FFCBEA4, 0.9652),
    ("😀", 0xCB31C4B8, 0.4346),
    ("x\ud83d", 0x14BB3CCE, 0.4836),
    ("naïve 😀 café", 0xB3C35A02, 0.0237),
]


@pytest.mark.parametrize(("seed", "value", "version", "expected"), PUBLISHED)
def test_growthbooks_published_vectors(
    seed: str, value: str, version: int, expected: float
) -> None:
    assert growthbook_hash(seed, value, version) == expected


def test_an_unknown_version_is_refused() -> None:
    """The fifteenth case: version 99 has no hash."""
    with pytest.raises(ValueError, match="not 99"):
        growthbook_hash("abc", "def", 99)


@pytest.mark.parametrize(("text", "fnv", "hashed"), JAVASCRIPT)
def test_text_outside_ascii_is_hashed_as_in_javascript(text: str, fnv: int, hashed: float) -> None:
    assert fnv1a32(text) == fnv
    assert growthbook_hash("seed", text) == hashed


@pytest.mark.parametrize(
    ("text", "expected"),  # Landon Curt Noll's FNV-1a test suite (test_fnv.c)
    [("", 0x811C9DC5), ("a", 0xE40C292C), ("b", 0xE70C2DE5), ("foobar", 0xBF9CF968)],
)
def test_fnv1a_of_ascii_is_the_standard_one(text: str, expected: int) -> None:
    assert fnv1a32(text) == expected


@given(st.text(), st.text())
def test_hash_and_bucket_agree_and_stay_in_range(seed: str, value: str) -> None:
    assert 0 <= growthbook_bucket(seed, value) < BUCKETS
    assert growthbook_hash(seed, value) == growthbook_bucket(seed, value) / BUCKETS


def test_buckets_are_even() -> None:
    buckets = [growthbook_bucket("even", f"unit-{n}") for n in range(20_000)]
    tenths = [sum(b // 1000 == tenth for b in buckets) for tenth in range(10)]
    chi_square = sum((count - 2000) ** 2 / 2000 for count in tenths)
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001


# ------------------------------------------------------------------ GrowthBook's bucketing

# cases.json, "getBucketRange": variations, coverage, weights, ranges.
RANGES: list[tuple[int, float, list[float] | None, list[tuple[float, float]]]] = [
    (2, 1, None, [(0, 0.5), (0.5, 1)]),
    (2, 0.5, None, [(0, 0.25), (0.5, 0.75)]),
    (2, 0, None, [(0, 0), (0.5, 0.5)]),
    (4, 1, None, [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]),
    (2, 1, [0.4, 0.6], [(0, 0.4), (0.4, 1)]),
    (3, 1, [0.2, 0.3, 0.5], [(0, 0.2), (0.2, 0.5), (0.5, 1)]),
    (3, 0.2, [0.2, 0.3, 0.5], [(0, 0.04), (0.2, 0.26), (0.5, 0.6)]),
    (2, -0.2, None, [(0, 0), (0.5, 0.5)]),
    (2, 1.5, None, [(0, 0.5), (0.5, 1)]),
    (2, 1, [0.4, 0.1], [(0, 0.5), (0.5, 1)]),
    (2, 1, [0.7, 0.6], [(0, 0.5), (0.5, 1)]),
    (4, 1, [0.4, 0.4, 0.2], [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]),
    (2, 1, [0.4, 0.5999], [(0, 0.4), (0.4, 0.9999)]),
]

HALVES, REDUCED = [(0.0, 0.5), (0.5, 1.0)], [(0.0, 0.25), (0.5, 0.75)]

# cases.json, "chooseVariation": hash, ranges, variation.
CHOICES = [
    *((value, HALVES, index) for value, index in [(0.2, 0), (0.4, 0), (0.6, 1), (0.8, 1)]),
    *((value, HALVES, index) for value, index in [(0.0, 0), (0.5, 1)]),
    *((value, REDUCED, index) for value, index in [(0.2, 0), (0.4, -1), (0.6, 1)]),
    *((value, REDUCED, index) for value, index in [(0.8, -1), (0.25, -1), (0.5, 1)]),
    (0.5, [(0.0, 0.5), (0.5, 0.5), (0.5, 1.0)], 2),
]

# cases.json, "inNamespace": unit, namespace, the hash of version 1 is at least 0.4.
NAMESPACES = [
    *(("1", "namespace1", True), ("1", "namespace2", True), ("2", "namespace1", True)),
    *(("2", "namespace2", True), ("3", "namespace1", True), ("3", "namespace2", False)),
    *(("4", "namespace1", True), ("4", "namespace2", False)),
]


@pytest.mark.parametrize(("variations", "coverage", "weights", "expected"), RANGES)
def test_growthbooks_published_ranges(
    variations: int,
    coverage: float,
    weights: list[float] | None,
    expected: list[tuple[float, float]],
) -> None:
    ranges = growthbook_ranges(variations, coverage, weights)
    assert ranges == [pytest.approx(each) for each in expected]


@pytest.mark.parametrize(("value", "ranges", "expected"), CHOICES)
def test_growthbooks_published_choices(
    value: float, ranges: list[tuple[float, float]], expected: int
) -> None:
    assert growthbook_variation(value, ranges) == expected


@pytest.mark.parametrize(("unit", "namespace", "above"), NAMESPACES)
def test_growthbooks_published_namespaces(unit: str, namespace: str, above: bool) -> None:
    assert (growthbook_hash(f"__{namespace}", unit, version=1) >= 0.4) == above


def test_no_variations_have_no_ranges() -> None:
    assert growthbook_ranges(0) == growthbook_ranges(-1) == []


# ------------------------------------------------------------------ other systems' hashes


@pytest.mark.parametrize(
    ("text", "seed", "expected"),  # MurmurHash3_x86_32 as listed in Wikipedia's "MurmurHash"
    [
        ("", 0, 0x00000000),
        ("", 1, 0x514E28B7),
        ("test", 0, 0xBA6BD213),
        ("test", 0x9747B28C, 0x704B81DC),
        ("Hello, world!", 0x9747B28C, 0x24884CBA),
        ("The quick brown fox jumps over the lazy dog", 0x9747B28C, 0x2FA826CD),
    ],
)
def test_murmur3(text: str, seed: int, expected: int) -> None:
    assert murmur3_32(text.encode(), seed) == expected


def test_unleashs_published_places() -> None:
    # github.com/Unleash/unleash-client-go, internal/strategies/helpers_test.go
    assert unleash_place("gr1", "123") == 73
    assert unleash_place("groupX", "999") == 25


@pytest.mark.parametrize(
    ("group", "unit", "percentage", "enabled"),
    # github.com/Unleash/client-specification, 03-gradual-rollout-user-id-strategy.json and
    # 10-flexible-rollout-strategy.json
    [
        ("AB12A", "122", 50, True),
        ("AB12A", "155", 50, False),
        ("Feature.flexibleRollout.10", "174", 10, True),
        ("Feature.flexibleRollout.10", "499", 10, False),
        ("Feature.flexibleRollout.userId.55", "25", 55, True),
        ("Feature.flexibleRollout.sessionId.42", "147", 42, True),
    ],
)
def test_unleashs_published_rollouts(group: str, unit: str, percentage: int, enabled: bool) -> None:
    assert (bucket("unleash", group, unit) < percentage * BUCKETS // 100) == enabled


@pytest.mark.parametrize(
    ("key", "unit", "of", "expected"),
    # github.com/open-feature/flagd-testbed, evaluator/gherkin/fractional.feature (v2): clubs,
    # diamonds, hearts, spades of 25 each; heads and tails, lower and upper of 50 each
    [
        *(("fractional-flag", "jack", 4, 2), ("fractional-flag", "queen", 4, 3)),
        *(("fractional-flag", "ten", 4, 0), ("fractional-flag", "nine", 4, 1)),
        ("fractional-flag", "3", 4, 0),
        ("fractional-flag-shorthand", "jon@company.com", 2, 0),
        ("fractional-flag-shorthand", "jane@company.com", 2, 1),
        *(("shared-seed", "seven", 4, 2), ("shared-seed", "eight", 4, 1)),
        *(("shared-seed", "nine", 4, 0), ("shared-seed", "two", 4, 3)),
        *(("", "ejOoVL", 2, 0), ("", "bY9fO-", 2, 0), ("", "SI7p-", 2, 0)),
        *(("", "6LvT0", 2, 1), ("", "ceQdGm", 2, 1)),
        *(("", "jon@company.com", 100, 36), ("", "user1", 100, 76)),
    ],
)
def test_flagds_published_variants(key: str, unit: str, of: int, expected: int) -> None:
    assert bucket("flagd", key, unit) * of // BUCKETS == expected


@given(st.text(), st.text())
def test_every_hash_gives_a_bucket_it_can_tell(seed: str, unit: str) -> None:
    for algorithm in HASHES:
        place = bucket(algorithm, seed, unit)
        assert 0 <= place < BUCKETS
        assert place % STEP[algorithm] == 0


def test_an_unknown_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="md5"):
        bucket("md5", "seed", "unit")  # type: ignore[arg-type]
