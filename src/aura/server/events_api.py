"""The HTTP API's routes for topics and dead letters.

A dead letter's name stands in a path as one segment: `event:orders/billing/17` is
`/letters/event%3Aorders%2Fbilling%2F17`. Tokens that are limited to workflows see the parked runs
of these and no events, which belong to no workflow.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import AwareDatetime, ConfigDict, Field

from aura.app import Aura
from aura.server import letters, topics
from aura.server.access import GuardedRoute, caller_of, needs
from aura.server.bulk import MOST
from aura.server.letters import MOST_LETTERS, LetterDetail, LetterFilter, LetterList
from aura.server.letters_bulk import ChosenLetters, LetterAction, LettersChanged, change_letters
from aura.server.runs_api import CHANGES, READS, Body, Nothing
from aura.server.scopes import require_letter, theirs
from aura.server.topics import MOST_EVENTS, EventPage, TopicView

Kind = Literal["event", "run"]
LetterId = Annotated[
    str,
    Path(
        pattern=r"^(run:.+|event:[^/]+/[^/]+/[0-9]{1,18})$",
        description="As in the list, with / as %2F.",
        examples=["event:orders/billing/1"],
    ),
]
Topic = Annotated[str, Path(min_length=1, examples=["orders"])]


class LetterRequeueBody(Body):
    """With which `version` a run goes on, or of the workflow that handles an event (none: the
    same). A function that handles events has no versions."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "1.0.1"}]})
    version: str | None = None


class LettersBody(Body):
    """What to do to many dead letters: to these `ids`, or to those of a `topic` and `group`, of a
    `kind`, or the parked runs of a `workflow`, the newest first; `next` of the answer is the
    `cursor` with which to go on. `version` is for a requeue."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"action": "requeue", "topic": "orders", "group": "billing", "dry_run": True}
            ]
        }
    )
    action: LetterAction
    ids: Annotated[list[str], Field(default_factory=list, max_length=MOST)]
    kind: Kind | None = None
    topic: str | None = None
    group: str | None = None
    workflow: str | None = None
    version: str | None = None
    limit: Annotated[int, Field(ge=1, le=MOST, strict=True)] = MOST
    cursor: str | None = None
    dry_run: bool = False


class ReplayBody(Body):
    """Since when a `group` handles a topic's events again: a time with its zone."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"group": "billing", "since": "2026-05-01T12:00:00Z"}]}
    )
    group: str
    since: AwareDatetime


class ForgetBody(Body):
    """Which `group` of a topic is forgotten."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"group": "old-billing"}]})
    group: str


def events_routes(app: Aura) -> APIRouter:
    """All of them."""
    router = APIRouter(route_class=GuardedRoute)
    _topics(router, app)
    _topic_orders(router, app)
    _letters(router, app)
    _letter_orders(router, app)
    return router


def _topics(router: APIRouter, app: Aura) -> None:
    @router.get(
        "/topics", name="topics list", tags=["topics"], openapi_extra=needs("viewer"),
        responses=READS,
    )  # fmt: skip
    async def list_topics() -> dict[str, list[TopicView]]:
        """All topics, by name: how large they are, and how far their groups."""
        return {"topics": await topics.topics(app)}

    @router.get(
        "/topics/{topic:segment}", name="topics show", tags=["topics"],
        openapi_extra=needs("viewer"), responses=READS,
    )  # fmt: skip
    async def show_topic(topic: Topic) -> TopicView:
        """A topic and how far its groups are."""
        return (await topics.topics(app, topic))[0]

    @router.get(
        "/topics/{topic:segment}/events", name="topics read", tags=["topics"],
        openapi_extra=needs("viewer"), responses=READS,
    )  # fmt: skip
    async def read_topic(
        topic: Topic,
        after: Annotated[int, Query(ge=0, lt=2**62)] = 0,
        last: Annotated[int, Query(ge=0, le=MOST_EVENTS)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_EVENTS)] = 50,
        full: bool = False,
    ) -> EventPage:
        """Events of a topic in their order: those behind the number `after`, or the `last` ones;
        `next` is the `after` of the next question."""
        return await topics.read_topic(app, topic, after, limit, last=last, full=full)


def _topic_orders(router: APIRouter, app: Aura) -> None:
    @router.post(
        "/topics/{topic:segment}/replay", name="topics replay", tags=["topics"],
        openapi_extra=needs("operator"), responses=CHANGES,
    )  # fmt: skip
    async def replay(topic: Topic, body: ReplayBody) -> dict[str, int]:
        """Let a group handle again what was emitted since then; how many events that are."""
        since = body.since.timestamp()
        return {"events": await topics.replay_topic(app, topic, body.group, since)}

    @router.post(
        "/topics/{topic:segment}/forget", name="topics forget", tags=["topics"],
        openapi_extra=needs("operator"), responses=CHANGES,
    )  # fmt: skip
    async def forget(topic: Topic, body: ForgetBody) -> dict[str, str]:
        """Delete a group that nobody uses any more, so that it keeps no events from being
        deleted."""
        await topics.forget_group(app, topic, body.group)
        return {"topic": topic, "group": body.group}


def _letters(router: APIRouter, app: Aura) -> None:
    @router.get(
        "/letters", name="dlq list", tags=["dead letters"],
        openapi_extra=needs("viewer", "body"), responses=READS,
    )  # fmt: skip
    async def list_letters(
        request: Request,
        kind: Kind | None = None,
        topic: str | None = None,
        group: str | None = None,
        workflow: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LETTERS)] = 50,
        cursor: str | None = None,
    ) -> LetterList:
        """A page of dead letters and parked runs, the newest first."""
        where = LetterFilter(kind, topic, group, theirs(caller_of(request), workflow))
        return await letters.list_letters(app, where, limit, cursor)

    @router.get(
        "/letters/{letter:segment}", name="dlq show", tags=["dead letters"],
        openapi_extra=needs("viewer", "body"), responses=READS,
    )  # fmt: skip
    async def show_letter(request: Request, letter: LetterId, full: bool = False) -> LetterDetail:
        """A dead letter with its payload, and how each try failed."""
        await require_letter(app, caller_of(request), letter)
        return await letters.show_letter(app, letter, full=full)


def _letter_orders(router: APIRouter, app: Aura) -> None:
    @router.post(
        "/letters/{letter:segment}/requeue", name="dlq requeue", tags=["dead letters"],
        openapi_extra=needs("operator", "body"), responses=CHANGES,
    )  # fmt: skip
    async def requeue(
        request: Request, letter: LetterId, body: LetterRequeueBody
    ) -> dict[str, str]:
        """Let it be tried again by whatever worker handles it."""
        await require_letter(app, caller_of(request), letter)
        await letters.requeue_letter(app, letter, body.version)
        return {"id": letter}

    @router.post(
        "/letters/{letter:segment}/drop", name="dlq drop", tags=["dead letters"],
        openapi_extra=needs("operator", "body"), responses=CHANGES,
    )  # fmt: skip
    async def drop(request: Request, letter: LetterId, _: Nothing) -> dict[str, str]:
        """Give it up: an event counts as handled then, and a run as cancelled."""
        await require_letter(app, caller_of(request), letter)
        await letters.drop_letter(app, letter)
        return {"id": letter}

    @router.post(
        "/bulk/letters", name="dlq bulk", tags=["dead letters"],
        openapi_extra=needs("operator", "body"), responses=CHANGES,
    )  # fmt: skip
    async def change_many(request: Request, body: LettersBody) -> LettersChanged:
        """Requeue or drop many, or with `dry_run` say what would come of it."""
        caller = caller_of(request)
        workflow = body.workflow
        if caller.workflows and not body.ids:
            workflow = theirs(caller, workflow)
        for one in body.ids if caller.workflows else ():
            await require_letter(app, caller, one)
        where = LetterFilter(body.kind, body.topic, body.group, workflow)
        chosen = ChosenLetters(tuple(body.ids), where, body.limit, body.cursor)
        return await change_letters(
            app, body.action, chosen, version=body.version, dry_run=body.dry_run
        )
