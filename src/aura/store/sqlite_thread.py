"""A thread with one connection to SQLite, and what its errors mean."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import random
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from aura.clock import Clock
from aura.errors import StoreError, StoreUnavailable

T = TypeVar("T")

_LOCK_PATIENCE = 30.0  # seconds to wait for another process's transaction


class ConnectionThread:
    """A thread with one connection; calls are answered on the caller's event loop."""

    def __init__(self, path: str, name: str, clock: Clock) -> None:
        self._path = path
        self._name = name
        self._clock = clock
        self._stopping = threading.Event()
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None
        self._given = self._done = 0  # calls, as the caller and the thread count them
        self._progress = threading.Condition()
        self.gate = asyncio.Lock()  # held while a session is open on the connection

    def try_now(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do the work on the calling thread; None if the connection or the file is busy."""
        if self._given != self._done or self._db is None or self.gate.locked():
            return None
        try:
            return work(self._db)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                return None
            raise explain(error, self._path) from error

    async def call(self, work: Callable[[sqlite3.Connection], T], *, inside: bool = False) -> T:
        """Do the work on the thread; `inside` is for whoever holds the gate."""
        if inside or not self.gate.locked():
            return await self._put(work)
        async with self.gate:
            answer = self._put(work)
        return await answer

    def _put(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._given += 1
        self._calls.put((loop, answer, work))
        return answer

    def catch_up(self, patience: float) -> bool:
        """Keep the calling thread waiting until this one has done all that it was given, at most
        for so many seconds; whether it has. Meanwhile it has the interpreter for itself, so that
        takes less time than it would beside a busy event loop."""
        if self.gate.locked():
            return False
        with self._progress:
            return self._progress.wait_for(lambda: self._given == self._done, patience)

    def interrupt(self) -> None:
        """Have the statement that is running on the thread fail."""
        if self._db is not None:
            self._db.interrupt()

    def _patiently(self, db: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        """Repeat the work while another process writes.

        SQLite's own waiting backs off to a tenth of a second; transactions here are far shorter.
        """
        give_up = self._clock.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                return work(db)
            except sqlite3.OperationalError as error:
                over = self._clock.monotonic() > give_up or self._stopping.is_set()
                if "locked" not in str(error) or over:
                    raise
            self._stopping.wait(random.uniform(0.0002, 0.002))  # noqa: S311

    def _answer(
        self, future: asyncio.Future[Any], result: Any, error: BaseException | None
    ) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    async def stop(self) -> None:
        if self._thread is not None:
            self._stopping.set()
            self._calls.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            loop, answer, work = call
            try:
                if self._db is None:
                    self._db = _connect(self._path)
                result, error = self._patiently(self._db, work), None
            except BaseException as caught:  # noqa: BLE001  (handed to the caller)
                result, error = None, explain(caught, self._path)
            with self._progress:
                self._done += 1
                self._progress.notify_all()
            loop.call_soon_threadsafe(self._answer, answer, result, error)
        if self._db is not None:
            self._db.close()
            self._db = None


_Call = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[sqlite3.Connection], Any]]


def _connect(path: str) -> sqlite3.Connection:
    if sqlite3.sqlite_version_info < (3, 35):
        raise StoreError(
            f"SQLite {sqlite3.sqlite_version} is too old",
            hint="Use a Python that is built with SQLite 3.35 or newer, or PostgreSQL",
        )
    if path != ":memory:":
        # Inputs are nobody else's. Only a new file may be opened beside SQLite: closing any other
        # descriptor of a database drops the locks that this process has on it.
        with contextlib.suppress(OSError):  # it is there, or SQLite says what is wrong
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    for pragma in (
        "busy_timeout = 1000",  # only for switching to the write-ahead log
        "journal_mode = WAL",
        "synchronous = FULL",
        "busy_timeout = 0",
    ):
        db.execute(f"PRAGMA {pragma}")
    return db


_ADVICE = (
    ("unable to open", "Check that the folder exists and that this user may write to it"),
    ("readonly", "Give this user write access to the file and its folder"),
    ("full", "Free disk space; nothing that was acknowledged is lost"),
    ("disk i/o", "Check that the disk is not full, and the file system's messages"),
    ("already exists", "The file has another program's tables: choose another path"),
    ("locked", "Another process holds a long transaction on the file; end it"),
    ("not a database", "The file is something else: move it away or choose another path"),
    ("malformed", "The file is damaged: restore a backup, or try `sqlite3 FILE .recover`"),
)


def explain(error: BaseException, path: str) -> BaseException:
    if not isinstance(error, sqlite3.DatabaseError | OSError):
        return error
    text = str(error)
    for part, advice in _ADVICE:
        if part in text.lower():
            wrapped = StoreUnavailable(f"SQLite cannot use {path}: {text}", hint=advice)
            wrapped.__cause__ = error
            return wrapped
    return error
