"""How runs are found: what a list may be asked for, and attributes, the words given at the start of
a run by which it is found again.

Attributes are names, as ids and keys are: they are searched, so they are not sealed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from aura.store.base import Op, Outcome, RunRecord, RunState

STATES = ("pending", "running", "waiting", "completed", "failed", "cancelled", "parked", "moved")

Attributes = tuple[tuple[str, str], ...]
"""Pairs of name and value, each name once."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list, newest first; `before` is the (created_at, id) of the last one seen.

    `parent` is the run whose children are wanted, `owner` the worker that has them, `attributes`
    what they must all have. By "parked" the newest are those that were parked last, and `before`
    has their finished_at: only parked runs, without a parent, an owner or attributes.
    """

    state: RunState | None = None
    workflow: str | None = None
    limit: int = 50
    before: tuple[float, str] | None = None
    parent: str | None = None
    owner: str | None = None
    attributes: Attributes = ()
    by: Literal["created", "parked"] = "created"

    @property
    def query(self) -> str | None:
        """Which named query of `search.sql` finds them; None: the lists without any of this."""
        if self.attributes:
            return "runs_by_attribute"
        if self.owner is not None:
            return "runs_of_owner"
        return "runs_parked" if self.by == "parked" else None

    @property
    def end(self) -> tuple[float, str]:
        """`before`, or what every run is before: a bound that an index can begin at."""
        return self.before or (math.inf, "")


class RunChange(NamedTuple):
    """A run that began or ended `at` that time (epoch seconds): what it is now."""

    id: str
    workflow: str
    version: str
    state: str
    at: float


class Pulse(NamedTuple):
    """How far a run is: its state, how often it was taken, the last seq of its journal, how many
    signals it was sent."""

    id: str
    workflow: str
    state: str
    epoch: int
    entries: int
    signals: int


class Searched(Protocol):
    """The verbs of a store that find runs beside lists."""

    async def changed_runs(self, after: float, limit: int) -> list[RunChange]:
        """The runs that were created, ended or parked later than that, the newest first; one of
        them may be there twice."""
        ...

    async def pulses(self, ids: Sequence[str]) -> list[Pulse]:
        """How far these runs are, those that exist."""
        ...

    async def attributes(self, ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """The attributes of those of these runs that have some."""
        ...


def attribute_rows(ops: Iterable[Op], outcomes: Iterable[Outcome]) -> list[tuple[str, str, str]]:
    """(run, name, value) of the runs that these operations have created."""
    found: list[tuple[str, str, str]] = []
    for op, outcome in zip(ops, outcomes, strict=True):
        given: Attributes = getattr(op, "attributes", ())
        if given and getattr(outcome, "created", False):
            run: RunRecord = getattr(outcome, "run")  # noqa: B009
            found += [(run.id, *pair) for pair in given]
    return found


def gathered(rows: Iterable[Sequence[str]]) -> dict[str, dict[str, str]]:
    """(run, name, value) by run."""
    found: dict[str, dict[str, str]] = {}
    for run_id, name, value in rows:
        found.setdefault(run_id, {})[name] = value
    return found
