"""Ranges of versions, as npm reads them.

    ^1.2.3    1.2.3 and what changes nothing left of the first number that is not 0: below 2.0.0
    ~1.2.3    1.2.3 and later patches: below 1.3.0
    1.x, 1    any 1; `*` and nothing: any
    >=1 <3    both; `1.2 - 2.3`: from 1.2.0 up to any 2.3; `^1 || ^3`: one of them

A pre-release (1.2.0-rc.1) is in a range only when a comparator of the same three numbers has one
too: who writes ^1.2.0-rc.1 has chosen to live with those, and for no other version.

The source is the grammar and the tables of https://github.com/npm/node-semver (README, "Ranges").
Its loose mode and `includePrerelease` are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from semver import Version

from aura.errors import RangeError

LONGEST = 256
"""Characters of a range; npm's limit for a version."""

LARGEST = 2**53 - 1
"""The largest number in a version, as npm has it."""

_PRE = r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
_PART = r"(0|[1-9]\d*|[xX*])"
_PARTIAL = rf"[v=\s]*{_PART}(?:\.{_PART}(?:\.{_PART}{_PRE}(?:\+[0-9A-Za-z.-]+)?)?)?"
_COMPARATOR = re.compile(rf"(<=|>=|<|>|=|~>|~|\^)?{_PARTIAL}", re.ASCII)
_HYPHEN = re.compile(rf"{_PARTIAL}\s+-\s+{_PARTIAL}", re.ASCII)
_SPACE_AFTER = re.compile(r"(<=|>=|<|>|=|~>|~|\^)\s+")
_LOWEST = "0"  # the lowest pre-release: `<2.0.0-0` keeps those of 2.0.0 out


class Comparator(NamedTuple):
    """One comparison, as in `>=1.2.0`; `op` is one of < <= > >= and = ."""

    op: str
    version: Version

    def holds(self, version: Version) -> bool:
        """Whether the version is on the right side."""
        found = version.compare(self.version)
        return (
            (found < 0 and self.op in ("<", "<="))
            or (found > 0 and self.op in (">", ">="))
            or (found == 0 and self.op in ("=", "<=", ">="))
        )

    def __str__(self) -> str:
        return f"{self.op.removeprefix('=')}{self.version}"


_All = tuple[Comparator, ...]  # all of them must hold
_NOTHING: _All = (Comparator("<", Version(0, 0, 0, _LOWEST)),)


@dataclass(frozen=True, slots=True)
class Range:
    """A range: alternatives of comparators that must all hold. As text it is in npm's short form:
    `str(Range.parse("^1.2"))` is `>=1.2.0 <2.0.0-0`."""

    alternatives: tuple[_All, ...]

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read a range. Raises RangeError."""
        return cls(_parse(text))

    def __contains__(self, version: object) -> bool:
        try:
            found = Version.parse(str(version))
        except ValueError:
            return False
        return any(_allows(every, found) for every in self.alternatives)

    def __str__(self) -> str:
        return "||".join(" ".join(map(str, every)) for every in self.alternatives) or "*"

    def highest(self, versions: Iterable[str]) -> str | None:
        """The highest of the versions that are in the range, None when there is none."""
        found = [version for version in versions if version in self]
        return max(found, key=Version.parse) if found else None


def _allows(every: _All, version: Version) -> bool:
    if not all(one.holds(version) for one in every):
        return False
    return version.prerelease is None or any(
        one.version.prerelease and _numbers(one.version) == _numbers(version) for one in every
    )


def _numbers(version: Version) -> tuple[int, int, int]:
    return version.major, version.minor, version.patch


@lru_cache(maxsize=1_000)
def _parse(text: str) -> tuple[_All, ...]:
    if len(text) > LONGEST:
        raise _unreadable(text)
    try:
        found = [_alternative(part.strip()) for part in text.split("||")]
    except ValueError as error:  # a pre-release with a leading zero, a number without end
        raise _unreadable(text) from error
    real = [every for every in found if every != _NOTHING] or found[:1]
    return ((),) if () in real else tuple(real)


def _alternative(part: str) -> _All:
    hyphen = _HYPHEN.fullmatch(part)
    if hyphen is not None:
        ends = hyphen.groups()
        return _tidy([*_from(_bounds(ends[:4])), *_up_to(_bounds(ends[4:]))])
    found: list[Comparator] = []
    for token in _SPACE_AFTER.sub(r"\1", part).split():
        match = _COMPARATOR.fullmatch(token)
        if match is None:
            raise ValueError(token)
        found += _read(match[1] or "=", _bounds(match.groups()[1:]))
    return _tidy(found)


def _tidy(found: list[Comparator]) -> _All:
    """Each comparator once, without what any version meets; nothing when one is never met."""
    if _NOTHING[0] in found:
        return _NOTHING
    anything = Comparator(">=", Version(0, 0, 0))
    return tuple(one for one in dict.fromkeys(found) if one != anything)


class _Bounds(NamedTuple):
    """What `1.2` or `1.2.3-rc.1` stands for: the first version, and the first one behind it.
    `given` is how many of the three numbers are written."""

    given: int
    first: Version
    behind: Version

    @property
    def exact(self) -> bool:
        return self.given == 3


def _bounds(parts: tuple[str | None, ...]) -> _Bounds:
    numbers: list[int] = []
    for part in parts[:3]:
        if part is None or part in "xX*":
            break
        numbers.append(int(part))
    if max(numbers, default=0) > LARGEST:
        raise ValueError("a number is too large")
    given = len(numbers)
    whole = [*numbers, 0, 0, 0][:3]
    if given == 3:
        suffix = f"-{parts[3]}" if parts[3] else ""
        exact = Version.parse(f"{whole[0]}.{whole[1]}.{whole[2]}{suffix}")
        return _Bounds(3, exact, exact)
    return _Bounds(given, Version(*whole), _raised(whole, given - 1) if given else Version(0, 0, 0))


def _raised(numbers: list[int], at: int) -> Version:
    """The lowest version whose number `at` is one more."""
    higher = [*numbers[:at], numbers[at] + 1, 0, 0][:3]
    major, minor, patch = higher
    return Version(major, minor, patch, _LOWEST)


def _read(op: str, part: _Bounds) -> list[Comparator]:
    if op in ("~", "~>", "^"):
        return _near(op, part)
    if not part.given:
        return [*_NOTHING] if op in ("<", ">") else []
    if part.exact:
        return [Comparator(op, part.first)]
    if op == "=":
        return [Comparator(">=", part.first), Comparator("<", part.behind)]
    if op == ">=":
        return [Comparator(">=", part.first)]
    if op == ">":
        return [Comparator(">=", part.behind.replace(prerelease=None))]
    edge = part.behind if op == "<=" else part.first.replace(prerelease=_LOWEST)
    return [Comparator("<", edge)]


def _near(op: str, part: _Bounds) -> list[Comparator]:
    """Tilde and caret: from there up to where a number on the left changes."""
    if not part.given:
        return []
    numbers = list(_numbers(part.first))
    if op == "^":
        changing = [at for at in range(part.given) if numbers[at] > 0]
        at = changing[0] if changing else part.given - 1
    else:
        at = min(part.given - 1, 1)
    return [Comparator(">=", part.first), Comparator("<", _raised(numbers, at))]


def _from(part: _Bounds) -> list[Comparator]:
    return [Comparator(">=", part.first)] if part.given else []


def _up_to(part: _Bounds) -> list[Comparator]:
    if not part.given:
        return []
    return [Comparator("<=" if part.exact else "<", part.behind)]


def _unreadable(text: str) -> RangeError:
    return RangeError(
        f"{text[:80]!r} is no range of versions",
        hint="Write 1.2.3, ^1.2, ~1.2.3, 1.x, `>=1 <3`, `1.2 - 2.3`, or several with ||",
    )


# -- names with versions -----------------------------------------------------------------------


class Reference(NamedTuple):
    """A workflow and the versions of it that are meant: `research@^1.2`."""

    name: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.name}@{self.wanted}"


def reference(text: str) -> Reference | None:
    """The parts of `name@version` or `name@range`; None for anything else, as plain names are."""
    name, at, wanted = text.rpartition("@")
    if not at or not name or not wanted.strip():
        return None
    try:
        Range.parse(wanted)
    except RangeError:
        return None
    return Reference(name, wanted.strip())


def is_exact(text: str) -> bool:
    """Whether it names one version, as 1.2.3 does, and not a range."""
    return Version.is_valid(text)


def newest_first(versions: Iterable[str]) -> list[str]:
    """Versions in descending order of precedence."""
    return sorted(versions, key=Version.parse, reverse=True)
