"""A whole app, from one database into another one, and the sign that it has left.

The sign (`aura.engine.residence`) is put there before the first run is taken: from then on no
worker begins there, and nothing is started or changed, by processes that come and by those that are
there and hear of it. Runs that slipped in before they did are moved by the next round, or by the
same command again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aura.clock import Clock
from aura.codec import plain, to_json
from aura.engine.arriving import Imported, import_bundle, require_empty
from aura.engine.bundle import Header
from aura.engine.moving import Export, export, take
from aura.engine.residence import SIGN, promotes
from aura.errors import BundleError, RunsBusy
from aura.store.base import PutDocument, Store
from aura.store.portable import Page

MOVE = "~promotion"
"""The name of the move, which is that of no file."""


async def promote(
    source: Store, target: Store, clock: Clock, what: Export, bundle: Path
) -> Imported:
    """Move runs, documents, feeds and events; nothing goes on in the source after that. Doing it
    again finishes what was interrupted. `bundle` is a file that is written on the way.

    Raises BundleError, RunsBusy, KeyMissing, StoreUnavailable.
    """
    here, there = (await source.info()).location, (await target.info()).location
    if here == there:
        raise BundleError(
            f"an app cannot be promoted to the database that it is in ({here})",
            hint="Name another one that is empty",
        )
    await require_empty(target, Header("move", MOVE, "", 0.0, app=True))
    await _require_no_consumers(source, clock)
    await _leave(source, there)
    what = replace(what, app=True, move=MOVE, again=True)
    done = Imported()
    while True:
        await export(source, clock, what, bundle)
        try:
            arrived = await import_bundle(target, bundle)
        finally:
            _forget(bundle)
        done = done._replace(
            **{name: getattr(done, name) + getattr(arrived, name) for name in _ADDED}
        )
        if not await take(source, clock, what, None):
            return done._replace(present=arrived.present, kept=arrived.kept)
        what = replace(what, app=False, unfinished=True)


def _forget(bundle: Path) -> None:
    bundle.unlink()


_ADDED = ("created", "returned", "parked", "rows")


async def _leave(source: Store, there: str) -> None:
    known = await source.document(*SIGN)
    if known is None:
        promotes(source)
        await source.commit([PutDocument(*SIGN, to_json({"to": there}))])
    elif plain(known.body).get("to") != there:
        raise BundleError(
            f"this app was promoted to {plain(known.body).get('to')} before",
            hint="Promote it to that database, or move it on from there",
        )


async def _require_no_consumers(source: Store, clock: Clock) -> None:
    """Events that a worker is handling here would be handled there, too."""
    if not await source.rows(Page("consumers")):
        return
    now = clock.now() + (await source.info()).clock_offset
    if any(worker.lease_until > now for worker in await source.workers()):
        raise RunsBusy(
            "workers of the source subscribe to events, and would handle them in both databases",
            hint="Stop its workers (SIGTERM lets their steps end) and promote again",
        )
