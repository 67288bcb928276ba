"""Many seeds over several processes."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Iterable, Sequence

from tests.simulation.world import World

_CHUNK = 25  # seeds that a process is given at a time
_ENOUGH = 10  # seeds with complaints, after which no more are played


def replay_command(seed: int) -> str:
    return f"python -m tests.simulation --seed {seed}"


def play_many(seeds: Sequence[int], processes: int = 2) -> dict[int, list[str]]:
    """The complaints of the seeds that have some."""
    chunks = [seeds[at : at + _CHUNK] for at in range(0, len(seeds), _CHUNK)]
    if processes == 1:
        return _joined(map(play_chunk, chunks))
    context = multiprocessing.get_context("spawn")  # a fork would share the database
    with context.Pool(processes) as pool:
        return _joined(pool.imap_unordered(play_chunk, chunks))


def _joined(parts: Iterable[dict[int, list[str]]]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for part in parts:
        found |= part
        if len(found) >= _ENOUGH:
            break
    return found


def play_chunk(seeds: Sequence[int]) -> dict[int, list[str]]:
    """Dead processes leave many cycles. They are looked for after each world, so that the next one
    finds its memory in the cache, and never among what was there before."""
    found = {}
    gc.disable()
    try:
        for seed in seeds:
            gc.freeze()
            complaints = World(seed).play()
            gc.collect()
            if complaints:
                found[seed] = complaints
                if len(found) >= _ENOUGH:
                    break
    finally:
        gc.enable()
    return found
