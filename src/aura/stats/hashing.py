"""The hash that decides who gets what, equal in every process and every language.

The default is GrowthBook's hash (github.com/growthbook/growthbook, packages/sdk-js/src/util.ts):
32-bit FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/) in which each UTF-16 code unit counts as
one octet, as JavaScript's `charCodeAt` gives them. A unit is thus kept on the same arm by a client
that uses any of GrowthBook's SDKs and by Aura.

Who comes from another system keeps its users' places with that system's hash (`bucket`):

    unleash    MurmurHash3 of "<group>:<unit>", modulo 100 (docs.getunleash.io, "Stickiness";
               github.com/Unleash/client-specification): places of 1 %
    flagd      MurmurHash3 of "<flag key><unit>", scaled by (hash * total weight) >> 32
               (github.com/open-feature/flagd, core/pkg/evaluator/fractional.go; older releases
               scaled the absolute value of the signed hash, which is not offered)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

FNV_OFFSET = 0x811C9DC5
FNV_PRIME = 0x01000193
UINT32 = 0xFFFFFFFF

BUCKETS = 10_000
"""Resolution of version 2: one bucket is 0.01 %."""

Hash = Literal["growthbook", "unleash", "flagd"]

HASHES: tuple[Hash, ...] = get_args(Hash)

STEP: dict[Hash, int] = {"growthbook": 1, "unleash": BUCKETS // 100, "flagd": 1}
"""Between which buckets a hash can tell: its buckets are multiples of this."""

WEIGHTS_OFF = 0.01
"""GrowthBook uses equal weights instead of those whose sum is farther than this from 1."""


def bucket(algorithm: Hash, seed: str, unit: str) -> int:
    """The unit's bucket, 0 to 9999.

    `seed` is GrowthBook's seed, Unleash's group id, or flagd's flag key (in general what stands
    before the unit in the text that is hashed). Raises ValueError for an unknown algorithm.
    """
    if algorithm == "growthbook":
        return growthbook_bucket(seed, unit)
    if algorithm == "unleash":
        return (unleash_place(seed, unit) - 1) * STEP["unleash"]
    if algorithm == "flagd":
        return murmur3_32((seed + unit).encode("utf-8", "replace")) * BUCKETS >> 32
    raise ValueError(f"no hash {algorithm!r}, use {', '.join(HASHES)}")


def unleash_place(group: str, unit: str) -> int:
    """Unleash's normalised value, 1 to 100: the unit is in from that percentage on."""
    return murmur3_32(f"{group}:{unit}".encode("utf-8", "replace")) % 100 + 1


def murmur3_32(data: bytes, seed: int = 0) -> int:
    """MurmurHash3_x86_32 (Austin Appleby, github.com/aappleby/smhasher; public domain)."""
    value = seed & UINT32
    whole = len(data) & ~3
    for (block,) in struct.iter_unpack("<I", data[:whole]):
        value ^= _scrambled(block)
        value = (_rotated(value, 13) * 5 + 0xE6546B64) & UINT32
    if whole < len(data):
        value ^= _scrambled(int.from_bytes(data[whole:], "little"))
    value ^= len(data)
    value = ((value ^ value >> 16) * 0x85EBCA6B) & UINT32
    value = ((value ^ value >> 13) * 0xC2B2AE35) & UINT32
    return value ^ value >> 16


def _scrambled(block: int) -> int:
    return (_rotated((block * 0xCC9E2D51) & UINT32, 15) * 0x1B873593) & UINT32


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & UINT32


def growthbook_ranges(
    variations: int, coverage: float = 1.0, weights: Sequence[float] | None = None
) -> list[tuple[float, float]]:
    """GrowthBook's range of hashes for each variation: [low, high), each shortened by `coverage`.

    As its SDKs do it: coverage is cut to 0..1, and weights that do not fit (another number of
    them, or a sum that is not about 1) are replaced by equal ones.
    """
    coverage = min(1.0, max(0.0, coverage))
    equal = [1 / variations] * variations if variations > 0 else []
    shares = list(equal if weights is None else weights)
    if len(shares) != variations or abs(sum(shares) - 1) > WEIGHTS_OFF:
        shares = equal
    ranges = []
    start = 0.0
    for share in shares:
        ranges.append((start, start + coverage * share))
        start += share
    return ranges


def growthbook_variation(value: float, ranges: Sequence[tuple[float, float]]) -> int:
    """The index of the range in which the hash lies, -1 for none."""
    inside = (i for i, (low, high) in enumerate(ranges) if low <= value < high)
    return next(inside, -1)


def fnv1a32(text: str) -> int:
    """The 32-bit FNV-1a hash of the text's UTF-16 code units.

    >>> hex(fnv1a32("a"))
    '0xe40c292c'
    """
    value = FNV_OFFSET
    for unit in _code_units(text):
        value = ((value ^ unit) * FNV_PRIME) & UINT32
    return value


def _code_units(text: str) -> Iterable[int]:
    """A lone surrogate stands for itself, as in a JavaScript string."""
    if text.isascii():
        return text.encode("ascii")
    encoded = text.encode("utf-16-le", "surrogatepass")
    return struct.unpack(f"<{len(encoded) // 2}H", encoded)


def growthbook_bucket(seed: str, value: str) -> int:
    """The bucket, 0 to 9999, of a value: version 2 of GrowthBook's hash as a whole number."""
    return fnv1a32(str(fnv1a32(seed + value))) % BUCKETS


def growthbook_hash(seed: str, value: str, version: int = 2) -> float:
    """GrowthBook's hash of a value, 0.0 <= hash < 1.0.

    Version 2 (unbiased, the default) has a resolution of 0.0001, version 1 (for experiments that
    began with it) one of 0.001. Raises ValueError for any other version.

    >>> growthbook_hash("seed", "a")
    0.0505
    """
    if version == 2:
        return growthbook_bucket(seed, value) / BUCKETS
    if version == 1:
        return fnv1a32(value + seed) % 1000 / 1000
    raise ValueError(f"GrowthBook's hash has the versions 1 and 2, not {version}")
