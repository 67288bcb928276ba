"""How a transactional step's statements, its journal entry and the events that it emits come to be
committed together.

    body ──▶ encode ──▶ take the pen ──▶ number the entry ──▶ commit ──▶ durable: an answer
      │         │                                                │
      └─────────┴── raised, cancelled, timed out: rollback       ├──▶ refused: the number becomes a
                                                                 │    failed attempt, then policy
                                                                 └──▶ not known, or another owner:
                                                                      the run is lost here

Invariants: (1) nothing is committed once the body has raised or was cancelled or its time is over;
(2) what the run wrote before is durable before, or in the same commit; (3) what it writes later is
submitted when the commit is known to have taken place or not; (4) a commit is not cut short: a
cancellation waits for its outcome. The store finds out about commits whose connection broke.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from aura.codec import to_json
from aura.engine.calls import execution_id
from aura.engine.events import Handling
from aura.engine.faults import message
from aura.engine.lanes import scope
from aura.engine.transaction import Transaction, current
from aura.errors import (
    LeaseLost,
    OtherDatabase,
    StoreUnavailable,
    TransactionConflict,
    TransactionInDoubt,
)
from aura.store.base import Append
from aura.store.session import Session, Written, append_of, to_the_end

if TYPE_CHECKING:
    from aura.engine.attempt import Try
    from aura.engine.execution import Execution
    from aura.engine.step import TransactionStep

_CONFLICTS = 12  # how often a try is begun anew because the database asks for it
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0  # seconds before that, with jitter

Body = Callable[[], Awaitable[tuple[Any, bytes]]]


async def transacted(
    execution: Execution, step: TransactionStep[..., Any], one: Try, body: Body
) -> Any:
    """Run one try of the step, `body`, and commit it with its entry; its result.

    What the database asks to try again (serialisation failures, deadlocks, a connection that broke)
    is begun anew some times within the same try. Raises what makes the try fail.
    """
    for conflict in range(_CONFLICTS):
        await execution.hold_lease()
        session = execution.session(step.isolation)
        if step.database is not None and not session.is_on(step.database):
            raise OtherDatabase(
                f"step {step.name} is for another database than {session.place}, which has the "
                "journal of its run",
                hint="Both must be in one database to be committed together. Give the app that "
                "database, or use a plain @step with aura.idempotency_key()",
            )
        try:
            return await _once(execution, step, one, body, session)
        except TransactionInDoubt as error:
            lost: StoreUnavailable = error
            break
        except TransactionConflict:
            if conflict == _CONFLICTS - 1:
                raise
        except StoreUnavailable as error:
            lost = error
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**conflict)
        await execution.clock.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
    execution.lose(lost)
    raise LeaseLost(f"run {execution.id}: {lost}")


async def _once(
    execution: Execution, step: TransactionStep[..., Any], one: Try, body: Body, session: Session
) -> Any:
    one.outbox.clear()  # of the tries that the database has refused
    source = f"{execution_id(execution.record)}:{one.call.key}"
    names = Handling(source, execution.limits, one.outbox)
    transaction = Transaction(session, names, execution.pen)
    lane = scope.set(None)  # what is begun here opens no lane: a replay would not
    try:
        outer = current.set(transaction)
        try:
            value, output = await body()
        finally:
            current.reset(outer)
        transaction.end()
        await transaction.begin()  # and then the pen: who has it waits for no connection
        await transaction.take_pen()
        written = partial(_written, execution, transaction, session, partial(step.see, value))
        await execution.answer(
            one.call, "step", output, attempt=one.number, started=one.started, written=written,
            events=tuple(one.outbox),
        )  # fmt: skip
    except BaseException:
        await transaction.abandon()
        raise
    finally:
        scope.reset(lane)
    return value


async def _written(
    execution: Execution, transaction: Transaction, session: Session, seen: Callable[[], None]
) -> None:
    """Commit the entry that was recorded last; nothing cuts it short."""
    entries = execution.pen.entries()
    commit = _commit(execution, session, entries, seen)
    transaction.has_pen = False  # whatever comes of it, the pen is given back there
    await to_the_end(asyncio.ensure_future(commit))


async def _commit(
    execution: Execution, session: Session, entries: list[Written], seen: Callable[[], None]
) -> None:
    pen = execution.pen
    try:
        await session.commit(entries)
    except (LeaseLost, TransactionInDoubt) as error:
        execution.lose(error)
        pen.refuse(error)
        execution.raise_if_stopped()
    except BaseException as error:
        pen.amend(entries[-1], _failed(execution, append_of(entries[-1]), error))
        pen.let_go()
        await session.rollback()
        raise
    else:
        seen()
        pen.let_go(written=len(entries))


def _failed(execution: Execution, op: Append, error: BaseException) -> Append:
    """What takes the place of an entry that was not committed: its try failed."""
    now = execution.clock.now()
    text = {"type": type(error).__name__, "message": message(error), "retry_at": now}
    entry = op.entry._replace(kind="attempt", output=None, error=to_json(text))
    return Append(op.epoch, entry)
