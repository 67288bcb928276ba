"""A run as its caller sees it, and how results reach those who wait."""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

from aura.clock import Clock
from aura.codec import Limits, Slot, pack, plain, to_json, unpack
from aura.engine.children import result as child_result
from aura.engine.definition import check_signal_name
from aura.engine.faults import run_error
from aura.engine.fork import Fork, check_version, fork, fork_id
from aura.engine.lanes import Lane, scope, settle_dependencies
from aura.engine.saga_report import SagaReport, report
from aura.engine.shadow import Suppressed, held_back, suppressed
from aura.engine.sharing import Shared
from aura.errors import (
    ConfigError,
    InvalidInput,
    ResultTimeout,
    RunEnded,
    RunNotFound,
    StoreUnavailable,
    UnknownFlow,
    UpdateRejected,
)
from aura.store.base import (
    PRIORITIES,
    SETTLED,
    Announce,
    AppendFeed,
    Entry,
    Outcome,
    Priority,
    RequestCancel,
    RunRecord,
    RunState,
    SendSignal,
    Sent,
    Store,
    Writer,
)

R = TypeVar("R")

UPDATE = "update/"  # begins the names of signals that are updates; no other name has a slash
Deadline = float | timedelta | datetime | None
_LONGEST_ID = 500
_PAYLOAD = Slot(Any, "a signal's payload")
_POLL = 1.0  # seconds between looks at the store, in case a message was lost
_PATIENCE, _PAUSE = 5.0, 0.1  # seconds to look again for while the database is away, and between


class Post(Protocol):
    """Whoever executes runs in this process, and so may have the receivers of signals."""

    def aim(self, op: SendSignal) -> SendSignal:
        """The signal as it is to be written."""

    def landed(self, op: SendSignal, outcome: Outcome | BaseException, now: float) -> None:
        """It is durable, or refused."""


class Results:
    """Wakes those who wait for runs: told by this process's worker, by the store's topics, or by a
    slow look at the store in case a topic was lost."""

    def __init__(self, store: Store, origin: str, clock: Clock) -> None:
        self.origin = origin
        self._clock = clock
        self._store = store
        self._waiters: dict[str, list[asyncio.Future[RunRecord | None]]] = {}
        self._local: Callable[[str], bool] = lambda _: False
        self._post: Post | None = None
        self._watchers: dict[str, dict[asyncio.Event, None]] = {}  # in the order they came
        self.shared = Shared()
        self._closed = False

    def open(self, local: Callable[[str], bool]) -> None:
        """`local` says whether this process executes a run (then it needs no look at the store)."""
        self._local = local
        self._unlisten = self._store.listen(self._hear)
        self._poll = asyncio.get_running_loop().create_task(
            self._look_at_all(), name="aura-results"
        )

    def hand_to(self, post: Post | None) -> None:
        """Who gets each signal of this process, before it is written and when it is durable."""
        self._post = post

    def sending(self, op: SendSignal) -> SendSignal:
        """A signal of this process, as it is to be written."""
        return op if self._post is None else self._post.aim(op)

    def sent(self, op: SendSignal, outcome: Outcome | BaseException) -> None:
        """A signal of this process is durable, or refused."""
        if self._post is not None:
            self._post.landed(op, outcome, self._clock.now())

    async def close(self) -> None:
        """Those who still wait get a ConfigError: the runs go on elsewhere, or later."""
        self._closed = True
        self._unlisten()
        for future in [one for waiters in self._waiters.values() for one in waiters]:
            if not future.done():
                future.set_exception(_closed_error())
        self._poll.cancel()
        await asyncio.gather(self._poll, return_exceptions=True)

    def require_open(self) -> None:
        """Raises ConfigError when the app is closed."""
        if self._closed:
            raise _closed_error()

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for a run, for an answer or for the items of a stream."""
        return bool(self._waiters or self._watchers)

    def settled(self, record: RunRecord) -> None:
        """The worker of this process has settled a run."""
        if record.state in SETTLED:
            self._wake(record.id, record)

    async def wait(self, run_id: str) -> RunRecord:
        """The record of the run once it is settled. Raises RunNotFound."""
        while True:
            future: asyncio.Future[RunRecord | None] = asyncio.get_running_loop().create_future()
            waiters = self._waiters.setdefault(run_id, [])
            waiters.append(future)
            try:
                if not self._local(run_id):
                    record = await self._look(run_id)
                    if record.state in SETTLED:
                        return record
                told = await future
            finally:
                waiters.remove(future)
                if not waiters:
                    self._waiters.pop(run_id, None)
            if told is not None:
                return told

    async def _look(self, run_id: str) -> RunRecord:
        give_up = self._clock.monotonic() + _PATIENCE
        while True:
            try:
                record = await self._store.run(run_id)
                break
            except StoreUnavailable:
                if self._clock.monotonic() > give_up:
                    raise
            await self._clock.sleep(_PAUSE)
        if record is None:
            raise RunNotFound(f"there is no run {run_id}", hint="List runs with: aura runs list")
        return record

    async def _look_at_all(self) -> None:
        while True:
            await self._clock.sleep(_POLL)
            for events in self._watchers.values():
                for event in events:
                    event.set()
            for run_id in [run_id for run_id in self._waiters if not self._local(run_id)]:
                self._wake(run_id, None)

    def now(self) -> float:
        """The time, in epoch seconds."""
        return self._clock.now()

    def moment(self, deadline: Deadline) -> float | None:
        """A deadline in epoch seconds. Raises InvalidInput for one that is no time."""
        if deadline is None:
            return None
        if isinstance(deadline, datetime):
            if deadline.utcoffset() is None:
                raise InvalidInput(
                    f"the deadline {deadline.isoformat()} has no time zone",
                    hint="Give a datetime with tzinfo, or seconds from now",
                )
            return deadline.timestamp()
        wait = deadline.total_seconds() if isinstance(deadline, timedelta) else deadline
        if not isinstance(wait, int | float):
            raise InvalidInput(
                f"the deadline {wait!r:.80} is no time",
                hint="Give seconds from now, a timedelta, or a datetime with tzinfo",
            )
        if not math.isfinite(wait):
            raise InvalidInput(f"a deadline in {wait} s is none", hint="Leave it out")
        return self._clock.now() + wait

    @contextlib.contextmanager
    def watching(self, *topics: str) -> Iterator[asyncio.Event]:
        """An event that is set when one of the topics is heard, and once per slow poll."""
        event = asyncio.Event()
        for topic in topics:
            self._watchers.setdefault(topic, {})[event] = None
        try:
            yield event
        finally:
            for topic in topics:
                self._watchers[topic].pop(event, None)
                if not self._watchers[topic]:
                    del self._watchers[topic]

    def _hear(self, topic: str) -> None:
        for event in self._watchers.get(topic, ()):
            event.set()
        if topic.startswith("run:") and not self._local(topic[4:]):
            self._wake(topic[4:], None)

    def _wake(self, run_id: str, record: RunRecord | None) -> None:
        for future in self._waiters.get(run_id, ()):
            if not future.done():
                future.set_result(record)


def _closed_error() -> ConfigError:
    return ConfigError(
        "the app of this run is closed", hint="Open it again and ask app.run(id); the run is kept"
    )


class Run(Generic[R]):
    """A handle to a run. It holds no state of its own; any number may exist."""

    def __init__(
        self,
        run_id: str,
        store: Store,
        writer: Writer,
        results: Results,
        slot: Slot | None = None,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
    ) -> None:
        self.id = run_id
        self._limits = limits
        self._store = store
        self._writer = writer
        self._results = results
        self._slot = slot

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    async def result(self, timeout: float | None = None) -> R:
        """What the workflow returned, as its declared type; it waits up to `timeout` seconds.

        Inside a run it is a durable wait: its end is journalled, the time counts over crashes, and
        the run may leave memory meanwhile. It waits on while the other one is parked.

        Raises RunFailed, RunCancelled, RunParked, ResultTimeout (the run goes on), RunNotFound.
        """
        lane = scope.get()
        if type(lane) is Lane and lane.execution.children.are_in(self._store):
            wait = lane.execution.called(
                "result", lambda call: child_result(call, self.id, self._slot, timeout)
            )
            return cast("R", await wait)
        self._results.require_open()
        try:
            if timeout is None:
                record = await self._results.wait(self.id)
            else:
                async with asyncio.timeout(timeout):
                    record = await self._results.wait(self.id)
        except TimeoutError as error:
            raise ResultTimeout(
                f"run {self.id} has no result after {timeout} s", hint="It goes on; ask again"
            ) from error
        if record.state != "completed":
            raise run_error(record)
        assert record.output is not None  # noqa: S101  (completed runs have one)
        if self._slot is None:
            return cast("R", plain(record.output))
        return cast("R", self._slot.load(unpack(record.output)))

    async def record(self) -> RunRecord:
        """Everything the store knows of the run. Raises RunNotFound."""
        self._results.require_open()
        found = await self._store.run(self.id)
        if found is None:
            raise RunNotFound(f"there is no run {self.id}", hint="List runs: aura runs list")
        return found

    async def status(self) -> RunState:
        """Where the run is in its life. Raises RunNotFound."""
        return (await self.record()).state

    async def cancel(self) -> RunState:
        """Ask the run to stop; its code may clean up first. Harmless when it has ended.

        Gives the state after the request: "running" until its code has stopped.
        """
        self._results.require_open()
        if await held_back("cancel", self.id, b"null", self.id):
            return await self.status()
        await settle_dependencies()
        outcome: Any = await self._writer.submit(RequestCancel(self.id))
        if outcome is None:
            raise RunNotFound(f"there is no run {self.id}", hint="List runs: aura runs list")
        return cast("RunState", outcome.state)

    async def requeue(self, version: str | None = None) -> RunState:
        """Let a parked run go on from its journal, once what parked it is mended, with the code of
        another version when one is given. Harmless when it is not parked. Gives the state after it.
        Raises RunNotFound, InvalidInput."""
        self._results.require_open()
        if version is not None:
            check_version(version)
        if await held_back("requeue", self.id, b"null", self.id):
            return await self.status()
        await settle_dependencies()
        if await self._store.requeue(self.id, version):
            await self._writer.submit(Announce("ready"))
        return await self.status()

    async def fork(
        self, *, at: str | None = None, version: str | None = None, id: str | None = None
    ) -> Run[R]:
        """A second run that goes on from before the first entry with the key `at` in this one's
        journal (None: from its end), with the code of `version` (None: the same). This one stays.

        It has the state, streams and signals of that moment, and makes its effects anew, with
        idempotency keys of its own. Raises RunNotFound, InvalidInput, RunConflict.
        """
        self._results.require_open()
        await held_back("fork", self.id, b"null", self.id)
        await settle_dependencies()
        what = Fork(self.id, fork_id(self.id) if id is None else id, at, version)
        made = await fork(self._store, what, self._results.now())
        return Run(
            made.id, self._store, self._writer, self._results, self._slot, self._limits
        )  # fmt: skip

    async def reward(self, name: str, value: float) -> None:
        """Tell what the run's choices `name` (`aura.choose`) were worth, from 0 to 1, be it days
        later; durable when this returns. Choices that have a reward already keep it; of a run that
        made none of that name it counts as ignored. Raises RunNotFound, UnknownFlow when no run
        ever made such a choice, and InvalidInput."""
        self._results.require_open()
        check_signal_name(name)
        given: object = value
        if not (isinstance(given, int | float) and 0 <= given <= 1):
            raise InvalidInput(
                f"the reward {value!r:.60} of {name}", hint="Give a number from 0 to 1"
            )
        body = {"kind": "reward", "run": self.id, "value": value}
        if await held_back("reward", name, to_json(body), self.id):
            return
        await settle_dependencies()
        await self._require_choice(name)
        await self._writer.submit(AppendFeed(f"choices/{name}", (to_json(body),)))

    async def _require_choice(self, name: str) -> None:
        lane = scope.set(None)  # what reading begins opens no lane
        try:
            await self.record()
            if await self._store.feed(f"choices/{name}", 0, 1):
                return
        finally:
            scope.reset(lane)
        raise UnknownFlow(
            f"nothing has been chosen by the name {name}, so nothing can be rewarded",
            hint="Use the name that aura.choose has; see: aura flows list",
        )

    async def signal(
        self,
        name: str,
        payload: Any = None,
        *,
        priority: Priority = "normal",
        deadline: Deadline = None,
        id: str | None = None,
    ) -> Sent:
        """Give the run a message, which is durable when this returns.

        With an `id` it is sent once, however often this is called. `deadline` (seconds from now, a
        timedelta or an aware datetime) says until when it is of use: one that cannot meet it is
        delivered all the same, and marked `late`.

        Raises RunNotFound, RunEnded, InvalidInput, CodecError, PayloadTooLarge.
        """
        check_signal_name(name)
        return await self._send(name, payload, priority, deadline, id)

    async def _send(
        self, name: str, payload: Any, priority: Priority, deadline: Deadline, key: str | None
    ) -> Sent:
        self._results.require_open()
        if priority not in PRIORITIES:
            raise InvalidInput(
                f"there is no priority {priority!r}", hint=f"Use {', '.join(PRIORITIES)}"
            )
        _check_signal_id(key)
        plain_data = _PAYLOAD.dump(payload)
        what: Literal["signal", "update"] = "update" if name.startswith(UPDATE) else "signal"
        if await held_back(what, name.removeprefix(UPDATE), plain_data, self.id):
            return Sent(0, False, False, await self.status())
        data = pack(plain_data, self._limits, f"the payload of signal {name}")
        until = self._results.moment(deadline)
        op = SendSignal(self.id, name, data, key or uuid.uuid4().hex, priority, until)
        await settle_dependencies()
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        aimed = self._results.sending(op)

        def done(outcome: Outcome | BaseException) -> None:
            self._results.sent(aimed, outcome)
            if answer.done():
                return  # nobody waits any more
            if isinstance(outcome, BaseException):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        self._writer.post(aimed, done)
        return cast("Sent", await answer)

    async def update(
        self,
        name: str,
        value: Any = None,
        *,
        type: object = Any,
        timeout: float | None = None,
        id: str | None = None,
    ) -> Any:
        """Send a value to `aura.receive_update(name)` in the run, and return its answer, as `type`.

        With an `id` it is sent once, and each call gets the same answer. Waits up to `timeout`
        seconds. Raises UpdateRejected, RunEnded (also when the run ends without an answer),
        ResultTimeout (the update stays sent), RunNotFound, CodecError.
        """
        check_signal_name(name)
        sent = await self._send(UPDATE + name, value, "normal", None, id)
        try:
            async with asyncio.timeout(timeout):
                answer = await self._answer(b"%d" % sent.seq)
        except TimeoutError as error:
            raise ResultTimeout(
                f"update {name} of run {self.id} has no answer after {timeout} s",
                hint="It stays sent; ask again with the same id",
            ) from error
        if answer.error is not None:
            raise UpdateRejected(f"update {name} was refused: {plain(answer.error)['message']}")
        assert answer.output is not None  # noqa: S101  (one of the two is always there)
        return Slot(type, f"the answer to update {name}").load(unpack(answer.output))

    async def _answer(self, update: bytes) -> Entry:
        """The run's answer to the update with that number."""
        after = 0
        with self._results.watching(f"answer:{self.id}", f"run:{self.id}") as news:
            while True:
                news.clear()
                state = await self.status()
                for entry in await self._store.entries(self.id, "answer", after):
                    after = entry.seq
                    if entry.input == update:
                        return entry
                if state in SETTLED:
                    raise RunEnded(f"run {self.id} is {state} and did not answer the update")
                await news.wait()

    async def suppressed(self) -> list[Suppressed]:
        """The effects that a shadow run did not make, in order, from its journal."""
        return suppressed(await self._store.journal(self.id))

    async def sagas(self) -> list[SagaReport]:
        """What became of the run's sagas and their steps, from its journal. Raises RunNotFound."""
        return report(await self._store.journal(self.id), await self.status())

    async def state(self) -> dict[str, Any]:
        """What the run has shown with `aura.set_state`. It is not disturbed. Raises RunNotFound."""
        entries = await self._store.entries(self.id, "state")
        if not entries:
            await self.record()
        return {entry.fingerprint: plain(entry.output) for entry in entries}

    def _look(self, seq: int) -> Callable[[], Awaitable[tuple[bool, list[Entry]]]]:
        async def look() -> tuple[bool, list[Entry]]:
            """Whether the run has ended, then what it has streamed."""
            ended = await self.status() in SETTLED
            return ended, await self._store.entries(self.id, "stream", seq)

        return look

    async def stream(self, name: str, *, after: int = 0, type: object = Any) -> AsyncIterator[Any]:
        """The items that the run writes to `aura.stream(name)`, as they come, until it has ended.

        `after` is how many to pass over: the number of those that were read before. With `type`
        they come back as that. Raises RunNotFound, CodecError, InvalidInput.
        """
        passed: object = after
        if not isinstance(passed, int) or passed < 0:
            raise InvalidInput(f"a stream after {passed!r:.60}", hint="Give a number from 0 on")
        slot = Slot(type, f"an item of stream {name}")
        number = seq = 0
        with self._results.watching(f"stream:{self.id}", f"run:{self.id}") as news:
            while True:
                news.clear()
                ended, entries = await self._results.shared.ask((self.id, seq), self._look(seq))
                for entry in entries:
                    seq = entry.seq
                    for item in plain(entry.output) if entry.fingerprint == name else ():
                        number += 1
                        if number > after:
                            yield item if type is Any else slot.load(to_json(item))
                if ended:
                    return
                await news.wait()


def _check_signal_id(key: object) -> None:
    fine = isinstance(key, str) and 0 < len(key) <= _LONGEST_ID and key.isprintable()
    if key is not None and not fine:
        raise InvalidInput(
            f"a signal cannot have the id {key!a:.80}",
            hint=f"Give 1 to {_LONGEST_ID} printable characters",
        )
