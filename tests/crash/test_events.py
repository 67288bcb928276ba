"""Consumers are killed again and again; every event is handled, in order of its key, and what
handlers emit is there once."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from aura import Aura
from aura.store.events import PARTITIONS
from tests.crash.kit import Nursery

EVENTS, KEYS, CONSUMERS, KILLS = 700, 24, 2, 6
POINTS = ("consume", "consume:before-commit", "consume:after-commit")


async def murder(nursery: Nursery, app: Aura) -> None:
    """Emit while consumers come and die."""
    dice = random.Random(1)
    give_up = time.monotonic() + 90
    emitted = 0
    while nursery.deaths < KILLS or emitted < EVENTS:
        assert time.monotonic() < give_up, f"{nursery.deaths} deaths: {nursery.log()}"
        while len(nursery.alive) < CONSUMERS:
            await nursery.fork(dice.choice(POINTS), dice.randint(5, 60))
        some = range(emitted, min(EVENTS, emitted + 60))
        for number in some:
            await app.emit("orders", number, key=f"k{number % KEYS}")
        emitted += len(some)
        await asyncio.sleep(0.2 * dice.random())
        if nursery.alive and nursery.deaths < KILLS and dice.random() < 0.6:
            nursery.kill(dice.choice(sorted(nursery.alive)))
            await asyncio.sleep(0.02)


def handled(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def by_key(pairs: list[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for key, number in pairs:
        found[key].append(number)
    return found


async def test_killed_consumers_lose_nothing_and_echo_once(nursery: Nursery) -> None:
    async with nursery.client() as app:
        await murder(nursery, app)
        for pid in sorted(nursery.alive):
            nursery.kill(pid)
        await nursery.fork("consume")
        give_up = time.monotonic() + 90
        while True:
            groups = await app.store.events.groups("orders")
            if groups and groups[0].lag == 0:
                break
            assert time.monotonic() < give_up, (groups, nursery.log())
            await asyncio.sleep(0.05)
        echoes = (await app.store.events.read("echoes", 0, tuple(range(PARTITIONS)), 10_000)).events
        letters = await app.store.events.dead_letters()
    assert letters == []
    assert groups[0].dead == 0
    expected = {f"k{key}": list(range(key, EVENTS, KEYS)) for key in range(KEYS)}
    lines = [(line["key"], line["number"]) for line in handled(nursery.folder)]
    firsts = {key: list(dict.fromkeys(numbers)) for key, numbers in by_key(lines).items()}
    assert firsts == expected
    assert by_key([(str(one.key), int(one.payload)) for one in echoes]) == expected
