"""What came of replaying recorded histories against the code at hand. Pure values.

A divergence is one of

    mismatch   the code asks for something else under a recorded key: the run would be parked
    inserted   the code asks for something new before all that is recorded: it would run now,
               behind what has happened already
    removed    the code does not ask for something recorded: its effect was made, its result is lost
    raises     the code raises what it had not raised
    stuck      the code waits for something that is not recorded, outside steps

What the code asks for when all that is recorded has been asked for is no divergence: there life
goes on. Nor is another result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from aura.codec import is_encrypted, unpack
from aura.store.base import Entry

DivergenceKind = Literal["mismatch", "inserted", "removed", "raises", "stuck"]
_LONGEST = 2_000  # characters of an input that are shown


class Side(NamedTuple):
    """What the journal has, or what the code asks for. `input` is JSON text, where it is known;
    `fingerprint` is that of the whole input."""

    key: str
    kind: str
    fingerprint: str = ""
    input: str | None = None

    def __str__(self) -> str:
        what = self.input if self.input is not None else f"fingerprint {self.fingerprint}"
        told = f" with {what}" if self.input is not None or self.fingerprint else ""
        return f"{self.kind} {self.key}{told}"


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where code and journal part. One of the sides may be missing; `message` says it in words."""

    kind: DivergenceKind
    recorded: Side | None
    asked: Side | None
    message: str


@dataclass(frozen=True, slots=True)
class RunReplay:
    """One history against one version of the code.

    `entries` is how many lines it has, `recorded_version` the version that wrote it. `continues`
    is what the code asks for next, when all that is recorded has been asked for. `reason` says why
    the run was not replayed.
    """

    run: str
    workflow: str
    recorded_version: str
    version: str
    state: str
    entries: int
    divergences: tuple[Divergence, ...] = ()
    continues: str = ""
    result_differs: bool = False
    reason: str = ""

    @property
    def diverges(self) -> bool:
        return bool(self.divergences)


class Pair(NamedTuple):
    """A cell of the compatibility matrix: histories of one version against another one's code."""

    workflow: str
    recorded_version: str
    version: str
    runs: int
    diverged: int

    @property
    def compatible(self) -> bool:
        return self.diverged == 0


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """`pairs` count all histories; `diverged` and `skipped` have those that diverge, or that could
    not be replayed, one by one."""

    pairs: tuple[Pair, ...]
    diverged: tuple[RunReplay, ...]
    skipped: tuple[RunReplay, ...]

    @property
    def runs(self) -> int:
        """How many histories were replayed."""
        return sum(pair.runs for pair in self.pairs)

    @property
    def compatible(self) -> bool:
        return not self.diverged

    def plain(self) -> dict[str, Any]:
        """The report as plain JSON values, to be shown or stored."""
        return {
            "runs": self.runs,
            "compatible": self.compatible,
            "pairs": [{**pair._asdict(), "compatible": pair.compatible} for pair in self.pairs],
            "diverged": [_plain(one) for one in self.diverged],
            "skipped": [_plain(one) for one in self.skipped],
        }


class Tally:
    """Makes a report of replays, one after the other; it keeps those with a finding."""

    def __init__(self) -> None:
        self._runs: Counter[tuple[str, str, str]] = Counter()
        self._bad: Counter[tuple[str, str, str]] = Counter()
        self._diverged: list[RunReplay] = []
        self._skipped: list[RunReplay] = []

    def add(self, one: RunReplay) -> None:
        if one.reason:
            self._skipped.append(one)
            return
        pair = (one.workflow, one.recorded_version, one.version)
        self._runs[pair] += 1
        if one.diverges:
            self._bad[pair] += 1
            self._diverged.append(one)

    def report(self) -> ReplayReport:
        pairs = (Pair(*pair, count, self._bad[pair]) for pair, count in self._runs.items())
        by_run = sorted(self._diverged, key=lambda one: one.run)
        skipped = sorted(self._skipped, key=lambda one: one.run)
        return ReplayReport(tuple(sorted(pairs)), tuple(by_run), tuple(skipped))


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a replay came to rest. `left` are entries that were not asked for, in order of seq;
    `held` the calls that are not recorded and wait; `returned` whether the function has ended;
    `error` what it raised; `mismatch` both sides of the call that parked it."""

    left: Sequence[Entry]
    held: Sequence[Side]
    returned: bool
    error: str = ""
    mismatch: tuple[Side, Side] | None = None


def judge(ending: Ending, state: str) -> tuple[Divergence, ...]:
    """The divergences of a replay of a run that is recorded in that state. Pure."""
    if ending.mismatch is not None:
        recorded, asked = ending.mismatch
        message = f"the journal has the {recorded}, but the code asks for the {asked}"
        return (Divergence("mismatch", recorded, asked, message),)
    if ending.error and state != "failed":
        message = f"the code raises {ending.error}"
        return (Divergence("raises", None, None, message), *map(_removed, ending.left))
    if not ending.left:
        return ()
    if ending.returned:
        return tuple(map(_removed, ending.left))
    if not ending.held:
        message = "the code waits for something that is not in the journal, outside steps"
        return (Divergence("stuck", side(ending.left[0]), None, message),)
    return tuple(_inserted(ending))


def _inserted(ending: Ending) -> Iterable[Divergence]:
    """New calls whose lane has more to come in the journal; else they wait behind other lanes."""
    found = [(asked, _next_in(asked.key, ending.left)) for asked in ending.held]
    found = [one for one in found if one[1] is not None] or [(ending.held[0], ending.left[0])]
    for asked, entry in found:
        assert entry is not None  # noqa: S101  (looked at above)
        recorded = side(entry)
        message = f"the code asks for the {asked}, but the journal goes on with the {recorded}"
        yield Divergence("inserted", recorded, asked, message)


def _next_in(key: str, left: Sequence[Entry]) -> Entry | None:
    """The next entry in the lane of that key, or below it."""
    lane = key.partition("/")[0]
    return next(
        (one for one in left if one.key.startswith((f"{lane}/", f"{lane}."))),
        None,
    )


def _removed(entry: Entry) -> Divergence:
    recorded = side(entry)
    return Divergence("removed", recorded, None, f"the code does not ask for the {recorded}")


def side(entry: Entry) -> Side:
    """An entry of the journal as one of the sides."""
    kind = "step" if entry.kind == "attempt" else entry.kind
    return Side(entry.key, kind, entry.fingerprint, shown(entry.input))


def shown(data: bytes | None) -> str | None:
    """The text of an input; None when it is not known, encrypted or too long."""
    if data is None or is_encrypted(data):
        return None
    text = unpack(data).decode(errors="replace")
    return text if len(text) <= _LONGEST else None


def _plain(one: RunReplay) -> dict[str, Any]:
    found = {name: getattr(one, name) for name in RunReplay.__slots__}
    found["divergences"] = [
        {
            "kind": each.kind,
            "recorded": each.recorded and each.recorded._asdict(),
            "asked": each.asked and each.asked._asdict(),
            "message": each.message,
        }
        for each in one.divergences
    ]
    return found
