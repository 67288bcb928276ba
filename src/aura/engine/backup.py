"""A verified copy of a whole database: a bundle of all runs and of what else the app has.

"Verified" means read back from the disk: every line was decoded and counted, and the digest of
what was read is the one that was written. `aura runs import` restores it into an empty database of
either kind. What is encrypted in the database stays so in the copy.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from aura.clock import Clock
from aura.engine.arriving import decoded, opened
from aura.engine.moving import Export, export
from aura.errors import BundleDamaged
from aura.store.base import Store


class BackUp(NamedTuple):
    """A copy that was read back: `rows` by table, `bytes` and `sha256` are the file's."""

    path: str
    rows: dict[str, int]
    bytes: int
    sha256: str


async def back_up(store: Store, clock: Clock, path: Path) -> BackUp:
    """Copy the database into a file and read it back. A whole copy that is there already is kept.

    Raises BundleError when it cannot be written, BundleDamaged when it does not read back.
    """
    await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
    if not await asyncio.to_thread(path.exists):
        await export(store, clock, Export(app=True), path)
    return await asyncio.to_thread(verified, path)


def verified(path: Path) -> BackUp:
    """Read a copy from its beginning to its end. Raises BundleDamaged, BundleError."""
    rows: Counter[str] = Counter()
    with opened(path) as file:
        bundle = decoded(file)
        for table, _ in bundle:
            rows[table] += 1
        if bundle.totals is None:
            raise BundleDamaged(f"{path} breaks off", hint="Back up again")
        file.seek(0)
        digest, size = hashlib.sha256(), 0
        while part := file.read(1 << 20):
            digest.update(part)
            size += len(part)
    return BackUp(str(path), dict(sorted(rows.items())), size, digest.hexdigest())
