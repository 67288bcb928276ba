"""Starting a run from the list of runs."""

from __future__ import annotations

from collections.abc import Sequence

from aura.server import starting
from aura.server.access import Needs
from aura.server.runs_api import StartBody
from aura.server.starting import Start
from aura.server.ui.forms import Answer, Field, Form, give
from aura.server.ui.paths import path
from aura.server.ui.visit import Order, Visit
from aura.store.base import PRIORITIES

NEEDS = Needs("operator", "body")


def start_form(workflows: Sequence[str]) -> Form:
    """The form; of a limited token only its workflows are offered."""
    return Form(
        "Start a run",
        "The same id with the same input is the same run.",
        "Start",
        (
            Field("workflow", "Workflow", "choice", options=tuple(workflows)),
            Field("input", "Arguments by name, as JSON", "json", "{}"),
            Field("version", "Version or range (whichever is chosen, if empty)"),
            Field("id", "Id (a new one, if empty)"),
            Field("queue", "Queue"),
            Field("priority", "Priority", "choice", "normal", PRIORITIES),
            Field("delay", "Not before so many seconds from now", "number"),
            Field("attributes", "Attributes, a line for each: customer: x", "pairs"),
        ),
    )


async def start(visit: Visit, workflows: Sequence[str]) -> None:
    """Ask for a run, start it, and show it."""

    async def check(given: dict[str, object]) -> StartBody:
        body = StartBody.model_validate(given)
        visit.caller.require(body.workflow)
        return body

    async def do(answer: Answer[StartBody]) -> str | None:
        body = answer.found
        named = {"workflow": body.workflow, "version": body.version, "id": body.id}
        given = body.model_dump(exclude={"input", "arguments"})

        async def begin() -> str:
            visit.caller.require(body.workflow)
            return (await starting.start_run(visit.app, Start(arguments=body.input, **given))).id

        order = Order("runs start", NEEDS, {name: one for name, one in named.items() if one})
        return await visit.act(order, answer.why, begin)

    made = await give(visit, start_form(workflows), check, do)
    if made is not None:
        visit.go(path("runs", made))
