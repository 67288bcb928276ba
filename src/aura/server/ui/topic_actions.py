"""What can be done to a topic: an event is added, a group handles some again or is forgotten."""

from __future__ import annotations

from functools import partial

from aura.server import emitting, topics
from aura.server.access import Needs
from aura.server.emitting import EmitBody
from aura.server.events_api import ForgetBody, ReplayBody
from aura.server.ui.forms import Field, Form, ask, into
from aura.server.ui.parts import button
from aura.server.ui.visit import Order, Visit

NEEDS = Needs("operator")


def actions(visit: Visit, topic: str, groups: tuple[str, ...]) -> None:
    """The buttons; those about groups only where there are some."""
    why = visit.may(NEEDS)
    button("Emit an event", partial(_emit, visit, topic), "", why)
    if groups:
        button("Replay", partial(_replay, visit, topic, groups), "", why)
        button("Forget a group", partial(_forget, visit, topic, groups), "danger", why)


async def _emit(visit: Visit, topic: str) -> None:
    form = Form(
        f"Emit an event to {topic}",
        "It is durable at once. Events of one key are handled in order; the same id is one event.",
        "Emit",
        (
            Field("payload", "Payload, as JSON", "json", "null"),
            Field("key", "Key"),
            Field("id", "Id (a new one, if empty)"),
        ),
    )
    answer = await ask(visit, form, into(EmitBody))
    if answer is not None:
        body = answer.found
        target = {"name": topic} | ({"id": body.id} if body.id else {})
        await visit.act(
            Order("topics emit", NEEDS, target), answer.why,
            lambda: emitting.emit_event(
                visit.app, topic, body.payload, key=body.key, id=body.id
            ),
            "The event is durable.",
        )  # fmt: skip


async def _replay(visit: Visit, topic: str, groups: tuple[str, ...]) -> None:
    form = Form(
        f"Replay {topic}",
        "The group handles again what was emitted since then and is still kept.",
        "Replay",
        (
            Field("group", "Group", "choice", options=groups),
            Field("since", "Since, a time with its zone: 2026-05-01T12:00:00Z"),
        ),
    )
    answer = await ask(visit, form, into(ReplayBody))
    if answer is None:
        return
    group, since = answer.found.group, answer.found.since
    count = await visit.act(
        Order("topics replay", NEEDS, {"topic": topic, "group": group, "since": since.isoformat()}),
        answer.why,
        lambda: topics.replay_topic(visit.app, topic, group, since.timestamp()),
    )
    if count is not None:
        visit.say(f"{group} handles {count:,} events again.")


async def _forget(visit: Visit, topic: str, groups: tuple[str, ...]) -> None:
    form = Form(
        f"Forget a group of {topic}?",
        "Its position and its dead letters are deleted, and it keeps no events from being deleted. "
        "This cannot be taken back; a group of live workers is refused.",
        "Forget",
        (Field("group", "Group", "choice", options=groups),),
        danger=True,
    )
    answer = await ask(visit, form, into(ForgetBody))
    if answer is not None:
        group = answer.found.group
        await visit.act(
            Order("topics forget", NEEDS, {"topic": topic, "group": group}), answer.why,
            lambda: topics.forget_group(visit.app, topic, group),
            f"Group {group} is forgotten.",
        )  # fmt: skip
