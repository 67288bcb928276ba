"""Processes that take part in rollouts: `python -m tests.delivery.rollout_process`.

    worker DATABASE                                drives rollouts; told `go after|before POINT` it
                                                   kills itself at that commit (`go freeze POINT`:
                                                   it stops itself just before it)
    jobs DATABASE RUN...                           the same with a workflow `job`, of whose 2.0.0 it
                                                   starts these runs when there are none
    follower DATABASE SPLIT deaf|blind             prints each epoch and when it heard of it; deaf:
                                                   hears no message, blind: never looks by itself

Points are `split:<epoch>`, `status:<length of the history>`, `retirement:<the same>` and
`<key of a journal entry>`. Each process prints "ready" when everything is imported and opens the
database when its stdin says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import aura.app
from aura import Aura, Config, receive, step
from aura.delivery import follower as follower_module
from aura.delivery.split import Split
from aura.store.base import Append, Op, Outcome, PutDocument, Store
from aura.store.sqlite import SqliteStore

LEASE = 0.5


def point_of(op: Op) -> str:
    """What the operation writes, as points are named."""
    if isinstance(op, Append):
        return op.entry.key
    if isinstance(op, PutDocument):
        body = json.loads(op.body)
        if op.kind == "split":
            return f"{'split' if body['name'] == 't' else body['name']}:{body['epoch']}"
        if op.kind == "retirement":
            return f"retirement:{len(body['history'])}"
        if op.kind == "rollout" and body["opened"]:
            return f"status:{len(body['history'])}"
        if op.kind == "experiment" and body["opened"]:
            return f"experiment:{len(body['history'])}"
        if op.kind == "layer":
            return f"layer:{len(body['tenants'])}"
    return ""


def dying(store: Store, when: str, point: str) -> Store:
    """The store, on which the process ends at that commit."""
    commit = store.commit

    async def until_then(ops: Sequence[Op]) -> list[Outcome]:
        reached = point in map(point_of, ops)
        if reached and when == "freeze":
            await freeze(store)
        elif reached and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        outcomes = await commit(ops)
        if reached and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return outcomes

    setattr(store, "commit", until_then)  # noqa: B010  (a method of one object)
    return store


async def freeze(store: Store) -> None:
    """Stop this process: never in the middle of a claim, which on SQLite keeps all others out."""

    def stop(_: object = None) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    if isinstance(store, SqliteStore):
        await store._writer.call(stop)
    else:
        stop()


def deaf(store: Store) -> Store:
    """The store, from which no message ever comes."""
    setattr(store, "listen", lambda _: lambda: None)  # noqa: B010
    return store


async def told() -> str:
    """The next line of stdin, "" at its end."""
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def with_jobs(app: Aura) -> Aura:
    """The app with a workflow of two versions that does something and waits."""

    @step
    async def prepare(name: str) -> str:
        return name

    async def job(name: str) -> str:
        await prepare(name)
        return f"{name} {await receive('go')}"

    for version in ("1.0.0", "2.0.0"):
        app.workflow(version=version, name="job")(job)
    return app


async def jobs(database: str, *runs: str) -> None:
    await worker(database, *runs)


async def worker(database: str, *runs: str) -> None:
    open_store = aura.app.open_store
    app = Aura("test", config=Config(database=database, lease=LEASE, poll=0.05))
    if runs:
        with_jobs(app)
    print("ready", flush=True)
    _, *end = (await told()).split()
    if end:
        when, point = end

        def opened(*given: Any) -> Store:
            return dying(open_store(*given), when, point)

        setattr(aura.app, "open_store", opened)  # noqa: B010
    async with app:
        for run in runs:
            await app.start("job", run, id=run, version="2.0.0")
        await told()


async def follower(database: str, split: str, how: str) -> None:
    heard: set[int] = set()
    if how == "blind":
        setattr(follower_module, "POLL", 3_600.0)  # noqa: B010  (a constant)

    def hear(found: Split) -> None:
        if found.epoch not in heard:
            heard.add(found.epoch)
            print(found.epoch, time.time(), flush=True)

    app = Aura("test", config=Config(database=database))
    print("ready", flush=True)
    await told()
    async with app.client():
        if how == "deaf":
            deaf(app.store)
        app.rollouts.follow(split, hear)
        await told()


if __name__ == "__main__":
    act: Any = {"worker": worker, "jobs": jobs, "follower": follower}[sys.argv[1]]
    asyncio.run(act(*sys.argv[2:]))
