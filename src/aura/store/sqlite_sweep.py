"""Deleting what is old from SQLite, a small batch per transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

from aura.store.base import Sweep, Swept
from aura.store.queries import queries
from aura.store.sqlite_payloads import sweep_payloads

_SQL = queries("sqlite")


def sweep(db: sqlite3.Connection, what: Sweep, now: float) -> Swept:
    """Delete one batch; `now` is the database's time in epoch seconds."""
    db.execute("BEGIN IMMEDIATE")
    try:
        swept = _runs(db, what, now)
        earlier = _earlier(db, what, now, what.limit - sum(swept))
        swept = Swept(*map(sum, zip(swept, earlier, strict=True)))
        items = _items(db, what, now, what.limit - sum(swept))
        room = what.limit - sum(swept) - items
        workers = _delete(db, "sweep_workers", {"dead": now - what.dead, "room": room})
        payloads = sweep_payloads(db, room - workers)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return swept._replace(items=items, workers=workers, payloads=payloads)


def sweepable(db: sqlite3.Connection, what: Sweep, now: float) -> Swept:
    """How much there is to delete."""
    values = {"before": now - what.age, "dead": now - what.dead, "now": now}
    found = Swept(*db.execute(_SQL["sweepable"], values).fetchone())
    items = (
        db.execute(_SQL["sweepable_items"], {**values, "feed": feed}).fetchone()[0]
        for feed in _aging_feeds(db, what)
    )
    return found._replace(items=sum(items))


def _runs(db: sqlite3.Connection, what: Sweep, now: float) -> Swept:
    """A run goes after its journal and its signals."""
    runs = entries = signals = 0
    old = {"before": now - what.age, "limit": what.limit, "now": now}
    for (run_id,) in db.execute(_SQL["ended_runs"], old).fetchall():
        room = what.limit - runs - entries - signals
        gone = _delete(db, "sweep_journal", {"run": run_id, "room": room})
        entries += gone
        read = _delete(db, "sweep_signals", {"run": run_id, "room": room - gone})
        signals += read
        if gone + read >= room:
            break
        db.execute(_SQL["sweep_attributes"], (run_id,))
        db.execute(_SQL["sweep_run"], (run_id,))
        runs += 1
    return Swept(runs, entries, signals)


def _earlier(db: sqlite3.Connection, what: Sweep, now: float, room: int) -> Swept:
    """What earlier executions of runs that go on have left."""
    entries = signals = 0
    old = {"before": now - what.age}
    for (run_id,) in db.execute(_SQL["continued_runs"], {**old, "limit": room}).fetchall():
        values = {**old, "run": run_id}
        left = room - entries - signals
        entries += _delete(db, "sweep_earlier", {**values, "room": left})
        left = room - entries - signals
        signals += _delete(db, "sweep_taken", {**values, "room": left})
    return Swept(entries=entries, signals=signals)


def _items(db: sqlite3.Connection, what: Sweep, now: float, room: int) -> int:
    gone = 0
    for feed in _aging_feeds(db, what):
        if gone >= room:
            break
        values: dict[str, str | float] = {
            "feed": feed,
            "before": now - what.age,
            "room": room - gone,
        }
        gone += _delete(db, "sweep_feed", values)
    return gone


def _aging_feeds(db: sqlite3.Connection, what: Sweep) -> Iterator[str]:
    for (feed,) in db.execute(_SQL["feed_names"]).fetchall():
        if feed.startswith(what.feeds) and feed not in what.keep:
            yield feed


def _delete(db: sqlite3.Connection, name: str, values: Mapping[str, str | float]) -> int:
    return db.execute(_SQL[name], values).rowcount
