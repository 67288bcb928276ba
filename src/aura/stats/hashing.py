"""The hash that decides who gets what, equal in every process and every language.

GrowthBook's hash (github.com/growthbook/growthbook, packages/sdk-js/src/util.ts): 32-bit FNV-1a
(http://www.isthe.com/chongo/tech/comp/fnv/) in which each UTF-16 code unit counts as one octet,
as JavaScript's `charCodeAt` gives them. A unit is thus kept on the same arm by a client that
uses any of GrowthBook's SDKs and by Aura.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

FNV_OFFSET = 0x811C9DC5
FNV_PRIME = 0x01000193
UINT32 = 0xFFFFFFFF

BUCKETS = 10_000
"""Resolution of version 2: one bucket is 0.01 %."""


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
