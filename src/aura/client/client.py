"""The client of a server, with the verbs of `aura.Aura`."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from aura.client.desks import (
    RemoteCatalog,
    RemoteEmergencies,
    RemoteExperiments,
    RemoteLetters,
    RemoteRollouts,
    RemoteSchedules,
    RemoteSplits,
    RemoteTopics,
    RemoteWorkers,
    RemoteWorkflows,
)
from aura.client.desks_delivery import RemoteFlows, RemoteLearning
from aura.client.live import News, follow
from aura.client.runs import RemoteRun, joined, moment
from aura.client.values import Action, BulkResult, RunInfo, RunPage, read
from aura.client.wire import Ask, Settings, Wire, reason
from aura.clock import Clock
from aura.codec import Limits, Slot, to_json
from aura.engine import (
    Deadline,
    Placement,
    Queue,
    RunFilter,
    Workflow,
    checked_id,
    named,
    new_run_id,
    place,
    taken_attributes,
)
from aura.errors import InvalidInput, UnknownWorkflow

P = ParamSpec("P")
R = TypeVar("R")

PAGE = 200
"""Runs that one request asks for when there may be many."""

_ARGUMENT = Slot(Any, "an argument")
_NO_LIMITS = Limits(max_bytes=2**62)  # the server's are its own


class Client:
    """A server's app, over HTTP: what `aura serve` serves, for another process or machine.

    `async with Client("http://127.0.0.1:8080", token=...) as app:` and then as with an app in this
    process; `aura.client.App` is what both have in common. `timeout` (seconds) bounds one answer,
    beyond what it waits for; while the server is away or busy, requests are tried again for
    `patience` seconds. Certificates are checked; `ca` is a file with others to trust.

    Raises ConfigError for what cannot be a URL or a token.
    """

    place = staticmethod(place)

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        patience: float = 30.0,
        ca: Path | str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._wire = wire = Wire(Settings(url, token, timeout, patience, ca), clock)
        self.rollouts = RemoteRollouts(wire)
        self.experiments = RemoteExperiments(wire)
        self.schedules = RemoteSchedules(wire)
        self.topics = RemoteTopics(wire)
        self.letters = RemoteLetters(wire)
        self.emergencies = RemoteEmergencies(wire)
        self.catalog = RemoteCatalog(wire)
        self.flows = RemoteFlows(wire)
        self.learning = RemoteLearning(wire)
        self.workflows = RemoteWorkflows(wire)
        self.workers = RemoteWorkers(wire)
        self.splits = RemoteSplits(wire)

    def __repr__(self) -> str:
        return f"<client of {self._wire.url}>"

    async def __aenter__(self) -> Self:
        await self._wire.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._wire.close()

    @contextlib.contextmanager
    def because(self, why: str) -> Iterator[None]:
        """`with app.because("asked for by ann"):` says why changes are made, for the audit log."""
        before = reason.set(why)
        try:
            yield
        finally:
            reason.reset(before)

    @overload
    async def start(
        self,
        workflow: Workflow[..., R],
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        queue: Queue | Placement | str | None = None,
        deadline: Deadline = None,
        detached: bool = False,
        **kwargs: Any,
    ) -> RemoteRun[R]: ...

    @overload
    async def start(
        self,
        workflow: str,
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        queue: Queue | Placement | str | None = None,
        deadline: Deadline = None,
        detached: bool = False,
        **kwargs: Any,
    ) -> RemoteRun[Any]: ...

    async def start(
        self,
        workflow: Workflow[..., Any] | str,
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        queue: Queue | Placement | str | None = None,
        deadline: Deadline = None,
        detached: bool = False,  # noqa: ARG002  (no run is this one's parent)
        **kwargs: Any,
    ) -> RemoteRun[Any]:
        """Start a run, durable when this returns. The same id with the same input is the same run.

        As `Aura.start`: `workflow` is a declared workflow (that version runs, and the result comes
        back as declared), a name, or `name@range`; by its `attributes` the run is found. Without an
        `id` the client chooses one, so that a request which is sent again does not start a second
        run. No run is its parent.

        Raises UnknownWorkflow, UnknownQueue, InvalidInput, PayloadTooLarge, RunConflict.
        """
        run_id = new_run_id(self._wire.clock.now()) if id is None else checked_id(id)
        attributes = taken_attributes(kwargs)
        given = {"id": to_json(run_id), "deadline": to_json(moment(deadline))}
        if isinstance(workflow, Workflow):
            data = workflow.signature.dump_checked(args, kwargs, _NO_LIMITS)
            given |= {"workflow": to_json(workflow.name), "version": to_json(workflow.version)}
            given["input"] = data
        elif isinstance(workflow, str):
            given |= {"workflow": to_json(workflow), "version": to_json(version)}
            given["arguments"] = b"[" + b",".join(map(_ARGUMENT.dump, args)) + b"]"
            given["input"] = joined({name: _ARGUMENT.dump(one) for name, one in kwargs.items()})
        else:
            raise UnknownWorkflow(
                f"{workflow!r} is not a workflow", hint="Give a declared one, or its name"
            )
        given |= _where(named(queue))
        if attributes:
            given["attributes"] = to_json(dict(attributes))
        found = await self._wire.send(Ask("POST", ("runs",), body=joined(given)))
        return self._handle(found["id"], workflow)

    async def emit(
        self, topic: str, payload: Any = None, *, key: str | None = None, id: str | None = None
    ) -> None:
        """Add an event to a topic; it is durable when this returns. Events of one `key` are handled
        in order. The same `id` is one event of its topic. Raises CodecError, PayloadTooLarge,
        InvalidInput."""
        given = {
            "payload": Slot(Any, f"the payload of topic {topic}").dump(payload),
            "key": to_json(key),
            "id": to_json(uuid.uuid4().hex if id is None else id),
        }
        await self._wire.send(Ask("POST", ("topics", topic, "events"), body=joined(given)))

    def run(self, run_id: str, workflow: Workflow[P, R] | None = None) -> RemoteRun[Any]:
        """A handle to a run by its id; with `workflow` its result comes back as declared."""
        return self._handle(run_id, workflow)

    def _handle(self, run_id: str, workflow: object) -> RemoteRun[Any]:
        slot = workflow.signature.result if isinstance(workflow, Workflow) else None
        return RemoteRun(run_id, self._wire, slot)

    async def runs(self, where: RunFilter = RunFilter()) -> Sequence[RunInfo]:  # noqa: B008
        """Runs, newest first, at most `where.limit`. Raises InvalidInput for what only a database
        can be asked: to go on after `before`, by `parent` and by `owner`."""
        if (where.before, where.parent, where.owner) != (None, None, None):
            raise InvalidInput(
                "a server does not list runs by before, parent or owner",
                hint="Use each_run(), and show() of the parent",
            )
        found: list[RunInfo] = []
        words = [f"{name}:{value}" for name, value in where.attributes]
        every = self.each_run(state=where.state, workflow=where.workflow, attribute=words)
        async with contextlib.aclosing(every) as runs:
            async for one in runs:
                found.append(one)
                if len(found) >= where.limit:
                    break
        return found

    async def page(self, *, limit: int = 50, cursor: str | None = None, **where: Any) -> RunPage:
        """A page of runs, newest first; `cursor` is the `next` of the page before. `where` are the
        filters of the API's list: `state`, `workflow`, `attribute`, a list of "name:value", and
        `since` and `until`, times in ISO 8601. Raises InvalidInput."""
        query = {**where, "limit": limit, "cursor": cursor}
        return read(RunPage, await self._wire.send(Ask("GET", ("runs",), query)))

    async def each_run(self, **where: Any) -> AsyncGenerator[RunInfo, None]:
        """All runs of these filters, newest first, page by page."""
        cursor: str | None = None
        while True:
            page = await self.page(limit=PAGE, cursor=cursor, **where)
            for one in page.runs:
                yield one
            cursor = page.next
            if cursor is None:
                return

    async def bulk(
        self,
        action: Action,
        ids: Sequence[str] = (),
        *,
        dry_run: bool = False,
        cursor: str | None = None,
        **where: Any,
    ) -> BulkResult:
        """Cancel, requeue or retry many runs: these `ids` (200 at most), or those of `where`
        (the filters of `page`, and `limit`), newest first; with `dry_run` it only says what would
        come of it. Raises InvalidInput."""
        body = {"action": action, "dry_run": dry_run, "cursor": cursor, **where}
        if ids:
            body["ids"] = list(ids)
        again = dry_run or action != "retry"  # a second retry would fork once more
        ask = Ask("POST", ("bulk", "runs"), body=_ARGUMENT.dump(body), again=again)
        return read(BulkResult, await self._wire.send(ask))

    async def overview(self) -> dict[str, Any]:
        """Runs by state, live workers and rollouts, as JSON values."""
        found: dict[str, Any] = await self._wire.send(Ask("GET", ("status",)))
        return found

    async def queue_list(self) -> list[dict[str, Any]]:
        """All queues by name, as JSON values: their limits, and their runs that have not ended."""
        found: list[dict[str, Any]] = (await self._wire.send(Ask("GET", ("queues",))))["queues"]
        return found

    async def queue(self, name: str) -> dict[str, Any]:
        """A queue, the keys that wait in it, and who works on it, as JSON values. Raises
        UnknownQueue."""
        found: dict[str, Any] = await self._wire.send(Ask("GET", ("queues", name)))
        return found

    async def changes(
        self, *kinds: str, run: str | None = None, since: str | None = None
    ) -> AsyncGenerator[News, None]:
        """What changes from now on, or `since` the `id` of what was heard last: of these kinds
        ("runs", "workers", "rollouts" and so on; none: all), and how one `run` gets on.

        It has no end. A connection that breaks is made anew and goes on where it was; "reset" says
        that changes were missed all the same. Raises InvalidInput, RunNotFound, AccessDenied, and
        ServerUnavailable when the server stays away for longer than the client's `patience`.
        """
        async with contextlib.aclosing(follow(self._wire, kinds, run, since)) as found:
            async for news in found:
                yield news

    async def gateway(self) -> dict[str, Any] | None:
        """The gateway of the process that answers, its splits and counters, as JSON values; None
        when it has none."""
        found: dict[str, Any] | None = await self._wire.send(Ask("GET", ("gateway",)))
        return found

    async def audit(self, *, after: int = 0, limit: int = 100) -> dict[str, Any]:
        """Who changed what, when, why and from where, the oldest first, as JSON values."""
        found: dict[str, Any] = await self._wire.send(
            Ask("GET", ("audit",), {"after": after, "limit": limit})
        )
        return found

    async def build(self) -> dict[str, str]:
        """Which Aura the server is, on which Python, and the name of its app."""
        found: dict[str, str] = await self._wire.send(Ask("GET", ("build",)))
        return found

    async def ended_lately(self, limit: int) -> list[tuple[float, float, bool]]:
        """Of the newest `limit` runs those that have ended: when (epoch seconds), after how many
        seconds, and whether well."""
        page = await self.page(limit=limit)
        return [
            (run.finished_at, run.seconds or 0.0, run.state == "completed")
            for run in page.runs
            if run.finished_at is not None
        ]


def _where(where: Placement | None) -> dict[str, bytes]:
    """A place in a queue, as the API takes it."""
    if where is None:
        return {}
    told = {name: one for name, one in asdict(where).items() if one not in (None, "")}
    if where.at is not None:
        told["at"] = datetime.fromtimestamp(where.at, UTC).isoformat()
    return {name: to_json(one) for name, one in told.items()}
