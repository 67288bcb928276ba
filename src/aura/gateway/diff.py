"""In which fields do two JSON answers differ? Pure and bounded.

Paths are written `$.a.b[0]`, with `["..."]` for names that are not plain words. In rules `*`
stands for any one name or index (`$.items[*].id`, `$.metrics.*`), and a rule covers all below it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aura.errors import ConfigError

Path = tuple[str | int, ...]
Kind = Literal["missing", "added", "type", "value", "length"]

EXAMPLE = 120  # characters of an example value
MASK = "(masked)"
LARGEST_BAG = 200  # elements
STEP = re.compile(r'\.(\*|[\w@-]+)|\[(\*|\d+)\]|\["((?:[^"\\]|\\.)*)"\]')
WORD = re.compile(r"[A-Za-z_][\w@-]*\Z")
ANY = "*"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A path in which `*` matches any one step; it covers everything below what it matches."""

    text: str
    steps: Path

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern. Raises ConfigError with the place where it stops making sense."""
        if not text.startswith("$"):
            raise ConfigError(f"the path {text!r} does not start with $", hint="Write $.field")
        steps: list[str | int] = []
        at = 1
        while at < len(text):
            match = STEP.match(text, at)
            if match is None:
                raise ConfigError(
                    f"the path {text!r} cannot be read from {text[at:]!r} on",
                    hint='Write $.field, $.list[0], $.list[*], $.any.* or $["odd name"]',
                )
            name, index, quoted = match.groups()
            if quoted is not None:
                steps.append(json.loads(f'"{quoted}"'))
            elif index is not None:
                steps.append(ANY if index == ANY else int(index))
            else:
                steps.append(name)
            at = match.end()
        return cls(text, tuple(steps))

    def covers(self, path: Path) -> bool:
        """Whether the pattern matches the path or one that it lies under."""
        return len(path) >= len(self.steps) and all(
            step in (ANY, here) for step, here in zip(self.steps, path, strict=False)
        )

    def matches(self, path: Path) -> bool:
        """Whether the pattern matches the path itself."""
        return len(path) == len(self.steps) and self.covers(path)


@dataclass(frozen=True, slots=True)
class Rules:
    """What does not count as a difference.

    `ignore`: paths with all below them. `tolerances`: numbers under the path may differ by that
    much, absolutely. `unordered`: arrays at the path are compared as bags. `comparers`: functions
    (module:function) that compare the two values at a path, wherever that is in both. `masked`:
    paths whose values are never shown. `exact`: bodies must have the same bytes. `limit`: how many
    differences are listed at most.
    """

    ignore: tuple[Pattern, ...] = ()
    tolerances: tuple[tuple[Pattern, float], ...] = ()
    unordered: tuple[Pattern, ...] = ()
    limit: int = 100
    comparers: tuple[tuple[Pattern, str], ...] = ()
    masked: tuple[Pattern, ...] = ()
    exact: bool = False


NO_RULES = Rules()


@dataclass(frozen=True, slots=True)
class Difference:
    """One place. `left` and `right` are short JSON examples, "" where there is nothing.

    `kind`: missing (only left has it), added (only right), type, value, or length (arrays).
    """

    path: str
    kind: Kind
    left: str
    right: str

    def __str__(self) -> str:
        return f"{self.path} {self.kind}: {self.left or 'nothing'} / {self.right or 'nothing'}"


@dataclass(frozen=True, slots=True)
class Pending:
    """Two values that a function of the user's is to compare."""

    path: str
    comparer: str
    left: Any
    right: Any
    masked: bool = False

    def differs(self) -> Difference:
        """What it is when they are not the same."""
        if self.masked:
            return Difference(self.path, "value", MASK, MASK)
        return Difference(self.path, "value", _example(self.left), _example(self.right))


@dataclass(frozen=True, slots=True)
class Diffed:
    """The differences of two documents, and what is still to be compared."""

    found: list[Difference]
    pending: list[Pending]


@dataclass(slots=True)
class _Pair:
    path: Path
    left: Any
    right: Any


@dataclass(slots=True)
class _Work:
    """Pairs that wait to be compared (a stack of our own: depth is the sender's choice)."""

    rules: Rules
    pairs: list[_Pair]
    found: list[Difference] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)


def diff_json(left: Any, right: Any, rules: Rules = NO_RULES) -> list[Difference]:
    """The differences between two decoded JSON documents, in the order of names and indices, at
    most `rules.limit` of them. Whole and decimal numbers of one value are equal, so are NaNs."""
    return diff_documents(left, right, rules).found


def diff_documents(left: Any, right: Any, rules: Rules) -> Diffed:
    """The same, with the values that are left to the user's own functions."""
    work = _differences(_Pair((), left, right), rules, rules.limit)
    return Diffed(work.found, work.pending)


def _differences(pair: _Pair, rules: Rules, limit: int) -> _Work:
    work = _Work(rules, [pair])
    while work.pairs and len(work.found) < limit:
        pair = work.pairs.pop()
        if not any(pattern.covers(pair.path) for pattern in rules.ignore):
            _compare(pair, work)
    return work


def path_text(path: Path) -> str:
    """A path as people read it: `$.a.b[0]["odd name"]`."""
    return "$" + "".join(_step_text(step) for step in path)


def _step_text(step: str | int) -> str:
    if isinstance(step, int) or step == ANY:
        return f"[{step}]"
    return f".{step}" if WORD.match(step) else f"[{json.dumps(step)}]"


def _compare(pair: _Pair, work: _Work) -> None:
    left, right = pair.left, pair.right
    if work.rules.comparers and _NOTHING is not left and _NOTHING is not right:
        for pattern, comparer in work.rules.comparers:
            if pattern.matches(pair.path):
                if len(work.pending) < work.rules.limit:
                    masked = _is_masked(pair.path, work.rules)
                    there = path_text(pair.path)
                    work.pending.append(Pending(there, comparer, left, right, masked))
                return
    if _kind_of(left) != _kind_of(right):
        _note(work, pair, "type")
    elif isinstance(left, dict):
        _compare_objects(pair, work)
    elif isinstance(left, list):
        if any(pattern.matches(pair.path) for pattern in work.rules.unordered):
            _compare_bags(pair, work)
        else:
            _compare_arrays(pair, work)
    elif not _same_value(left, right, pair.path, work.rules):
        _note(work, pair, "value")


def _compare_objects(pair: _Pair, work: _Work) -> None:
    left, right = pair.left, pair.right
    names = sorted(left.keys() | right.keys(), reverse=True)
    work.pairs.extend(
        _Pair((*pair.path, name), left.get(name, _NOTHING), right.get(name, _NOTHING))
        for name in names
    )


def _compare_arrays(pair: _Pair, work: _Work) -> None:
    if len(pair.left) != len(pair.right):
        work.found.append(
            Difference(path_text(pair.path), "length", str(len(pair.left)), str(len(pair.right)))
        )
    both = zip(pair.left, pair.right, strict=False)
    children = [_Pair((*pair.path, i), a, b) for i, (a, b) in enumerate(both)]
    work.pairs.extend(reversed(children))


def _compare_bags(pair: _Pair, work: _Work) -> None:
    """Each element on the left takes one on the right that equals it under the rules.

    The search is quadratic, so larger bags are sorted by their JSON and compared in that order.
    """
    if max(len(pair.left), len(pair.right)) > LARGEST_BAG:
        left, right = (sorted(bag, key=_canonical) for bag in (pair.left, pair.right))
        _compare_arrays(_Pair(pair.path, left, right), work)
        return
    spare = list(pair.right)
    lonely: list[Any] = []
    for index, element in enumerate(pair.left):
        path = (*pair.path, index)
        found = next((i for i, b in enumerate(spare) if _alike(element, b, path, work.rules)), None)
        if found is None:
            lonely.append(element)
        else:
            del spare[found]
    children = [_Pair((*pair.path, ANY), element, _NOTHING) for element in lonely]
    children += [_Pair((*pair.path, ANY), _NOTHING, element) for element in spare]
    work.pairs.extend(reversed(children))


def _alike(left: Any, right: Any, path: Path, rules: Rules) -> bool:
    return not _differences(_Pair(path, left, right), rules, 1).found


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _same_value(left: Any, right: Any, path: Path, rules: Rules) -> bool:
    if left == right or (left != left and right != right):  # NaN differs from itself
        return True
    if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
        return False
    return any(
        abs(left - right) <= tolerance
        for pattern, tolerance in rules.tolerances
        if pattern.covers(path)
    )


class _Nothing:
    """Stands for a field that one side does not have."""


_NOTHING = _Nothing()


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def _note(work: _Work, pair: _Pair, kind: Kind) -> None:
    if pair.right is _NOTHING:
        kind = "missing"
    elif pair.left is _NOTHING:
        kind = "added"
    show = _mask if _is_masked(pair.path, work.rules) else _example
    work.found.append(Difference(path_text(pair.path), kind, show(pair.left), show(pair.right)))


def _is_masked(path: Path, rules: Rules) -> bool:
    """Whether a value must not be shown: it is masked, or something in it is."""
    return any(
        pattern.covers(path) or _lies_in(pattern, path) for pattern in rules.masked
    )  # fmt: skip


def _lies_in(pattern: Pattern, path: Path) -> bool:
    """Whether the pattern may match something below the path."""
    return len(pattern.steps) > len(path) and all(
        step in (ANY, here) for step, here in zip(pattern.steps, path, strict=False)
    )


def _mask(value: Any) -> str:
    return "" if value is _NOTHING else MASK


def _example(value: Any) -> str:
    """The beginning of a value as JSON, without writing out what is cut off anyway."""
    if value is _NOTHING:
        return ""
    if isinstance(value, str):
        text = json.dumps(value[:EXAMPLE], ensure_ascii=False)
        return _cut(text if len(value) <= EXAMPLE else text + "…")
    text = ""
    for part in _parts(value):
        text += part
        if len(text) > EXAMPLE:
            break
    return _cut(text)


def _parts(value: Any) -> Iterator[str]:
    try:
        yield from json.JSONEncoder(ensure_ascii=False).iterencode(value)
    except RecursionError:
        yield "…"


def _cut(text: str) -> str:
    return text if len(text) <= EXAMPLE else text[: EXAMPLE - 1] + "…"


def rules_of(
    ignore: Sequence[str] = (),
    tolerances: Sequence[tuple[str, float]] = (),
    unordered: Sequence[str] = (),
) -> Rules:
    """Rules from paths as text. Raises ConfigError for one that cannot be read."""
    return Rules(
        tuple(Pattern.parse(text) for text in ignore),
        tuple((Pattern.parse(text), tolerance) for text, tolerance in tolerances),
        tuple(Pattern.parse(text) for text in unordered),
    )
