"""Taking runs in PostgreSQL: from the default queue in one statement, from the others as
`aura.store.queues` decides.

Each is a transaction of its own: the journals are read before it is committed, and when the
connection breaks while committing, the next claim finds out which runs are really owned. A queue
whose runs must be counted is locked until then (`pg_try_advisory_xact_lock`); who finds it locked
passes by and looks again in a moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Any

from aura.store.base import Claim, Claimed, ClaimResult, Entry, RunRecord, Signal
from aura.store.postgres_link import Connection
from aura.store.queries import queries, whole
from aura.store.queues import (
    MOST_HEADS,
    Head,
    Load,
    choose,
    loads_from,
    next_look,
    open_queues,
)

COLUMNS = ", ".join(
    whole(f":whole(r.{name})", "postgres") if name in ("input", "output") else f"r.{name}"
    for name in RunRecord._fields
)
_SQL = {name: sql.replace(":columns", COLUMNS) for name, sql in queries("postgres").items()}

_Rows = Sequence[Any]
_Find = Callable[[Connection], Awaitable[_Rows]]


class Claims:
    """The claims of one store, and what is not known of them."""

    def __init__(self) -> None:
        self._unsure: list[Claimed] = []
        self._queued = False  # whether runs can be taken from queues, as of the last claim
        self._idle = False  # whether there was nothing to take at all
        self._moment = 0.0  # leases that ended before it were looked at
        self._odd = False

    async def claim(self, connection: Connection, claim: Claim) -> ClaimResult:
        """When runs wait both in queues and in the default one, each gets half of the room. After a
        claim that found nothing the next one looks first: idle, it is one query."""
        found = await self._settle_doubts(connection, claim.worker)
        looks: list[float] = []
        more = True
        if self._queued:
            self._odd = not self._odd
            half = (claim.limit - len(found) + self._odd) // 2
            taken = await self._from_queues(connection, claim, half, looks)
            found += taken
            more = len(taken) == half
        room = claim.limit - len(found)
        since = self._moment
        outlook = await _outlook(connection, claim, since) if self._idle else None
        if room > 0 and claim.versions and (outlook is None or outlook["ready"]):
            found += await self._take(connection, lambda on: _from_default(on, claim, room))
            outlook = None
        outlook = outlook or await _outlook(connection, claim, since)
        wake, cancels, self._queued, self._moment, ready = outlook
        self._idle = not (found or ready or self._queued)
        if self._queued and more:
            room = claim.limit - len(found)
            found += await self._from_queues(connection, claim, room, looks)
        if wake is not None:
            looks.append(max(0.0, wake))
        return ClaimResult(found, min(looks, default=None), tuple(cancels), self._moment)

    async def _from_queues(
        self, connection: Connection, claim: Claim, room: int, looks: list[float]
    ) -> list[Claimed]:
        """`looks` gets in how many seconds there may be more to take."""
        if room <= 0:
            return []
        return await self._take(connection, lambda on: _from_queues(on, claim, room, looks))

    async def _take(self, connection: Connection, find: _Find) -> list[Claimed]:
        """The runs that `find` has made the claimer's, with what belongs to them."""
        transaction = connection.transaction()
        await transaction.start()
        rows = await find(connection)
        if not rows:
            await transaction.commit()  # what `find` may have done besides
            return []
        runs = sorted(
            (RunRecord._make(tuple(row)[:-1]) for row in rows),
            key=lambda run: (run.created_at, run.id),
        )
        over = {row[0] for row in rows if row[-1]}
        lines = await connection.fetch(_SQL["journals"], [run.id for run in runs])
        journals = {key: list(of) for key, of in groupby(map(Entry._make, lines), _run_id)}
        signals = await _signals_of(connection, runs)
        claimed = [
            Claimed(run, journals.get(run.id, []), signals.get(run.id, ()), run.id in over)
            for run in runs
        ]
        self._unsure += claimed
        await transaction.commit()
        taken = set(map(id, claimed))
        self._unsure = [one for one in self._unsure if id(one) not in taken]
        return claimed

    async def _settle_doubts(self, connection: Connection, worker: str) -> list[Claimed]:
        """Which runs of claims whose commit was cut off belong to the worker after all. While that
        commit may still take place, they stay in doubt."""
        doubtful = [one for one in self._unsure if one.run.owner == worker]
        if not doubtful:
            return []
        rows = await connection.fetch(_SQL["owners"], [one.run.id for one in doubtful])
        over = {row[0]: (row[1], row[2]) for row in rows}
        known = [one for one in doubtful if one.run.id in over]
        settled = set(map(id, known))
        self._unsure = [one for one in self._unsure if id(one) not in settled]
        return [one for one in known if over[one.run.id] == (one.run.epoch, worker)]


async def _outlook(connection: Connection, claim: Claim, since: float) -> Any:
    asked = _columns(claim.versions)
    row = await connection.fetchrow(_SQL["outlook"], *asked, claim.worker, since)
    assert row is not None  # noqa: S101  (aggregates give one row)
    return row


async def _from_default(connection: Connection, claim: Claim, room: int) -> _Rows:
    asked = _columns(claim.versions)
    return await connection.fetch(_SQL["claim"], claim.worker, *asked, room, claim.only)


async def _from_queues(
    connection: Connection, claim: Claim, room: int, looks: list[float]
) -> _Rows:
    """Count, decide, take. The statements that count begin after the queues were locked, so they
    see what the last one who had locked them did."""
    asked = _columns(claim.versions)
    await connection.execute(_SQL["queue_promote"])
    orphans = [
        Head(*row)
        for row in await connection.fetch(
            _SQL["queue_orphans"], claim.worker, *asked, room, claim.only
        )
    ]
    loads, now = await _loads(connection, claim, sorted({one.queue for one in orphans}))
    names = open_queues(loads, claim.offer)
    found = await connection.fetch(_SQL["queue_heads"], *asked, names, room, claim.only, MOST_HEADS)
    heads = [Head(*row) for row in found]
    chosen = choose(loads, [*orphans, *heads], room, claim.offer)
    look = next_look(loads, now, heads, chosen, room)
    if look is not None:
        looks.append(look)
    if not chosen:
        return []
    wanted = _columns([(one.id, one.epoch, one.state) for one in chosen])
    return await connection.fetch(_SQL["queue_claim"], claim.worker, *wanted)


async def _loads(
    connection: Connection, claim: Claim, others: Sequence[str]
) -> tuple[dict[str, Load], float]:
    """The queues that concern this claim, locked where they are to be taken from; and the time."""
    asked = _columns(claim.versions)
    doors = await connection.fetch(_SQL["queue_doors"], claim.worker, *asked, others)
    definitions = {row[0]: (row[1], row[2]) for row in doors}
    counts = await connection.fetch(_SQL["queue_loads"], claim.worker, list(definitions))
    now: float = await connection.fetchval(_SQL["queue_now"])
    return loads_from(definitions, map(tuple, counts)), now


async def _signals_of(connection: Connection, runs: Sequence[RunRecord]) -> dict[str, list[Signal]]:
    """The signals of those runs that have some, by run."""
    ids = [run.id for run in runs if run.signals]
    if not ids:
        return {}
    rows = await connection.fetch(_SQL["signals"], ids, [0] * len(ids))
    return {key: list(of) for key, of in groupby(map(Signal._make, rows), _run_id)}


def _columns(rows: Sequence[tuple[Any, ...]]) -> Sequence[Sequence[Any]]:
    """One list for each column; two for no rows."""
    return list(zip(*rows, strict=True)) or [(), ()]


def _run_id(one: Entry | Signal) -> str:
    return one.run_id
