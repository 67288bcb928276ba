"""YAML values that know their line, so that an error can name it.

    root = load(text, file="aura.yaml", kind="configuration", begin="gateway:")
    gateway = root.members()["gateway"].fields({"timeout"}, required=("routes",))
    seconds = gateway["timeout"].seconds(positive=True)

Every error is of the class given to `load` and says file, line, what is wrong and what to write
instead: `aura.yaml:7: timeout is '10'. write a time with its unit: 250ms, 2s, 5m, 48h`. Rates are
written with %, times and sizes with a unit. Only plain values are read; nothing in a file can make
an object, nest without end, or name a key twice. `<<` merges anchored mappings.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import yaml

from aura.errors import ConfigError

SIZE_LIMIT = 256 * 1024
"""No file is longer than this many bytes."""

DEPTH_LIMIT = 20
"""No file is nested deeper than this."""

DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZE = re.compile(r"(\d{1,15})\s*(B|KiB|MiB|GiB)")
BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
NUMBER = re.compile(r"\d*\.?\d+(e-?\d{1,3})?")
TAG = "tag:yaml.org,2002:"
PLAIN = {
    TAG + name
    for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge", "timestamp", "value")
}


@dataclass(frozen=True, slots=True)
class Node:
    """One value; `what` is its name in errors, such as `sla` or `the plan`."""

    node: yaml.Node
    what: str
    file: str
    error: type[ConfigError] = ConfigError

    def fail(self, message: str, hint: str = "") -> NoReturn:
        """Raise the error with this value's line, counted from 1."""
        raise self.error(f"{self.file}:{self.node.start_mark.line + 1}: {message}", hint=hint)

    def named(self, what: str) -> Node:
        """The same value under another name."""
        return replace(self, what=what)

    @property
    def scalar(self) -> str:
        """A scalar's text as written, "" for a list or mapping."""
        return str(self.node.value) if isinstance(self.node, yaml.ScalarNode) else ""

    @property
    def empty(self) -> bool:
        """Whether nothing is written there, or null."""
        return self._is("null")

    @property
    def shown(self) -> str:
        """The value as errors show it."""
        if isinstance(self.node, yaml.MappingNode):
            return "a mapping"
        if isinstance(self.node, yaml.SequenceNode):
            return "a list"
        return "empty" if self.empty else repr(self.scalar[:60])

    # -- mappings and lists ----------------------------------------------------------------

    def members(self) -> dict[str, Node]:
        """The members of a mapping whose keys are free, by key. Nothing counts as empty."""
        found, merged = self._entries()
        for key, _ in self._pairs():
            if not isinstance(key.node, yaml.ScalarNode):
                key.fail(f"a key of {self.what} is {key.shown}", "write a name")
        return merged | found

    def fields(self, known: Collection[str], required: Collection[str] = ()) -> dict[str, Node]:
        """The members of a mapping that may have the known keys and must have the required ones.
        Of what `<<` merges, only those are taken."""
        names = {*known, *required}
        found, merged = self._entries(names)
        found = {name: node for name, node in merged.items() if name in names} | found
        for name in required:
            if name not in found:
                self.fail(f"{self.what} has no {name}", f"add `{name}: ...`")
        return found

    def pair(self) -> tuple[Node, Node] | None:
        """Key and value of a mapping that has only one, None for anything else."""
        if isinstance(self.node, yaml.MappingNode) and len(self.node.value) == 1:
            return next(self._pairs())
        return None

    def items(self, each: str = "") -> list[Node]:
        """The members of a list; `each` is what errors call one of them."""
        if self.empty:
            return []
        if not isinstance(self.node, yaml.SequenceNode):
            self.fail(f"{self.what} is {self.shown}", "write a list, each line with `- `")
        name = each or f"one of {self.what}"
        return [replace(self, node=node, what=name) for node in self.node.value]

    def _entries(
        self, known: Collection[str] | None = None
    ) -> tuple[dict[str, Node], dict[str, Node]]:
        """(own members, merged ones); of several merged mappings the first one wins."""
        found: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in self._pairs():
            if key._is("merge"):
                merged = value._merged() | merged
                continue
            name = key.scalar or key.shown
            if name in found:
                key.fail(f"{name!r} stands twice in {self.what}", "remove one")
            if known is not None and name not in known:
                key.fail(f"{self.what} has no setting {name!r}", meant(name, known))
            found[name] = value
        return found, merged

    def _merged(self) -> dict[str, Node]:
        nodes = self.node.value if isinstance(self.node, yaml.SequenceNode) else [self.node]
        found: dict[str, Node] = {}
        for node in nodes:
            if not isinstance(node, yaml.MappingNode):
                self.fail("<< merges something that is no mapping", "merge an anchored mapping")
            pairs = replace(self, node=node)._pairs()
            found = {key.scalar: value for key, value in pairs if key.scalar} | found
        return found

    def _pairs(self) -> Iterator[tuple[Node, Node]]:
        if self.empty:
            return
        if not isinstance(self.node, yaml.MappingNode):
            self.fail(f"{self.what} is {self.shown}", "write `key: value` lines there")
        for key, value in self.node.value:
            at = replace(self, node=key)
            yield at, replace(self, node=value, what=at.scalar or at.shown)

    # -- plain values ----------------------------------------------------------------------

    def text(self) -> str:
        """Text that is not blank."""
        if not self._is("str") or not self.scalar.strip():
            self._wrong("write a name, in quotes if need be")
        return self.scalar

    def choice(self, *allowed: str) -> str:
        """One of some words."""
        if self.scalar not in allowed:
            self._wrong(meant(self.scalar, allowed, otherwise=f"use {' or '.join(allowed)}"))
        return self.scalar

    def boolean(self) -> bool:
        """true or false."""
        if not self._is("bool"):
            self._wrong("write true or false")
        return self.scalar.lower() in ("true", "yes", "on")

    def integer(self, *, least: int = 0) -> int:
        """A whole number, not under `least`."""
        number = int(self.scalar) if re.fullmatch(r"\d{1,15}", self.scalar) else -1
        if not self._is("int") or number < least:
            self._wrong(f"write a whole number, {least} or more")
        return number

    def number(self) -> float:
        """A finite number, not under zero."""
        number = float(self.scalar) if NUMBER.fullmatch(self.scalar) else math.inf
        if not math.isfinite(number):
            self._wrong("write a number such as 0.01")
        return number

    def percent(self) -> float:
        """A share from 0% to 100% in steps of 0.01 %, as a number from 0 to 1."""
        match = PERCENT.fullmatch(self.scalar)
        if match is None:
            self._wrong("write a percentage such as 5%")
        hundredths = float(match[1]) * 100
        if not hundredths <= 10_000:
            self.fail(f"{self.what} is {self.scalar}", "it must be between 0% and 100%")
        if abs(hundredths - round(hundredths)) > 1e-6:
            self.fail(f"{self.what} is {self.scalar}", "the finest step is 0.01%")
        return round(hundredths) / 10_000

    def seconds(self, *, positive: bool = False) -> float:
        """A duration: `250ms`, `2s`, `5m`, `48h`, `2d`."""
        match = DURATION.fullmatch(self.scalar)
        if match is None:
            self._wrong("write a time with its unit: 250ms, 2s, 5m, 48h")
        seconds = float(match[1]) * SECONDS[match[2]]
        if not math.isfinite(seconds):
            self._wrong("write a shorter time")
        if positive and seconds == 0:
            self.fail(f"{self.what} is {self.scalar}", "write a positive time such as 800ms")
        return seconds

    def size(self) -> int:
        """A size over zero in bytes: `512B`, `64KiB`, `1MiB`, `2GiB`."""
        match = SIZE.fullmatch(self.scalar)
        size = int(match[1]) * BYTES[match[2]] if match else 0
        if size == 0:
            self._wrong("write a size with its unit: 512B, 64KiB, 1MiB, 2GiB")
        return size

    def _is(self, kind: str) -> bool:
        return bool(self.node.tag == TAG + kind)

    def _wrong(self, hint: str) -> NoReturn:
        self.fail(f"{self.what} is {self.shown}", hint)


def meant(name: str, known: Collection[str], *, otherwise: str = "") -> str:
    """The hint for an unknown name: the known one that is close to it, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise or f"it has {', '.join(names)}"


def read(path: Path, *, kind: str, error: type[ConfigError] = ConfigError) -> str:
    """A file's text (UTF-8); `kind` is what errors call it, such as `plan`."""
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise _too_large(str(path), kind, error)
        return path.read_bytes().decode("utf-8-sig")
    except OSError as problem:
        raise error(
            f"{path}: the {kind} cannot be read: {problem.strerror}", hint="check the path"
        ) from problem
    except UnicodeDecodeError as problem:
        line = problem.object[: problem.start].count(b"\n") + 1
        raise error(
            f"{path}:{line}: the {kind} is not UTF-8 text", hint="save it as UTF-8"
        ) from problem


def load(
    text: str, *, file: str, kind: str, begin: str, error: type[ConfigError] = ConfigError
) -> Node:
    """The root of a YAML document; raises `error` with the line where it is none, or holds more
    than plain values. `begin` is the key that an empty one lacks."""
    if len(text) > SIZE_LIMIT:
        raise _too_large(file, kind, error)
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = mark.line + 1 if mark else 1
        raise error(
            f"{file}:{line}: not valid YAML: {problem.problem or problem.context}",
            hint="check indentation, colons and brackets there",
        ) from problem
    except yaml.YAMLError as problem:  # a character that YAML does not allow
        line = text[: getattr(problem, "position", 0)].count("\n") + 1
        raise error(
            f"{file}:{line}: not valid YAML: {getattr(problem, 'reason', problem)}",
            hint="remove the control character",
        ) from problem
    except RecursionError as problem:
        raise error(f"{file}:1: nested too deeply", hint=f"is it a {kind}?") from problem
    if node is None:
        raise error(f"{file}:1: the {kind} is empty", hint=f"begin with `{begin}`")
    root = Node(node, f"the {kind}", file, error)
    _check(root, kind, 0, set())
    return root


def _check(node: Node, kind: str, depth: int, seen: set[int]) -> None:
    """Only plain values, and no deeper than any file is."""
    if id(node.node) in seen:
        return
    seen.add(id(node.node))
    if node.node.tag not in PLAIN:
        node.fail(f"the tag {node.node.tag!r} is not allowed", "write plain values only")
    if depth > DEPTH_LIMIT:
        node.fail("nested too deeply", f"no {kind} needs that")
    if not _can_be_kept(node.scalar):
        node.fail("a text has a character that no database keeps", "remove the NUL or surrogate")
    for child in _children(node.node):
        _check(replace(node, node=child), kind, depth + 1, seen)


def _can_be_kept(text: str) -> bool:
    """Quoted text may have any character, also NUL and halves of others."""
    return "\x00" not in text and not any("\ud800" <= one <= "\udfff" for one in text)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for entry in node.value for part in entry]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _too_large(file: str, kind: str, error: type[ConfigError]) -> ConfigError:
    return error(
        f"{file}: the {kind} is larger than {SIZE_LIMIT // 1024} KiB", hint=f"is it a {kind}?"
    )
