"""A command as a process: its event loop, its signals, its log and its end."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from aura.clock import Clock

T = TypeVar("T")
log = logging.getLogger("aura")

_THREAD_PATIENCE = 0.2  # seconds for a thread without work to see that it may end


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end, on uvloop where there is one."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


class Stop:
    """Set by the first SIGTERM or SIGINT. A second one ends the process at once: nothing that was
    acknowledged is lost by that, other workers take the runs over when the lease is up."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.signal = 0

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()

    def hear(self, number: int) -> None:
        """A signal has come."""
        if self._event.is_set():
            log.warning("stopping at once; other workers take over what was under way")
            leave(128 + number)
        self.signal = number
        self._event.set()


async def until(stop: Stop, clock: Clock, seconds: float) -> None:
    """Return when the time is over, or somebody wants to stop."""
    waits = {asyncio.ensure_future(stop.wait()), asyncio.ensure_future(clock.sleep(seconds))}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Signals set the `Stop` for as long as this lasts. Only for the main thread's loop."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop.hear, number)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def user() -> str:
    """Who gives the command; "" for a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def leave(code: int) -> None:
    """End the process now, whatever its threads are doing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def leave_if_stuck(code: int) -> None:
    """End the process when a step's thread would keep it from ending by itself."""
    threads = [one for one in threading.enumerate() if one.name.startswith("aura-step")]
    for thread in threads:
        thread.join(_THREAD_PATIENCE)
    stuck = sum(thread.is_alive() for thread in threads)
    if stuck:
        log.warning("%d steps in threads do not end; their runs have been handed back", stuck)
        leave(code)


def log_to_stderr(wanted: str | None = None) -> None:
    """One line per event of Aura, warnings of everything else; see `aura.telemetry.logs`. Raises
    ConfigError for a format that there is not."""
    from aura.telemetry.logs import configure

    configure(wanted)
