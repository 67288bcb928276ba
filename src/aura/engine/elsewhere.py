"""Whether a run that was moved has left those behind that wait for it.

Runs move with their parents and children, and a promotion takes them all: whoever waits then is on
the way as well, and waits on where it arrives. A run that waits for one that is neither (a detached
child, a run of any other origin) may stay. Nothing will ever tell it, so its wait ends, but not
before the move is written: until then nobody knows whether it goes along.
"""

from __future__ import annotations

from aura.engine.lanes import scope
from aura.errors import DecryptionFailed, StoreUnavailable
from aura.store.base import Store
from aura.store.portable import Moved, Page


async def has_left(store: Store, run_id: str) -> bool:
    """Whether the moved run is gone for good from the sight of those that are still here. False,
    too, when the store cannot say."""
    lane = scope.set(None)  # what reading begins opens no lane
    try:
        if await _is_there(store, "promotion", "to"):
            return False
        found = await store.rows(Page("runs", run=run_id))
        moved = Moved.of(found[0]) if found else None
        return moved is not None and await _is_there(store, "move", moved.move)
    except StoreUnavailable:
        return False
    finally:
        scope.reset(lane)


async def _is_there(store: Store, kind: str, name: str) -> bool:
    try:
        return await store.document(kind, name) is not None
    except DecryptionFailed:
        return True
