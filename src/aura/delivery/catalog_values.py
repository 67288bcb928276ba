"""What the catalog has of a version, and of a pair of versions. Values; the desk is `catalog`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypedDict, TypeVar

from pydantic import TypeAdapter, ValidationError

from aura.delivery.compatibility import Comparison, Finding, compare_inputs, compare_outputs
from aura.delivery.schema import Schema
from aura.errors import CatalogError, RegistrationError

T = TypeVar("T")

LONGEST_LINE = 500
"""Characters of an owner or a changelog line."""


class About(TypedDict, total=False):
    """What `@app.workflow` may say about a version: `owner` and `changelog` are one line each,
    `metadata` is a dict of plain JSON values."""

    owner: str
    changelog: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What one source, code or file, says about a version. None or empty: nothing."""

    owner: str = ""
    changelog: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    input: Schema | None = None
    output: Schema | None = None


@dataclass(frozen=True, slots=True)
class Deprecation:
    """Since when (epoch seconds) a version should not be started any more, why, and which one to
    take in its place: a version or range, "" when there is none."""

    since: float
    why: str
    replacement: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class CatalogVersion:
    """One version of a workflow. What a file says counts before what the code does, field by field.

    `starts` counts runs that were started while it was deprecated. `first_seen` and `last_seen`
    (epoch seconds, to the hour) are when an app that has it was opened; None: never.
    """

    workflow: str
    version: str
    declared: Facts | None = None
    filed: Facts | None = None
    deprecated: Deprecation | None = None
    starts: int = 0
    first_seen: float | None = None
    last_seen: float | None = None

    @property
    def name(self) -> str:
        """`research@1.0.0`."""
        return f"{self.workflow}@{self.version}"

    @property
    def facts(self) -> Facts:
        """Both sources together."""
        code, file = self.declared or Facts(), self.filed or Facts()
        return Facts(
            file.owner or code.owner,
            file.changelog or code.changelog,
            {**code.metadata, **file.metadata},
            code.input if file.input is None else file.input,
            code.output if file.output is None else file.output,
        )

    def to_json(self) -> bytes:
        """What is stored."""
        return _version().dump_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> CatalogVersion:
        """What `to_json` wrote. Raises CatalogError."""
        return _read(_version(), data, "a version of the catalog")

    def plain(self) -> dict[str, Any]:
        """As plain JSON values, for people and programs."""
        found: dict[str, Any] = _version().dump_python(self, mode="json")
        facts: dict[str, Any] = _facts().dump_python(self.facts, mode="json")
        return {"name": self.name, **found, **facts}


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of replaying histories of one version with the code of another one."""

    runs: int
    diverged: int
    at: float
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Override:
    """A rollout that was started although its versions are incompatible."""

    rollout: str
    reason: str
    by: str
    at: float


@dataclass(frozen=True, slots=True)
class Cell:
    """What is known of a pair of versions beside their schemas."""

    old: str
    new: str
    replayed: Replayed | None = None
    overrides: tuple[Override, ...] = ()

    @property
    def name(self) -> str:
        """`research@1.0.0..research@2.0.0`."""
        return f"{self.old}..{self.new}"

    def to_json(self) -> bytes:
        """What is stored."""
        return _cell().dump_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Cell:
        """What `to_json` wrote. Raises CatalogError."""
        return _read(_cell(), data, "a cell of the compatibility matrix")

    def overridden(self, override: Override) -> Cell:
        """With one more rollout that was started all the same; the last fifty are kept."""
        return replace(self, overrides=(*self.overrides[-49:], override))


@dataclass(frozen=True, slots=True)
class Compatibility:
    """A cell of the matrix: may the new version take the place of the old one?

    `inputs`: it takes what callers send. `outputs`: readers can read what it gives. `runs`: it can
    go on with runs that the old one began, as far as histories were replayed.
    """

    old: str
    new: str
    inputs: Comparison
    outputs: Comparison
    runs: Comparison
    overrides: tuple[Override, ...] = ()

    @property
    def refused(self) -> tuple[str, ...]:
        """Why a rollout from old to new does not start: the fields; none when it may."""
        return tuple(
            f"{what} {finding}"
            for what, found in (("input", self.inputs), ("output", self.outputs))
            for finding in found.findings
            if finding.level == "incompatible"
        )

    def plain(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "old": self.old, "new": self.new, "inputs": self.inputs.plain(),
            "outputs": self.outputs.plain(), "runs": self.runs.plain(),
            "overrides": _overrides().dump_python(self.overrides, mode="json"),
        }  # fmt: skip


def compatibility(old: CatalogVersion, new: CatalogVersion, cell: Cell | None) -> Compatibility:
    """What is known of the pair. Pure."""
    names = old.version, new.version
    return Compatibility(
        old.name,
        new.name,
        compare_inputs(old.facts.input, new.facts.input, names),
        compare_outputs(old.facts.output, new.facts.output, names),
        runs_go_on(cell.replayed if cell else None),
        cell.overrides if cell else (),
    )


def runs_go_on(replayed: Replayed | None) -> Comparison:
    """Whether runs in flight can go on, from histories that were replayed."""
    if replayed is None or not replayed.runs:
        return Comparison((Finding("unknown", "runs", "", "no histories were replayed"),))
    if not replayed.diverged:
        return Comparison(())
    told = f"{replayed.diverged} of {replayed.runs} histories diverge"
    more = tuple(Finding("note", "runs", "", example) for example in replayed.examples)
    return Comparison((Finding("incompatible", "runs", "", told), *more))


def checked(about: Mapping[str, Any], what: str) -> Facts:
    """What the decorator was told. Raises RegistrationError."""
    unknown = sorted(about.keys() - About.__annotations__.keys())
    if unknown:
        raise RegistrationError(
            f"{what} was declared with {unknown[0]}=...",
            hint="Beside its version it may have name, queue, requires, durability, "
            + ", ".join(About.__annotations__),
        )
    for name in ("owner", "changelog"):
        line(about.get(name, ""), f"the {name} of {what}")
    try:
        metadata = _metadata().validate_python(about.get("metadata", {}), strict=True)
        metadata = _metadata().validate_json(_metadata().dump_json(metadata))
    except ValueError as error:
        raise RegistrationError(
            f"the metadata of {what} cannot be kept: {str(error).splitlines()[0]}",
            hint='Give a dict of plain JSON values, as in metadata={"tier": "gold"}',
        ) from error
    return Facts(about.get("owner", ""), about.get("changelog", ""), metadata)


def line(text: Any, what: str) -> str:
    """One line of text. Raises RegistrationError."""
    if not isinstance(text, str) or len(text) > LONGEST_LINE or not (text.isprintable()):
        raise RegistrationError(
            f"{what} is {text!r:.80}",
            hint=f"Give one line of at most {LONGEST_LINE} printable characters",
        )
    return text


def _read(adapter: TypeAdapter[T], data: bytes, what: str) -> T:
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        raise CatalogError(
            f"{what} cannot be read: {error.errors(include_url=False)[0]['msg']}",
            hint="It was written by another version of Aura, or by other means",
        ) from error


@cache
def _version() -> TypeAdapter[CatalogVersion]:
    return TypeAdapter(CatalogVersion)


@cache
def _facts() -> TypeAdapter[Facts]:
    return TypeAdapter(Facts)


@cache
def _cell() -> TypeAdapter[Cell]:
    return TypeAdapter(Cell)


@cache
def _overrides() -> TypeAdapter[tuple[Override, ...]]:
    return TypeAdapter(tuple[Override, ...])


@cache
def _metadata() -> TypeAdapter[dict[str, Any]]:
    return TypeAdapter(dict[str, Any])
