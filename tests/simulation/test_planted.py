"""Bugs that are planted in the engine are seen, and soon: the simulation looks where it should."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from aura.engine import succession
from aura.engine.mailbox import Mailbox, urgency
from aura.engine.recorder import Recorder
from aura.engine.tenure import Tenure
from aura.store import sqlite_payloads, sqlite_queues, sqlite_session
from aura.store.base import Append, Settle, Signal
from aura.store.committer import Committer
from aura.store.queues import loads_from
from aura.store.sqlite import SqliteStore
from tests.simulation import world
from tests.simulation.world import World

Patch = pytest.MonkeyPatch
SEEDS = 1_000


def complaints_of(wanted: str, first: int) -> list[str]:
    """Those up to the first world in which the wanted one is heard."""
    heard: list[str] = []
    for seed in range(first, first + SEEDS):
        heard += World(seed).play()
        if any(wanted in one for one in heard):
            break
    return heard


def skip_the_epoch_check(patch: Patch) -> None:
    """The store takes writes of workers that have lost the run."""
    commit = SqliteStore._commit

    def careless(self: Any, db: Any, ops: Any) -> Any:
        return commit(self, db, [_as_if_current(db, op) for op in ops])

    patch.setattr(SqliteStore, "_commit", careless)


def _as_if_current(db: Any, op: Any) -> Any:
    if not isinstance(op, Append | Settle):
        return op
    run_id = op.entry.run_id if isinstance(op, Append) else op.run_id
    row = db.execute("SELECT epoch FROM runs WHERE id = ?", (run_id,)).fetchone()
    if row is None:
        return op
    return op._replace(epoch=row[0]) if isinstance(op, Append) else replace(op, epoch=row[0])


def acknowledge_before_the_commit(patch: Patch) -> None:
    """Entries count as durable when they are submitted."""
    post = Committer.post

    def hasty(self: Any, op: Any, done: Any) -> None:
        if isinstance(op, Append):
            post(self, op, lambda _: None)
            done(None)
        else:
            post(self, op, done)

    patch.setattr(Committer, "post", hasty)


def let_effects_begin_at_once(patch: Patch) -> None:
    """Effects do not wait until what they depend on is durable."""

    async def durable(self: Any, _: int | None = None) -> None:
        self._execution.raise_if_stopped()

    patch.setattr(Recorder, "durable", durable)


def deliver_signals_twice(patch: Patch) -> None:
    """A signal that was received stays where it was."""

    def take(self: Any, names: Collection[str]) -> Signal | None:
        here = [one for name in names for one in self._waiting.get(name, ())]
        return min(here, key=urgency) if here else None

    patch.setattr(Mailbox, "take", take)


def forget_what_was_received(patch: Patch) -> None:
    """After a recovery, signals that the journal has are new again."""
    begin = Mailbox.__init__

    def forgetful(self: Any, signals: Any, taken: Any, precedence: Any) -> None:
        begin(self, signals, (), precedence)

    patch.setattr(Mailbox, "__init__", forgetful)


def sleep_over_signals(patch: Patch) -> None:
    """A run begins to wait without looking for signals that it has not seen."""
    commit = SqliteStore._commit

    def deaf(self: Any, db: Any, ops: Any) -> Any:
        return commit(
            self, db, [replace(op, seen=None) if isinstance(op, Settle) else op for op in ops]
        )

    patch.setattr(SqliteStore, "_commit", deaf)


def forget_the_entry_of_a_transaction(patch: Patch) -> None:
    """What a step has written is committed without its journal entry."""

    def commit(db: Any, *_: Any) -> None:
        db.execute("COMMIT")

    patch.setattr(sqlite_session, "_commit", commit)


def leave_unread_signals_behind(patch: Patch) -> None:
    """A run begins anew without the signals that it has not read."""
    patch.setattr(succession, "_unread", lambda _: ())


def forget_who_is_under_way(patch: Patch) -> None:
    """A claim does not count the runs of a queue that are running."""
    patch.setattr(sqlite_queues, "loads_from", lambda known, _: loads_from(known, ()))


def trust_an_old_lease(patch: Patch) -> None:
    """A worker that stood still for longer than its lease goes on as if nothing had been."""
    patch.setattr(Tenure, "over", property(lambda _: False))


def let_steps_begin_before_values(patch: Patch) -> None:
    """Idempotent steps do not wait until the ids that they may use are durable."""
    durable = Recorder.durable

    async def hasty(self: Any, seq: int | None = None) -> None:
        if seq is None:
            await durable(self)

    patch.setattr(Recorder, "durable", hasty)


def sweep_what_is_used(patch: Patch) -> None:
    """A run that has lost one of the rows with a payload counts as one that has none."""
    sql = {**sqlite_payloads._SQL}
    sql["sweep_use"] = "DELETE FROM payload_uses WHERE run_id = :run AND mark = :mark"
    patch.setattr(sqlite_payloads, "_SQL", sql)


PLANTED = {
    sweep_what_is_used: "payload is missing",
    leave_unread_signals_behind: "not done",
    forget_who_is_under_way: "are exceeded",
    trust_an_old_lease: "was taken over",
    let_steps_begin_before_values: "not durable",
    skip_the_epoch_check: "two owners",
    acknowledge_before_the_commit: "not durable",
    let_effects_begin_at_once: "not durable",
    deliver_signals_twice: "twice",
    forget_what_was_received: "twice",
    sleep_over_signals: "not done",
    forget_the_entry_of_a_transaction: "times in its journal",
}

FIRST = {"trust_an_old_lease": 1_000}
"""With which seed to begin, for what is seldom seen."""


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_seen(bug: Any, monkeypatch: Patch) -> None:
    bug(monkeypatch)
    monkeypatch.setattr(world, "LIMIT", 60.0)  # seconds; runs that are stuck are so sooner
    complaints = complaints_of(PLANTED[bug], FIRST.get(bug.__name__, 0))
    assert any(PLANTED[bug] in one for one in complaints), complaints[:5]
