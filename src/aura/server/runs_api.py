"""The HTTP API's routes for runs: start, look, say something, change, listen.

An id stands in a path as one segment: `doc/17` is `/runs/doc%2F17`. Changing requests carry JSON,
also when there is nothing to say (`{}`); `Aura-Reason` says why, for the audit log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_json

from aura.app import Aura
from aura.engine.attributes import LONGEST as LONGEST_ATTRIBUTE
from aura.engine.attributes import MOST as MOST_ATTRIBUTES
from aura.engine.attributes import WORDS
from aura.server import bulk, messages, operations
from aura.server.access import Caller, GuardedRoute, caller_of, needs
from aura.server.bulk import MOST, Action, BulkView, Chosen
from aura.server.messages import Items, Message, SentView
from aura.server.operations import MOST_RUNS, ForkView
from aura.server.problems import described
from aura.server.scopes import theirs
from aura.server.starting import ResultView, Start, legal, result_of, start_run
from aura.server.views import RunDetail, RunList, RunView
from aura.store.base import Priority, RunState

LONGEST_WAIT = 60.0
"""Seconds that an answer or a result is waited for at most; it may be asked for again."""


def _text(given: object) -> object:
    """A number stands for no time: nobody could tell it from seconds."""
    if not isinstance(given, str):
        raise ValueError("give a time as text, such as 2026-03-01T12:00:00Z")  # noqa: TRY004
    return given


Seconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False, strict=True)]
Time = Annotated[AwareDatetime, BeforeValidator(_text)]
Moment = Seconds | Time
Steps = Annotated[int, Field(ge=-10_000, le=10_000, strict=True)]
RunId = Annotated[str, Path(description="The run's id, with / as %2F.", examples=["doc-17"])]
Word = Annotated[str, Path(min_length=1, examples=["approval"])]
Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait at most.")]
Attribute = Annotated[
    tuple[Annotated[str, Field(pattern=WORDS)], ...],
    Query(max_length=MOST_ATTRIBUTES, description="name:value, once for each; all must hold."),
]
ATTRIBUTES: dict[str, Any] = {  # what `checked_attributes` takes
    "maxProperties": MOST_ATTRIBUTES,
    "propertyNames": {"pattern": WORDS.removesuffix(":") + "$"},
    "additionalProperties": {"type": "string", "minLength": 1, "maxLength": LONGEST_ATTRIBUTE},
}
READS = described(400, 401, 403, 404, 413, 422, 429, 503)
CHANGES = described(400, 401, 403, 404, 409, 413, 415, 422, 429, 503, 504)


class Body(BaseModel):
    """A request's body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Nothing(Body):
    """An order that needs no more words: `{}`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})


class StartBody(Body):
    """A run to start. `input` has the workflow's arguments by name, `arguments` those that come
    first; `version` may be a range; times are in seconds from now, `deadline` may be a time, too.
    The same `id` with the same input is the same run. By its `attributes` it is found. `queue` to
    `debounce_limit` say where and when it waits (see "Queues")."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"workflow": "research", "input": {"text": "durable"}, "id": "doc-17"}]
        }
    )
    workflow: str
    input: dict[str, Any] = {}
    arguments: list[Any] = []
    version: str | None = None
    id: str | None = None
    attributes: Annotated[dict[str, str], Field(json_schema_extra=ATTRIBUTES)] = {}
    queue: str | None = None
    key: str | None = None
    priority: Priority | Steps = "normal"
    delay: Seconds | None = None
    at: Time | None = None
    dedup: Annotated[str, Field(min_length=1)] | None = None
    debounce: Seconds | None = None
    debounce_limit: Seconds | None = None
    deadline: Moment | None = None


class SignalBody(Body):
    """A signal; `deadline` is in seconds from now, or a time; `id` makes it one however often it is
    sent."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"payload": {"ok": True}, "priority": "critical"}]}
    )
    payload: Any = None
    priority: Priority = "normal"
    deadline: Moment | None = None
    id: str | None = None


class UpdateBody(Body):
    """An update; `timeout` is how many seconds to wait for the answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"value": 4, "timeout": 10}]})
    value: Any = None
    id: str | None = None
    timeout: Annotated[float, Field(gt=0, le=LONGEST_WAIT, strict=True)] = 30.0


class ForkBody(Body):
    """Where to fork: before the first entry with the key `at` (none: at the end); `version` is the
    code's (none: the same), `id` the new run's."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"at": "0/charge#1"}]})
    at: str | None = None
    version: str | None = None
    id: str | None = None


class RequeueBody(Body):
    """With the code of which `version` a parked run goes on (none: the same)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "1.0.1"}]})
    version: str | None = None


class RetryBody(Body):
    """The `id` of the fork that goes on, if there is to be one: the same one is made once."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})
    id: str | None = None


class RewardBody(Body):
    """What the run's choices were worth."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"value": 0.8}]})
    value: Annotated[float, Field(ge=0, le=1, strict=True)]


class BulkBody(Body):
    """What to do to many runs: to these `ids`, or to those that the list of runs has for the same
    `state`, `workflow`, `attribute`s, `since` and `until`, newest first; `next` of the answer is
    the `cursor` with which to go on."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"action": "retry", "state": "failed", "dry_run": True}]}
    )
    action: Action
    ids: Annotated[list[str], Field(max_length=MOST)] = []
    state: RunState | None = None
    workflow: str | None = None
    attribute: Annotated[
        list[Annotated[str, Field(pattern=WORDS)]], Field(max_length=MOST_ATTRIBUTES)
    ] = []
    since: Time | None = None
    until: Time | None = None
    limit: Annotated[int, Field(ge=1, le=MOST, strict=True)] = MOST
    cursor: str | None = None
    dry_run: bool = False


def runs_routes(app: Aura) -> APIRouter:
    """All of them."""
    router = APIRouter(tags=["runs"], route_class=GuardedRoute)
    _lists(router, app)
    _looks(router, app)
    _streams(router, app)
    _messages(router, app)
    _orders(router, app)
    return router


def _lists(router: APIRouter, app: Aura) -> None:
    @router.get("/runs", name="runs list", openapi_extra=needs("viewer", "body"), responses=READS)
    async def list_runs(
        request: Request,
        state: RunState | None = None,
        workflow: str | None = None,
        attribute: Attribute = (),
        since: AwareDatetime | None = None,
        until: AwareDatetime | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_RUNS)] = 50,
        cursor: str | None = None,
    ) -> RunList:
        """A page of runs, newest first, of those that were created from `since` on and before
        `until`; `next` is the cursor of the page after it. A token that is limited to several
        workflows has to name one."""
        workflow = theirs(caller_of(request), workflow)
        return await operations.list_runs(
            app, state=state, workflow=workflow, limit=limit, cursor=cursor, attributes=attribute,
            since=_seconds(since), until=_seconds(until),
        )  # fmt: skip

    @router.post(
        "/runs", name="runs start", openapi_extra=needs("operator", "body"), responses=CHANGES,
        status_code=201,
    )  # fmt: skip
    async def start(
        request: Request,
        body: StartBody,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
    ) -> RunView:
        """Start a run, which is durable when this answers. With an `Idempotency-Key` or an `id` it
        may be sent again: the answer is the same run; with another input it is a conflict."""
        caller = caller_of(request)
        caller.require(body.workflow.partition("@")[0])
        given = body.model_dump(exclude={"input", "arguments"})
        given["positional"] = tuple(body.arguments)
        once = "" if idempotency_key is None else f"{caller.name}/{idempotency_key}"
        return await start_run(app, Start(arguments=body.input, once=once, **given))

    @router.post(
        "/bulk/runs", name="runs bulk", openapi_extra=needs("operator", "body"), responses=CHANGES
    )
    async def change_many(request: Request, body: BulkBody) -> BulkView:
        """Cancel, requeue or retry many runs, or with `dry_run` say what would come of it."""
        caller = caller_of(request)
        chosen = Chosen(
            tuple(body.ids), body.state, body.workflow, tuple(body.attribute),
            _seconds(body.since), _seconds(body.until), body.limit, body.cursor,
        )  # fmt: skip
        if body.ids:
            known = await operations.runs_of(app, body.ids)
            hidden = {one for one in known if not caller.may_see(known[one].workflow)}
            if hidden:
                caller.require(known[min(hidden)].workflow)
        else:
            chosen = replace(chosen, workflow=theirs(caller, body.workflow))
        return await bulk.change_many(app, body.action, chosen, dry_run=body.dry_run, by=by(caller))


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _looks(router: APIRouter, app: Aura) -> None:
    @router.get(
        "/runs/{run_id:segment}", name="runs show", openapi_extra=needs("viewer", "run"),
        responses=READS,
    )  # fmt: skip
    async def show(request: Request, run_id: RunId, full: bool = False) -> RunDetail:
        """A run with its journal; large inputs and outputs only with `full`."""
        found = await operations.show_run(app, run_id, full=full)
        caller = caller_of(request)
        mine = tuple(one for one in found.children if caller.may_see(one.workflow))
        return replace(found, children=mine)

    @router.get(
        "/runs/{run_id:segment}/result", name="runs result", openapi_extra=needs("viewer", "run"),
        responses=READS,
    )  # fmt: skip
    async def result(run_id: RunId, timeout: Wait = 0.0) -> ResultView:
        """How the run has ended; waits for that up to `timeout` seconds."""
        return await result_of(app, run_id, timeout)

    @router.get(
        "/runs/{run_id:segment}/state", name="runs state", openapi_extra=needs("viewer", "run"),
        responses=READS,
    )  # fmt: skip
    async def state(run_id: RunId) -> dict[str, Any]:
        """What the run shows of itself, by key."""
        return {"state": legal(await messages.state_of(app, run_id))}


def _streams(router: APIRouter, app: Aura) -> None:
    events = {"description": "The items, or events.", "content": {"text/event-stream": {}}}

    @router.get(
        "/runs/{run_id:segment}/streams/{name:segment}",
        name="runs stream",
        openapi_extra=needs("viewer", "run"),
        response_model=Items,
        responses={**READS, 200: events},
    )
    async def stream(
        run_id: RunId,
        name: Word,
        after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        follow: bool = False,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Any:
        """The items of a stream; with `follow` as server-sent events until the run has ended.
        An event's id is the `after` with which the stream is gone on with."""
        after = resumed(last_event_id or "", after)
        found = await messages.items_of(app, run_id, name, after)
        if not follow:
            return found
        return StreamingResponse(_events(app, run_id, name, after), media_type="text/event-stream")


def _messages(router: APIRouter, app: Aura) -> None:
    @router.post(
        "/runs/{run_id:segment}/signals/{name:segment}", name="runs signal",
        openapi_extra=needs("operator", "run"), responses=CHANGES,
    )  # fmt: skip
    async def signal(request: Request, run_id: RunId, name: Word, body: SignalBody) -> SentView:
        """Give the run a message, which is durable when this answers."""
        message = Message(name, body.payload, body.priority, body.deadline, body.id)
        return await messages.signal_run(app, run_id, message, by(caller_of(request)))

    @router.post(
        "/runs/{run_id:segment}/updates/{name:segment}", name="runs update",
        openapi_extra=needs("operator", "run"), responses=CHANGES,
    )  # fmt: skip
    async def update(
        request: Request, run_id: RunId, name: Word, body: UpdateBody
    ) -> dict[str, Any]:
        """Give the run a message and wait for its answer."""
        message = Message(name, body.value, id=body.id)
        found = await messages.update_run(
            app, run_id, message, timeout=body.timeout, by=by(caller_of(request))
        )
        return {"answer": legal(found)}

    @router.post(
        "/runs/{run_id:segment}/rewards/{name:segment}", name="runs reward",
        openapi_extra=needs("operator", "run"), responses=CHANGES,
    )  # fmt: skip
    async def reward(
        request: Request, run_id: RunId, name: Word, body: RewardBody
    ) -> dict[str, str]:
        """Tell what the run's choices of that name were worth; those that know it keep it."""
        await messages.reward_run(app, run_id, name, body.value, by(caller_of(request)))
        return {"run": run_id, "name": name}


def _orders(router: APIRouter, app: Aura) -> None:
    @router.post(
        "/runs/{run_id:segment}/cancel", name="runs cancel",
        openapi_extra=needs("operator", "run"), responses=CHANGES,
    )  # fmt: skip
    async def cancel(request: Request, run_id: RunId, _: Nothing) -> RunView:
        """Ask the run to stop; its code may clean up first."""
        messages.note_change("cancel of", run_id, by(caller_of(request)))
        return await operations.cancel_run(app, run_id)

    @router.post(
        "/runs/{run_id:segment}/requeue", name="runs requeue",
        openapi_extra=needs("operator", "run"), responses=CHANGES,
    )  # fmt: skip
    async def requeue(request: Request, run_id: RunId, body: RequeueBody) -> RunView:
        """Let a parked run go on."""
        return await messages.requeue_run(app, run_id, by(caller_of(request)), body.version)

    @router.post(
        "/runs/{run_id:segment}/retry", name="runs retry",
        openapi_extra=needs("operator", "run"), responses=CHANGES,
    )  # fmt: skip
    async def retry(request: Request, run_id: RunId, body: RetryBody) -> RunView:
        """Try again what failed: the run that goes on, which is a fork if this one has ended."""
        return await messages.retry_run(app, run_id, by(caller_of(request)), body.id)

    @router.post(
        "/runs/{run_id:segment}/fork", name="runs fork",
        openapi_extra=needs("operator", "run"), responses=CHANGES,
    )  # fmt: skip
    async def fork(request: Request, run_id: RunId, body: ForkBody) -> ForkView:
        """Start a second run from the middle of this one, which stays as it is."""
        messages.note_change("fork of", run_id, by(caller_of(request)))
        return await operations.fork_run(
            app, run_id, at=body.at, version=body.version, new_id=body.id
        )


def by(caller: Caller) -> str:
    """A caller in the log."""
    return f"{caller.name}, HTTP from {caller.address or 'a socket'}"


def resumed(last_event_id: str, after: int) -> int:
    """Where a client that lost its connection goes on."""
    known = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 19
    return max(after, int(last_event_id)) if known else after


async def _events(app: Aura, run_id: str, name: str, after: int) -> AsyncIterator[bytes]:
    async for number, item in messages.follow_stream(app, run_id, name, after):
        yield b"id: %d\ndata: %s\n\n" % (number, to_json(item))
