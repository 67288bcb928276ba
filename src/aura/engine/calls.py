"""What executions share, and what one durable call is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

from aura.clock import Clock
from aura.codec import Limits
from aura.engine.middleware import Middleware
from aura.store.base import RunRecord, Writer


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


class Call(NamedTuple):
    """What a durable call asked for."""

    key: str
    fingerprint: str
    input: bytes | None


def is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
