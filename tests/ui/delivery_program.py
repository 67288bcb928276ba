"""The app that the tests of pages about delivery and messages serve: it makes its own traffic."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aura
from aura import Aura, Config, Retry, step
from aura.delivery.observation import Observation
from aura.delivery.shadow import Example, Finding
from aura.delivery.split import Split

ATTACK = "<script>document.title='taken'</script>"
app = Aura("shop", config=Config(grace=0.5, poll=0.1))
app.queue("gpu", concurrency=2, per_key=1)


@app.workflow(version="1.0.0", name="research", owner="ann", changelog=f"First {ATTACK}")
async def research_1(text: str) -> dict[str, str]:
    return {"text": text}


@app.workflow(version="1.1.0", name="research", owner="ann", changelog="Optional language")
async def research_11(text: str, language: str = "en") -> dict[str, str]:
    return {"text": text}


@app.workflow(version="2.0.0", name="research", owner="ann", changelog="Needs a language")
async def research_2(text: str, language: str) -> dict[str, str]:
    return {"text": text}


@app.workflow(version="1.0.0")
async def nightly() -> str:
    return "done"


app.schedule("nightly-report", nightly, cron="0 3 * * *", timezone="Europe/Berlin")


@app.workflow(version="1.0.0")
async def asked(start: int = 0) -> int:
    """Adds what it is told by an update, and waits to be stopped."""
    told = await aura.receive_update("add", type=int)
    told.answer(start + told.value)
    await aura.receive("stop")
    return start + told.value


@app.workflow(version="1.0.0")
async def picks() -> str:
    """Makes a choice, which is rewarded later."""
    found: str = await aura.choose("tone", {"warm": lambda: "hello", "cold": lambda: "hi"})
    await aura.receive("stop")
    return found


@step(retries=0)
async def book() -> int:
    return 17


@step(retries=Retry(1, first=0.01))
async def unbook() -> None:
    raise ConnectionError("nobody answers")


@app.workflow(version="1.0.0")
async def stuck() -> None:
    """Is parked: what it has done cannot be undone."""
    async with aura.saga() as saga:
        await saga.step(book, compensate=unbook)
        raise ValueError("no room is free")


@app.workflow(version="1.0.0")
async def fails() -> None:
    raise ValueError("on purpose")


_failed: set[int] = set()


@app.subscribe("orders.ready", group="billing", retries=0)
async def bill(event: dict[str, Any]) -> None:
    """Fails at the first try of every event, and goes well after a requeue."""
    if event["number"] not in _failed:
        _failed.add(event["number"])
        raise ValueError(f"no account for order {event['number']} {ATTACK}")


@app.workflow(version="1.0.0")
async def orders(count: int) -> int:
    """Emits so many events."""
    for number in range(count):
        await app.emit("orders.ready", {"number": number}, key=f"order-{number}")
    return count


@step(idempotent=True)
async def requests(split: str, count: int, failing: int) -> None:
    """So many requests by the split as it is now. Of the candidate's every `failing`-th one fails,
    of the baseline's every second one of these."""
    document = await app.store.document("split", split)
    assert document is not None
    now = Split.from_json(document.body)
    candidate, dice = now.arms[1].name, random.Random(7)
    seen = {True: 0, False: 0}
    for number in range(count):
        arm = now.assign(f"u{number}")
        slow = arm == candidate
        seen[slow] += 1
        bad = failing > 0 and seen[slow] % (failing if slow else 2 * failing) == 0
        latency = dice.lognormvariate(-1.9 if slow else -2.2, 0.4)
        app.rollouts.observe(
            Observation(
                split, document.epoch, arm, f"u{number}", app.clock.now(), not bad, latency,
                now.share(candidate), user_ok=not bad,
            )
        )  # fmt: skip
    while app.rollouts.waiting_observations:
        await asyncio.sleep(0.01)


@app.workflow(version="1.0.0")
async def traffic(split: str, count: int, failing: int = 0) -> int:
    await requests(split, count, failing)
    return count


@step(idempotent=True)
async def compared(split: str, arm: str) -> None:
    """A hundred copies: one field differs often, one is noise, one has an attacker's name."""
    for number in range(100):
        at, found = app.clock.now(), {"took_ms": Example(str(number), str(number + 3), "number", 1)}
        if number % 4 == 0:
            found["answer.price"] = Example("12.50", "12.49", "number", at, run="r-1")
        if number % 20 == 0:
            found[f"answer.{ATTACK}"] = Example(ATTACK, "'\"><img src=x onerror=alert(1)>", "", at)
        what = Finding(found, noise=frozenset({"took_ms"}), effects=(("step", "charge", "stub"),))
        app.rollouts.shadows.found(split, arm, what)


@app.workflow(version="1.0.0")
async def copies(split: str, arm: str) -> None:
    await compared(split, arm)


@step(idempotent=True)
async def customers(count: int) -> None:
    """So many units of the experiment; those of the second arm spend more."""
    for number in range(count):
        one = await app.experiments.assign("shop", f"c{number}")
        spent = random.Random(number).gauss(10, 3) * (1.15 if one.arm == "long" else 1.0)
        app.observe(one, latency=0.1, metrics={"basket": spent})
        if number % 100 == 99:
            await asyncio.sleep(0.3)  # a confidence sequence has a point for each look
    while app.rollouts.waiting_observations:
        await asyncio.sleep(0.01)


@app.workflow(version="1.0.0")
async def visits(count: int) -> int:
    await customers(count)
    return count
