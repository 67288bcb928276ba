"""Forking: a second run with the first part of a run's journal, which goes on from there.

A fork at a key has every entry before the first one with that key, in the order in which they were
written, whatever branch they are of. That is a journal again: an entry depends on earlier ones
only. So what ran beside the key is kept as far as it had come, and the fork makes the call at the
key itself, and all that followed, anew: by its own id, so with idempotency keys of its own.

With the entries the fork has the state, the streams and the received signals of that time. Signals
that had come by then and were not received wait for the fork, too; those that came later were meant
for a run that had gone further, and stay with it. Children that had been started are not started
again: the fork waits for the same ones, but they stay the original's, which alone can stop them.
The original is left as it is, and so is all that it has done.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

import semver

from aura.codec import plain, to_json
from aura.engine.compensation import undo_key
from aura.engine.poison import RECOVERED
from aura.errors import InvalidInput, RunConflict, RunNotFound
from aura.store.base import Announce, Store
from aura.store.portable import TABLES, Line, Page, Row

KEPT = frozenset(
    {
        *("workflow", "input", "fingerprint", "execution", "base", "drained"),
        *("queue", "key", "priority"),
    }
)
"""Columns of a run that its fork shares. All others are given anew, by `_beginning`."""

_LONGEST = 480  # characters of the original's id in that of a fork
_WAITED = ("signal", "ended")
_FIRST = ("/got", "/ended/wait", "/ended")  # with which a call that is a wait may begin
_ROUND = re.compile(r"(/~[^~].*#\d+)#\d+$")


@dataclass(frozen=True, slots=True)
class Fork:
    """What to fork: everything before the first entry with the key `at` (None: everything), as the
    run `id`, with the code of `version` (None: the same)."""

    run: str
    id: str
    at: str | None = None
    version: str | None = None


class Forked(NamedTuple):
    """A fork that was made. `undone` are the keys of steps that it counts as done although the
    original has compensated them since."""

    id: str
    entries: int
    signals: int
    undone: tuple[str, ...] = ()


def fork_id(run_id: str) -> str:
    """A new id that says whose fork it is."""
    return f"{run_id[:_LONGEST]}~{uuid.uuid4().hex[:8]}"


async def fork(store: Store, what: Fork, now: float) -> Forked:
    """Make a fork, durable when this returns; a worker takes it up. `now` is in epoch seconds.

    Raises RunNotFound, InvalidInput for a key that the journal has not or a version that is none,
    RunConflict when the id is taken, DecryptionFailed.
    """
    _check(what)
    found = await store.rows(Page("runs", run=what.run, opened=True))
    if not found:
        raise RunNotFound(f"there is no run {what.run}", hint="List runs with: aura runs list")
    run = found[0]
    journal = await _all(store, "journal", what.run)
    signals = await _all(store, "signals", what.run)
    words = await _all(store, "attributes", what.run)
    plan = planned(what, run, journal, signals, now)
    found_by = [("attributes", {**row, "run_id": what.id, "created_at": now}) for row in words]
    verdict = await store.adopt(plan.run, [*plan.lines, *found_by])
    if verdict != "create":
        raise RunConflict(f"there is a run {what.id} already", hint="Choose another id")
    await store.commit([Announce("ready")])
    kept = sum(table == "journal" for table, _ in plan.lines)
    return Forked(what.id, kept, len(plan.lines) - kept, plan.undone)


class Plan(NamedTuple):
    """The rows of a fork."""

    run: Row
    lines: Sequence[Line]
    undone: tuple[str, ...]


def planned(
    what: Fork, run: Row, journal: Sequence[Row], signals: Sequence[Row], now: float
) -> Plan:
    """The rows of a fork, from those of its original in order of seq. Pure. Raises InvalidInput."""
    cut = len(journal) if what.at is None else _cut(what, run, journal)
    moment = _moment(journal[cut]) if cut < len(journal) else None
    while cut and journal[cut - 1]["kind"] == RECOVERED:
        cut -= 1  # that workers have died of the original says nothing of the fork
    kept, later = journal[:cut], journal[cut:]
    heard = _heard(kept, signals, moment)
    lines: list[Line] = [("journal", {**_shared(row), "run_id": what.id}) for row in kept]
    lines += [("signals", {**row, "run_id": what.id}) for row in signals if row["seq"] <= heard]
    fresh = _beginning(what, run, heard, now)
    return Plan(
        {name: fresh.get(name, value) for name, value in run.items()},
        lines,
        _undone(kept, later),
    )


def _moment(row: Row) -> float:
    """When an entry began; that of a wait which is over, when that was over."""
    return float(row["recorded_at" if row["kind"] in _WAITED else "started_at"])


def _beginning(what: Fork, run: Row, signals: int, now: float) -> Mapping[str, Any]:
    """What a fork does not have from its original."""
    return {
        "id": what.id,
        "version": what.version or run["version"],
        "state": "pending",
        "epoch": 0,
        "owner": None,
        "origin": f"fork of {run['id']} at {what.at}" if what.at else f"fork of {run['id']}",
        "output": None,
        "error": None,
        "wake_at": None,
        "cancel_requested": False,
        "recoveries": 0,
        "signals": signals,
        "parent": None,
        "detached": False,
        "created_at": now,
        "started_at": None,
        "finished_at": None,
        "deadline": None,
        "moved": None,
        "rank": None if run.get("rank") is None else now - (run["created_at"] - run["rank"]),
        "dedup": None,
        "debounced": False,
    }


def _shared(row: Row) -> Row:
    """An entry as the fork has it: whose child it was is not the fork's business."""
    if row["kind"] not in ("child", "start") or row["output"] is None:
        return row
    return {**row, "output": to_json({**plain(row["output"]), "own": False})}


def _cut(what: Fork, run: Row, journal: Sequence[Row]) -> int:
    """Where the key begins in the present execution's journal."""
    here = [at for at, row in enumerate(journal) if row["seq"] > run.get("base", 0)]
    keys = list(dict.fromkeys(journal[at]["key"] for at in here))
    begins = {what.at, *(f"{what.at}{end}" for end in _FIRST)} & set(keys)
    if begins:
        told = f"{what.at}/stream:"  # by the step, before its result was there
        return next(
            at for at in here if journal[at]["key"] in begins or journal[at]["key"].startswith(told)
        )
    near = get_close_matches(what.at or "", keys, 3, 0.4)
    raise InvalidInput(
        f"the journal of run {what.run} has no key {what.at!r:.80}",
        hint=f"Keys that are like it: {', '.join(near)}"
        if near
        else f"Look at its keys with: aura runs show {what.run}",
    )


def _heard(kept: Iterable[Row], signals: Iterable[Row], moment: float | None) -> int:
    """The number of the last signal that had come: that was received, or sent before that."""
    taken: list[int] = [
        int(plain(row["input"])["seq"])
        for row in kept
        if row["kind"] == "signal" and row["input"] is not None
    ]
    sent: list[int] = [row["seq"] for row in signals if moment is None or row["sent_at"] <= moment]
    return max([0, *taken, *sent])


def _undone(kept: Iterable[Row], later: Iterable[Row]) -> tuple[str, ...]:
    """Steps of the first part that a compensation in the second one has taken back."""
    undone = {
        _ROUND.sub(r"\1", row["key"])
        for row in later
        if row["kind"] == "step" and row["error"] is None
    }
    done = (row["key"] for row in kept if row["kind"] == "step" and row["error"] is None)
    return tuple(key for key in done if undo_key(key) in undone)


async def _all(store: Store, table: str, run_id: str) -> list[Row]:
    found: list[Row] = []
    while True:
        after = tuple(found[-1][name] for name in TABLES[table].key) if found else ()
        page = await store.rows(Page(table, after, run_id, opened=True))
        if not page:
            return found
        found += page


def _check(what: Fork) -> None:
    if not 0 < len(what.id) <= 500 or not what.id.isprintable():
        raise InvalidInput(
            f"a fork cannot have the id {what.id!r:.80}", hint="Give 1 to 500 printable characters"
        )
    if what.version is not None:
        check_version(what.version)


def check_version(version: object) -> None:
    """Raises InvalidInput for what is no single version."""
    try:
        semver.Version.parse(version)  # type: ignore[arg-type]  # what is checked
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"{version!a:.80} is no semantic version", hint="Write three numbers, as in 1.2.0"
        ) from error
