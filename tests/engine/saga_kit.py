"""Steps that sagas of tests make and take back, and what their journals show."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aura import Retry, step
from aura.store.base import Entry

ran: list[str] = []
broken: set[str] = set()


@contextmanager
def breaking(*names: str) -> Iterator[None]:
    broken.update(names)
    try:
        yield
    finally:
        broken.difference_update(names)


@step
async def make(name: str) -> str:
    ran.append(name)
    await asyncio.sleep(0)
    if name in broken:
        raise ValueError(f"{name} is broken")
    return f"<{name}>"


@step(retries=Retry(attempts=1, first=0.0))
async def unmake(made: str) -> None:
    ran.append(f"not {made}")
    await asyncio.sleep(0)
    if made in broken:
        raise ValueError(f"{made} stays")


async def fail() -> None:
    raise RuntimeError("no")


def keys(journal: list[Entry]) -> list[str]:
    return [entry.key for entry in journal if entry.kind == "step" and entry.output is not None]


@step
async def unmake_nothing() -> None:
    ran.append("nothing")
