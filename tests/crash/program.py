"""What the workers of the crash tests run: a workflow whose steps leave a line in a ledger.

The ledger is a file that is only appended to, one JSON line for each time that a step's code ran.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import aura
from aura import Aura, Config, Workflow, step
from aura.engine import Event, Transaction

LEASE = 0.6
POLL = 0.05
CAPACITY = 12


class Narrow:
    """The queue of that name: how many of its runs may be running, and begin within the hour."""

    places, starts = 3, 5


class Here:
    """What this process is: a worker's app, and its ledger."""

    app: Aura
    ledger: int
    events: int


def open_app(
    database: str, *, lease: float = LEASE, poll: float = POLL, capacity: int = CAPACITY
) -> Aura:
    """The app of one process; opened by the caller."""
    config = Config(
        database=database, lease=lease, poll=poll, capacity=capacity, grace=1.0,
        max_recoveries=10**6,  # workers are killed here, they do not die of their runs
    )  # fmt: skip
    made = Aura("crash", config=config)
    made.queue("narrow", concurrency=Narrow.places, rate=(Narrow.starts, 3600.0))
    for workflow in WORKFLOWS:
        made.registry.add(workflow)
    return made


def subscribe(app: Aura) -> None:
    """Let the app handle `orders`: a line in the ledger of events, an echo, and now and then a
    failure."""

    @app.subscribe("orders", group="g", retries=aura.Retry(attempts=50, first=0.01, longest=0.02))
    async def handle(number: int, event: Event) -> None:
        await asyncio.sleep(0.002 * random.random())
        await aura.emit("echoes", number, key=event.key)
        if random.random() < 0.1:
            raise OSError("the network")
        line = {"number": number, "key": event.key, "pid": os.getpid()}
        os.write(Here.events, json.dumps(line).encode() + b"\n")


def enter(what: str, **values: Any) -> None:
    """One line in the ledger: which step of which run, at which epoch, in which process."""
    run_id, _, key = aura.idempotency_key().partition(":")
    worker = Here.app._worker
    execution = worker._executions.get(run_id) if worker else None
    line = {
        "what": what,
        "run": run_id,
        "key": key,
        "epoch": execution.record.epoch if execution else None,
        "pid": os.getpid(),
        "at": time.time(),
        **values,
    }
    os.write(Here.ledger, json.dumps(line).encode() + b"\n")


def open_ledger(path: Path) -> int:
    return os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)


@step
async def effect(before: list[str], pause: float) -> str:
    """An effect: all that it depends on, `before`, must be durable when it starts."""
    enter("effect", before=before)
    await asyncio.sleep(pause * random.random())
    return os.urandom(6).hex()


@step(idempotent=True)
async def look(before: list[str]) -> str:
    enter("look", before=before)
    await asyncio.sleep(0.002 * random.random())
    return os.urandom(6).hex()


@step(retries=aura.Retry(attempts=30, first=0.01, longest=0.02))
def flaky(before: list[str]) -> str:
    enter("flaky", before=before)
    if random.random() < 0.3:
        raise OSError("the network")
    return os.urandom(6).hex()


async def _branch(before: list[str]) -> list[str]:
    one = await look(before)
    return [one, await effect([*before, one], 0.01)]


async def _order(pause: float) -> list[str]:
    found = [await effect([], pause)]
    found.append(await look(found))
    left, right = await asyncio.gather(_branch(found), _branch(found))
    found += [*left, *right]
    await aura.sleep(0.005)
    found.append(await flaky(found))
    found.append(await effect(found, pause))
    return found


order: Workflow[[float], list[str]] = Workflow("order", "1.0.0", _order)
lazily: Workflow[[float], list[str]] = Workflow("lazily", "1.0.0", _order, durability="adaptive")


@step
async def note(number: int) -> int:
    """An effect of a signal that was received."""
    enter("note")
    return number


async def _listening() -> list[int]:
    """The signals that it had, until one is negative."""
    found: list[int] = []
    while (number := await aura.receive("go", type=int)) >= 0:
        found.append(await note(number))
    return found


listening: Workflow[[], list[int]] = Workflow("listening", "1.0.0", _listening)


@step
async def wait_for_file(path: str) -> str:
    enter("began")
    while not Path(path).exists():
        await asyncio.sleep(0.02)
    enter("ended")
    return f"{os.getpid()}"


async def _gated(path: str) -> list[str]:
    return [await wait_for_file(path), await effect([], 0.0)]


gated: Workflow[[str], list[str]] = Workflow("gated", "1.0.0", _gated)


async def _halved(path: str) -> list[str]:
    """An effect, a step that ends when there is a file, and another effect."""
    before = [await effect([], 0.0)]
    await wait_for_file(path)
    return [*before, await effect(before, 0.0)]


halved: Workflow[[str], list[str]] = Workflow("halved", "1.0.0", _halved)


@step.transaction(retries=3)
async def book(tx: Transaction, amount: int) -> int:
    """A transactional effect: one row for each call that the journal knows of."""
    enter("book")
    places = "$1, $2" if Here.app.config.database.startswith("postgresql") else "?, ?"
    sql = f"INSERT INTO bookings (key, amount) VALUES ({places})"  # noqa: S608
    await tx.execute(sql, aura.idempotency_key(), amount)
    return amount


async def _booked(count: int) -> int:
    total = 0
    for number in range(count):
        total += await book(number)
        await look([])
    left, right = await asyncio.gather(book(100), book(200))
    return total + left + right


booked: Workflow[[int], int] = Workflow("booked", "1.0.0", _booked)


async def _member(number: int) -> int:
    await aura.sleep(0.005 * random.random())
    return await note(number) + await note(number)


member: Workflow[[int], int] = Workflow("member", "1.0.0", _member)


async def _family(size: int, turn: int, total: int) -> int:
    """Children that are called and one that is started, in each of three executions."""
    apart = await Here.app.start(member, 1_000 * turn)
    total += sum(await aura.map(member, range(size), concurrency=4))
    total += await apart.result()
    if turn < 3:
        aura.continue_as_new(size, turn + 1, total)
    return total


family: Workflow[[int, int, int], int] = Workflow("family", "1.0.0", _family)

WORKFLOWS: tuple[Workflow[..., Any], ...] = (
    order, lazily, gated, halved, booked, listening, member, family
)  # fmt: skip
