"""What executions share, and what one durable call is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aura.clock import Clock
from aura.codec import Limits
from aura.engine.durability import Durability
from aura.engine.history import HistoryLimits
from aura.engine.middleware import Middleware
from aura.engine.precedence import Precedence
from aura.engine.watch import Watch
from aura.errors import TransactionError
from aura.store.base import RunRecord, Writer
from aura.store.session import Isolation, Session

if TYPE_CHECKING:
    from aura.engine.children import Family
    from aura.engine.tenure import Tenure


def _no_session(_: Isolation | None) -> Session:
    raise TransactionError("there are no transactions here: nothing new is begun")


@dataclass(frozen=True, slots=True)
class Services:
    """What executions of one worker share. Times in seconds.

    A run leaves memory when nothing but waiting has happened for `suspend_after` and its next
    timer is more than `keep_in_memory` away; one that waits for a signal stays for `linger`.
    """

    writer: Writer
    clock: Clock
    limits: Limits
    threads: Executor
    origin: str
    settled: Callable[[RunRecord], None]
    suspend_after: float = 0.2
    keep_in_memory: float = 5.0
    around: Sequence[Middleware] = ()
    linger: float = 1.0
    session: Callable[[Isolation | None], Session] = _no_session
    family: Family | None = None
    history: HistoryLimits = field(default_factory=HistoryLimits)
    durability: Durability = "sync"
    tenure: Tenure | None = None
    lent: Mapping[type, object] = field(default_factory=dict)
    precedence: Precedence | None = None
    watch: Watch | None = None


class Call(NamedTuple):
    """What a durable call asked for."""

    key: str
    fingerprint: str
    input: bytes | None


def execution_id(run: RunRecord) -> str:
    """The name of a run's present execution: its id, and from the second one on its number."""
    return run.id if run.execution == 1 else f"{run.id}@{run.execution}"


def loop_is_closing() -> bool:
    """asyncio cancels every task then; a cancelled run shares the loop with those that go on."""
    return all(task.cancelling() for task in asyncio.all_tasks() if not task.done())


def is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
