"""What runs in a simulated world: one workflow that does what its plan says, and its steps.

A plan is a list of acts, each a list whose first item is its name. Each time that a step's code
runs it leaves a line in the world's history, and each result is a token that was never there
before: who has a token has the result of that very execution.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import aura
from aura import NonRetryable, Retry, RunFailed, SignalTimeout, StepFailed, Workflow, step
from aura.engine import Transaction
from aura.engine.lanes import StepScope, scope
from tests.simulation.history import Line

Plan = list[Any]
TOPIC = "things"


def _enter(what: str, before: list[str]) -> str:
    """A step's code runs here; the token that it gives."""
    node: Any = asyncio.get_running_loop()
    process = node.node
    current = scope.get()
    assert isinstance(current, StepScope)
    world = process.world
    epoch = current.execution.record.epoch
    token = f"{what[0]}{world.number()}"
    turn = current.execution.record.execution
    line = Line(what, current.run_id, current.key, epoch, process.name, token, tuple(before), turn)
    world.history.began(line, world.durable, world.epoch(current.run_id))
    return token


def _here() -> tuple[Any, str, str]:
    """The running step: its world, its run and its key."""
    node: Any = asyncio.get_running_loop()
    current = scope.get()
    assert isinstance(current, StepScope)
    return node.node.world, current.run_id, current.key


def _tries() -> int:
    """How often the running step has been begun, over all processes."""
    node: Any = asyncio.get_running_loop()
    current = scope.get()
    assert isinstance(current, StepScope)
    return int(node.node.world.history.times(current.run_id, current.key))


@step
async def effect(before: list[str], pause: float) -> str:
    token = _enter("effect", before)
    await asyncio.sleep(pause)
    return token


@step(idempotent=True)
async def look(before: list[str], pause: float) -> str:
    token = _enter("look", before)
    await asyncio.sleep(pause)
    return token


@step(retries=Retry(attempts=3, first=0.1, longest=0.4))
async def flaky(before: list[str], failures: int) -> str:
    token = _enter("flaky", before)
    if _tries() <= failures:
        raise OSError("the network")
    return token


@step
def threaded(before: list[str]) -> str:
    return _enter("threaded", before)


@step(retries=5)
async def doomed(before: list[str]) -> str:
    _enter("doomed", before)
    raise NonRetryable("never")


@step(timeout=0.1)
async def late(before: list[str]) -> str:
    _enter("late", before)
    await asyncio.sleep(1.0)
    return "never"


@step(retries=Retry(attempts=20, first=0.05, longest=0.1))
async def undo(token: str) -> str:
    return _enter("undo", [token])


@step.transaction
async def book(tx: Transaction, before: list[str], pause: float) -> str:
    """Exactly once: what it has booked and its entry are committed together."""
    token = _enter("book", before)
    _, run, key = _here()
    await tx.execute("INSERT INTO bookings VALUES (?, ?, ?)", run, key, token)
    await asyncio.sleep(pause)
    return token


@step.transaction
async def tell(tx: Transaction, before: list[str], event_key: str) -> str:
    """Exactly once: what it has booked, its entry and an event."""
    token = _enter("tell", before)
    await aura.emit(TOPIC, [event_key, token], key=event_key)
    _, run, key = _here()
    await tx.execute("INSERT INTO bookings VALUES (?, ?, ?)", run, key, token)
    return token


async def _walk(plan: Plan, known: list[str]) -> list[str]:
    """Do one act after the other; the tokens that came of it. `known`: those from before."""
    found: list[str] = []
    for act, *rest in plan:
        found += await _ACTS[act]([*known, *found], *rest)
    return found


async def _effect(known: list[str], pause: float) -> list[str]:
    return [await effect(known, pause)]


async def _book(known: list[str], pause: float) -> list[str]:
    return [await book(known, pause)]


async def _tell(known: list[str], key: str) -> list[str]:
    return [await tell(known, key)]


async def _emit(known: list[str], key: str) -> list[str]:
    await aura.emit(TOPIC, [key, *known[-1:]], key=key)
    return []


async def _look(known: list[str], pause: float) -> list[str]:
    return [await look(known, pause)]


async def _flaky(known: list[str], failures: int) -> list[str]:
    try:
        return [await flaky(known, failures)]
    except StepFailed as failed:
        return [failed.type]


async def _threaded(known: list[str]) -> list[str]:
    return [await threaded(known)]


async def _failing(known: list[str], which: str) -> list[str]:
    try:
        return [await (late if which == "late" else doomed)(known)]
    except StepFailed as failed:
        return [failed.type]


async def _sleep(_: list[str], seconds: float) -> list[str]:
    await aura.sleep(seconds)
    return []


async def _value(_: list[str]) -> list[str]:
    return [f"v{aura.random():.12f}", f"v{aura.uuid()}", f"v{aura.now().isoformat()}"]


async def _show(known: list[str]) -> list[str]:
    aura.set_state("known", len(known))
    aura.stream("known").write(known[-1:])
    return []


async def _receive(_: list[str], name: str, timeout: float | None) -> list[str]:
    try:
        return [await aura.receive(name, type=str, timeout=timeout)]
    except SignalTimeout:
        return ["nothing came"]


async def _gather(known: list[str], *branches: Plan) -> list[str]:
    parts = await asyncio.gather(*(_walk(one, known) for one in branches))
    return [token for part in parts for token in part]


async def _race(known: list[str], *branches: Plan) -> list[str]:
    tasks = [asyncio.create_task(_walk(one, known)) for one in branches]
    done, open_ones = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task in open_ones:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return next(task.result() for task in tasks if task in done)


class _Refused(Exception):
    """A saga's scope fails."""


def _check(holds: bool) -> None:
    if not holds:
        raise _Refused


async def _saga(known: list[str], plan: Plan, fails: bool) -> list[str]:
    found: list[str] = []

    async def do(pause: float) -> None:
        found.append(await saga.step(effect, [*known, *found], pause, compensate=undo))

    try:
        async with aura.saga() as saga:
            for part in plan:
                if isinstance(part, list):
                    await asyncio.gather(*(do(pause) for pause in part))
                else:
                    await do(part)
            _check(not fails)
    except _Refused:
        return ["undone"]
    return found


async def _child(known: list[str], plan: Plan) -> list[str]:
    try:
        return await script(plan)
    except RunFailed as failed:
        return [failed.type]


async def _limited(known: list[str], seconds: float, plan: Plan) -> list[str]:
    try:
        async with aura.timeout(seconds):
            return await _walk(plan, known)
    except TimeoutError:
        return ["too late"]


async def handle(event: list[str]) -> None:
    """What is subscribed to the events of a world."""
    node: Any = asyncio.get_running_loop()
    world, process = node.node.world, node.node.name
    seq = int(aura.idempotency_key().rpartition(":")[2])
    world.log(f"{process} handles event {seq} of {event[0]}")
    world.history.handles(event[0], seq, world.earlier_events(event[0], seq))
    await asyncio.sleep(0.01)
    world.history.handled.add(seq)


_ACTS: dict[str, Any] = {
    "book": _book,
    "tell": _tell,
    "child": _child,
    "emit": _emit,
    "limited": _limited,
    "effect": _effect,
    "look": _look,
    "flaky": _flaky,
    "threaded": _threaded,
    "failing": _failing,
    "sleep": _sleep,
    "value": _value,
    "show": _show,
    "receive": _receive,
    "gather": _gather,
    "race": _race,
    "saga": _saga,
}


async def _script(plan: list[Any]) -> list[str]:
    return await _walk(plan, [])


script: Workflow[[list[Any]], list[str]] = Workflow("script", "1.0.0", _script)


async def _turns(asks: list[str], each: int, found: list[str]) -> list[str]:
    """Take one signal or answer one update for each of `asks`, so many in each execution; what
    came, and what was answered."""
    for kind in asks[:each]:
        if kind == "signal":
            found = [*found, await aura.receive("turn", type=str)]
        else:
            update = await aura.receive_update("ask", type=str)
            answer = await effect(found, 0.0)
            update.answer(answer)
            found = [*found, update.value, answer]
    await aura.emit(TOPIC, ["x", *found[-1:]], key="x")
    if asks[each:]:
        aura.continue_as_new(asks[each:], each, found)
    return found


async def _ticking(tick: datetime) -> str:
    """What a schedule starts."""
    return await effect([], 0.0) + f" at {tick.timestamp():g}"


turns: Workflow[[list[str], int, list[str]], list[str]] = Workflow("turns", "1.0.0", _turns)
ticking: Workflow[[datetime], str] = Workflow("ticking", "1.0.0", _ticking)
