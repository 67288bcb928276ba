"""Workflows with types that JSON does not have by itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import aura
from aura import Aura, Config, Workflow, step


@dataclass(frozen=True)
class Receipt:
    account: str
    amount: Decimal
    at: datetime
    proof: bytes


@step(idempotent=True)
async def fails(text: str) -> None:
    raise ValueError(text)


async def charge(account: str, amount: Decimal, at: datetime, proof: bytes = b"\xff") -> Receipt:
    return Receipt(account, amount, at, proof)


async def broken(text: str) -> None:
    raise LookupError(text)


async def steps_fail(text: str) -> None:
    await fails(text)


async def talks() -> list[object]:
    """Shows, writes, and waits for a word and a number."""
    aura.set_state("phase", "asking")
    pen = aura.stream("tokens")
    pen.write("one")
    pen.write({"two": "2\n\ndata: x"})
    heard = await aura.receive("go")
    pen.write("three")
    update = await aura.receive_update("add", type=int)
    if update.value < 0:
        update.reject("below zero")
        update = await aura.receive_update("add", type=int)
    update.answer(timedelta(seconds=update.value + 1))
    aura.set_state("phase", "done")
    return [heard, update.value]


async def waits() -> str:
    await aura.receive("never")
    return "heard"


async def picks(reserved: str = "", *, id: str = "") -> str:
    return f"{reserved}/{id}"


async def measures(value: float) -> float:
    return value


async def routes() -> str:
    return await aura.choose("route", {"fast": lambda: "fast", "deep": lambda: "deep"})


routes_flow = Workflow("routes", "1.0.0", routes)
charge_flow = Workflow("charge", "1.0.0", charge)
broken_flow = Workflow("broken", "1.0.0", broken)
steps_fail_flow = Workflow("steps_fail", "1.0.0", steps_fail)
talks_flow = Workflow("talks", "1.0.0", talks)
waits_flow = Workflow("waits", "1.0.0", waits)
measures_flow = Workflow("measures", "1.0.0", measures)


def make_app(database: str) -> Aura:
    app = Aura("served", config=Config(database=database))
    app.queue("slow", concurrency=1)
    for flow in (charge_flow, broken_flow, steps_fail_flow, talks_flow, waits_flow, measures_flow):
        app.registry.add(flow)
    app.registry.add(routes_flow)
    app.workflow(version="1.0.0")(picks)
    app.workflow(version="1.0.0", name="newer")(charge)
    app.workflow(version="1.0.0", name="sorts")(picks)
    app.workflow(version="1.1.0", name="sorts")(picks)
    return app
