"""A run on a server, with the verbs of `aura.Run`."""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar, cast

from pydantic_core import from_json

from aura.client.events import EventParser, ServerEvent
from aura.client.values import Ended, RunInfo, read
from aura.client.wire import FIRST_PAUSE, Ask, Wire
from aura.codec import Slot, to_json
from aura.engine import Deadline, Priority, RunState, Sent, check_signal_name, ended_error, fork_id
from aura.errors import (
    DecryptionFailed,
    InvalidInput,
    ResultTimeout,
    RunConflict,
    RunNotFound,
    ServerUnavailable,
)

R = TypeVar("R")

LONGEST_WAIT = 30.0
"""Seconds for which one request waits for a result or an answer; then it is asked again."""

QUIET = 60.0
"""Seconds without a word on a stream, after which it is taken up on a new connection."""

_PAYLOAD = Slot(Any, "a signal's payload")


class RemoteRun(Generic[R]):
    """A handle to a run on a server. It holds no state of its own; any number may exist."""

    def __init__(self, run_id: str, wire: Wire, slot: Slot | None = None) -> None:
        self.id = run_id
        self._wire = wire
        self._slot = slot

    def __repr__(self) -> str:
        return f"<run {self.id} at {self._wire.url}>"

    async def result(self, timeout: float | None = None) -> R:
        """What the workflow returned, as its declared type; it waits up to `timeout` seconds, also
        over a restart of the server.

        Raises RunFailed, RunCancelled, RunParked, ResultTimeout (the run goes on), RunNotFound.
        """
        ended = await self._ended(timeout)
        if ended.run.state != "completed":
            error = ended.run.error
            told = {} if error is None else {name: getattr(error, name) for name in _RECORDED}
            raise ended_error(ended.run, told)
        output = ended.output or {}
        if output.get("encrypted"):
            raise DecryptionFailed(
                f"the result of run {self.id} does not open on the server: {output['preview']}",
                key_id="",
                hint="Give the server the key",
            )
        value = output.get("value")
        return cast("R", value if self._slot is None else self._slot.load(to_json(value)))

    async def _ended(self, timeout: float | None) -> Ended:
        """How it has ended, once it has. Raises ResultTimeout."""
        begun = self._wire.clock.monotonic()
        while True:
            left = math.inf if timeout is None else begun + timeout - self._wire.clock.monotonic()
            wait = max(0.0, min(left, LONGEST_WAIT))
            found = await self._get("result", {"timeout": wait}, wait=wait)
            ended = read(Ended, found)
            if ended.settled:
                return ended
            if left <= wait:
                raise ResultTimeout(
                    f"run {self.id} has no result after {timeout} s", hint="It goes on; ask again"
                )

    async def info(self) -> RunInfo:
        """What the server shows of the run in lists. Raises RunNotFound."""
        return read(Ended, await self._get("result", {"timeout": 0})).run

    async def show(self, *, full: bool = False) -> dict[str, Any]:
        """The run with its journal, as JSON values; large ones only with `full`. Raises
        RunNotFound."""
        found: dict[str, Any] = await self._get(query={"full": full})
        return found

    async def status(self) -> RunState:
        """Where the run is in its life. Raises RunNotFound."""
        return (await self.info()).state

    async def cancel(self) -> RunState:
        """Ask the run to stop; its code may clean up first. Harmless when it has ended. Gives the
        state after the request. Raises RunNotFound."""
        return read(RunInfo, await self._post("cancel")).state

    async def requeue(self, version: str | None = None) -> RunState:
        """Let a parked run go on from its journal, with the code of another version when one is
        given. Harmless when it is not parked. Raises RunNotFound."""
        given = {} if version is None else {"version": to_json(version)}
        return read(RunInfo, await self._post("requeue", given)).state

    async def retry(self) -> RemoteRun[R]:
        """Try again what failed: the run that goes on, which is a fork if this one has ended.
        Raises RunNotFound, and InvalidInput for one that has neither failed nor is parked."""
        fresh = fork_id(self.id)
        with contextlib.suppress(RunConflict):  # then an earlier try of this call has made it
            found = await self._post("retry", {"id": to_json(fresh)})
            return RemoteRun(found["id"], self._wire, self._slot)
        return RemoteRun(fresh, self._wire, self._slot)

    async def fork(
        self, *, at: str | None = None, version: str | None = None, id: str | None = None
    ) -> RemoteRun[R]:
        """A second run that goes on from before the first entry with the key `at` in this one's
        journal (None: from its end), with the code of `version` (None: the same). This one stays.

        Raises RunNotFound, InvalidInput, RunConflict.
        """
        chosen = fork_id(self.id) if id is None else id
        given = {"at": to_json(at), "version": to_json(version), "id": to_json(chosen)}
        try:
            await self._post("fork", given, again=id is None)
        except RunConflict:
            if id is not None:
                raise  # with an id of its own an earlier try of this call has made it
        return RemoteRun(chosen, self._wire, self._slot)

    async def reward(self, name: str, value: float) -> None:
        """Tell what the run's choices `name` (`aura.choose`) were worth, from 0 to 1; durable when
        this returns. Raises RunNotFound, UnknownFlow, InvalidInput."""
        check_signal_name(name)
        await self._post("rewards", {"value": to_json(value)}, name)

    async def signal(
        self,
        name: str,
        payload: Any = None,
        *,
        priority: Priority = "normal",
        deadline: Deadline = None,
        id: str | None = None,
    ) -> Sent:
        """Give the run a message, which is durable when this returns; it is sent once, and with an
        `id` once however often this is called.

        Raises RunNotFound, RunEnded, InvalidInput, CodecError, PayloadTooLarge.
        """
        check_signal_name(name)
        given = {
            "payload": _PAYLOAD.dump(payload),
            "priority": to_json(priority),
            "deadline": to_json(moment(deadline)),
            "id": to_json(uuid.uuid4().hex if id is None else id),
        }
        found = await self._post("signals", given, name)
        return Sent(
            found["number"], found["duplicate"] and id is not None, found["late"], found["state"]
        )

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
        seconds. Raises UpdateRejected, RunEnded, ResultTimeout (the update stays sent),
        RunNotFound, CodecError.
        """
        check_signal_name(name)
        slot = Slot(type, f"the answer to update {name}")
        given = {
            "value": _PAYLOAD.dump(value),
            "id": to_json(uuid.uuid4().hex if id is None else id),
        }
        begun = self._wire.clock.monotonic()
        while True:
            left = math.inf if timeout is None else begun + timeout - self._wire.clock.monotonic()
            wait = max(0.001, min(left, LONGEST_WAIT))
            try:
                given["timeout"] = to_json(wait)
                found = await self._post("updates", given, name, wait=wait)
            except ResultTimeout as error:
                if left > wait:
                    continue
                raise ResultTimeout(
                    f"update {name} of run {self.id} has no answer after {timeout} s",
                    hint="It stays sent; ask again with the same id",
                ) from error
            return slot.load(to_json(found["answer"]))

    async def state(self) -> dict[str, Any]:
        """What the run has shown with `aura.set_state`. It is not disturbed. Raises RunNotFound."""
        found: dict[str, Any] = (await self._get("state"))["state"]
        return found

    async def stream(self, name: str, *, after: int = 0, type: object = Any) -> AsyncIterator[Any]:
        """The items that the run writes to `aura.stream(name)`, as they come, until it has ended.

        `after` is how many to pass over: the number of those that were read before. A connection
        that breaks is made anew, and nothing is lost or comes twice. Raises RunNotFound,
        CodecError, and ServerUnavailable when the server stays away.
        """
        slot = Slot(type, f"an item of stream {name}")
        number = after
        while True:
            async with aclosing(self._follow(name, number)) as events:
                async for event in events:
                    number = int(event.id)
                    yield from_json(event.data) if type is Any else slot.load(event.data)
            rest = await self._get("streams", {"after": number}, name)  # what ended: run, or proxy?
            if rest["ended"] and not rest["items"]:
                return
            await self._wire.clock.sleep(FIRST_PAUSE)

    async def _follow(self, name: str, after: int) -> AsyncGenerator[ServerEvent, None]:
        """Events until the connection ends, however it does. Raises RunNotFound."""
        query = {"after": after, "follow": True}
        parser = EventParser()
        heard = False
        try:
            async with self._wire.listen(self._ask("streams", name, query=query), QUIET) as pieces:
                async for piece in pieces:
                    heard = True
                    for event in parser.feed(piece):
                        yield event
        except ServerUnavailable:
            if not heard:  # the question that comes next waits for the server, or gives up
                await self._wire.clock.sleep(FIRST_PAUSE)

    async def _get(
        self, what: str = "", query: Mapping[str, Any] | None = None, *more: str, wait: float = 0.0
    ) -> Any:
        return await self._wire.send(self._ask(what, *more, query=query or {}, wait=wait))

    async def _post(
        self,
        what: str,
        given: Mapping[str, bytes] | None = None,
        *more: str,
        again: bool = True,
        wait: float = 0.0,
    ) -> Any:
        """`given` are JSON texts by name."""
        body = joined(given or {})
        ask = self._ask(what, *more, wait=wait, method="POST", body=body, again=again)
        return await self._wire.send(ask)

    def _ask(self, *what: str, method: str = "GET", **given: Any) -> Ask:
        if not self.id:
            raise RunNotFound("there is no run without an id", hint="List runs: aura runs list")
        return Ask(method, ("runs", self.id, *(one for one in what if one)), **given)


_RECORDED = ("type", "message", "traceback", "hint")


def joined(given: Mapping[str, bytes]) -> bytes:
    """A JSON object of JSON texts by name."""
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), one) for name, one in given.items()) + b"}"


def moment(deadline: Deadline) -> float | str | None:
    """A deadline as the API takes it: seconds from now, or a time. Raises InvalidInput."""
    if deadline is None:
        return None
    if isinstance(deadline, datetime):
        if deadline.utcoffset() is None:
            raise InvalidInput(
                f"the deadline {deadline.isoformat()} has no time zone",
                hint="Give a datetime with tzinfo, or seconds from now",
            )
        return deadline.astimezone(UTC).isoformat()
    wait: object = deadline.total_seconds() if isinstance(deadline, timedelta) else deadline
    if not isinstance(wait, int | float) or not math.isfinite(wait):
        raise InvalidInput(
            f"the deadline {deadline!r:.80} is no time",
            hint="Give seconds from now, a timedelta, or a datetime with tzinfo",
        )
    return float(wait)
