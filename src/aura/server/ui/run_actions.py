"""What can be done to one run: each is asked about, with a reason, and is in the audit log."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast
from urllib.parse import quote

from nicegui import ui

from aura.errors import InvalidInput
from aura.server import messages, operations
from aura.server.access import Needs
from aura.server.messages import Message
from aura.server.runs_api import RequeueBody, RewardBody, UpdateBody
from aura.server.starting import legal
from aura.server.ui.forms import Field, Form, ask, dialog, into
from aura.server.ui.parts import button, el
from aura.server.ui.visit import Order, Visit
from aura.store.base import CLOSED, PRIORITIES, SETTLED, RunRecord

NEEDS = Needs("operator", "run")
MOST_KEYS = 500
"""So many steps are offered to fork at."""


def actions(visit: Visit, run: RunRecord, keys: list[str], choices: list[str]) -> None:
    """The buttons; those that make no sense now are not there. `choices` are the names of those
    that the run has made (`aura.choose`)."""
    why = visit.may(NEEDS)
    if run.state not in CLOSED:
        button("Signal", lambda: _signal(visit, run.id), why_not=why)
        button("Update", lambda: _update(visit, run.id), why_not=why)
    if choices:
        button("Reward", lambda: _reward(visit, run.id, choices), why_not=why)
    if run.state == "parked":
        button("Requeue", lambda: _requeue(visit, run.id), "primary", why)
    if run.state == "failed":
        button("Retry", lambda: _retry(visit, run.id), "primary", why)
    button("Fork", lambda: _fork(visit, run.id, keys), why_not=why)
    if run.state not in SETTLED:
        waits = why or ("it has been asked already" if run.cancel_requested else "")
        button("Cancel", lambda: _cancel(visit, run.id), "danger", waits)


async def _cancel(visit: Visit, run_id: str) -> None:
    told = "It is asked to stop; its code may clean up first. It cannot be taken back."
    why = await visit.confirm(f"Cancel run {run_id}?", told, label="Cancel the run", danger=True)
    if why is not None:
        messages.note_change("cancel of", run_id, visit.by)
        do: Callable[[], Awaitable[Any]] = lambda: operations.cancel_run(visit.app, run_id)  # noqa: E731
        await visit.act(_order("cancel", run_id), why, do, "The run is asked to stop.")


async def _requeue(visit: Visit, run_id: str) -> None:
    form = Form(
        f"Requeue run {run_id}?",
        "It goes on where it stopped; what is in its journal is not done again.",
        "Requeue",
        (Field("version", "With the code of which version (the same, if empty)"),),
    )
    answer = await ask(visit, form, into(RequeueBody))
    if answer is not None:
        version = answer.found.version
        await visit.act(
            _order("requeue", run_id, version=version or ""), answer.why,
            lambda: messages.requeue_run(visit.app, run_id, visit.by, version), "The run goes on.",
        )  # fmt: skip


async def _update(visit: Visit, run_id: str) -> None:
    form = Form(
        f"Update run {run_id}", "The run is given a value, and its answer is waited for.", "Send",
        (
            Field("name", "Name, as the workflow receives it"),
            Field("value", "Value, as JSON", "json", "null"),
            Field("timeout", "Seconds to wait for the answer", "number", "10"),
        ),
    )  # fmt: skip

    async def check(given: dict[str, Any]) -> UpdateBody:
        if not given.get("name"):
            raise InvalidInput("the update has no name", hint="Give the one that the run receives")
        return UpdateBody.model_validate({one: given[one] for one in given if one != "name"})

    answer = await ask(visit, form, check)
    if answer is None:
        return
    body, name = answer.found, str(answer.given["name"])

    async def send() -> str:
        found = await messages.update_run(
            visit.app, run_id, Message(name, body.value), timeout=body.timeout, by=visit.by
        )
        return json.dumps(legal(found), ensure_ascii=False)

    said = await visit.act(_order("update", run_id, name=name), answer.why, send)
    if said is not None:
        visit.tell(f"The run answers: {said[:500]}")


async def _reward(visit: Visit, run_id: str, choices: list[str]) -> None:
    form = Form(
        f"Reward run {run_id}", "What its choices of that name were worth, from 0 to 1.", "Reward",
        (
            Field("name", "Choice", "choice", options=tuple(choices)),
            Field("value", "Worth", "number", "1"),
        ),
    )  # fmt: skip

    async def check(given: dict[str, Any]) -> RewardBody:
        return RewardBody.model_validate({"value": given.get("value")})

    answer = await ask(visit, form, check)
    if answer is None:
        return
    name, value = str(answer.given["name"]), answer.found.value
    await visit.act(
        _order("reward", run_id, name=name), answer.why,
        lambda: messages.reward_run(visit.app, run_id, name, value, visit.by),
        "The choice knows what it was worth.",
    )  # fmt: skip


async def _retry(visit: Visit, run_id: str) -> None:
    told = "A new run goes on from the step that failed; the steps before it are not done again."
    why = await visit.confirm(f"Retry run {run_id}?", told, label="Retry")
    if why is None:
        return
    made = await visit.act(
        _order("retry", run_id), why, lambda: messages.retry_run(visit.app, run_id, visit.by)
    )
    if made is not None and made.id != run_id:
        visit.go(f"/runs/{quote(made.id, safe='')}")


async def _fork(visit: Visit, run_id: str, keys: list[str]) -> None:
    with dialog(visit, "Fork") as asked:
        el("p", "muted", run_id)
        el("p", "", "A second run begins with this one's journal, up to the step that you choose.")
        offered = {"": "its end", **{key: key for key in keys[:MOST_KEYS]}}
        with el("label", "field"):
            el("span", "", "Before which step")
            at = ui.select(offered, value="", with_input=True).props("outlined dense")
        with el("label", "field"):
            el("span", "", "Version (the same, if empty)")
            version = ui.input().props("outlined dense")
        reason = _reason()
        with el("div", "dialog-actions"):
            button("Not now", asked.close)
            button("Fork", lambda: asked.submit((at.value, version.value, reason.value)), "primary")
    found = await asked
    asked.delete()
    if found is None:
        return
    key, named, why = (str(one or "") for one in cast("tuple[Any, ...]", found))
    made = await visit.act(
        _order("fork", run_id, at=key, version=named), why,
        lambda: operations.fork_run(visit.app, run_id, at=key or None, version=named or None),
    )  # fmt: skip
    if made is not None:
        visit.go(f"/runs/{quote(made.run.id, safe='')}")


def signal_buttons(visit: Visit, run_id: str, names: tuple[str, ...]) -> None:
    """A button for each signal that the run waits for, with its name filled in."""
    why = visit.may(NEEDS)
    for name in names:
        button(f"Signal {name}", partial(_signal, visit, run_id, name), why_not=why)


async def _signal(visit: Visit, run_id: str, known: str = "") -> None:
    with dialog(visit, "Signal") as asked:
        el("p", "muted", run_id)
        with el("label", "field"):
            el("span", "", "Name")
            name = ui.input(value=known)
            name.props("outlined dense autofocus autocomplete=off spellcheck=false")
        with el("label", "field"):
            el("span", "", "Payload, as JSON")
            payload = ui.textarea(value="null").props("outlined dense autogrow spellcheck=false")
        with el("label", "field"):
            el("span", "", "Priority")
            priority = ui.select(list(PRIORITIES), value="normal").props("outlined dense")
        reason = _reason()
        missing = el("p", "dialog-missing", "", role="alert")

        def submit() -> None:
            try:
                value = json.loads(str(payload.value or "null"))
            except (ValueError, RecursionError) as error:
                missing.show(f"The payload is no JSON: {error}")
                return
            if not str(name.value or "").strip():
                missing.show("Give the signal's name, as the workflow receives it.")
                return
            asked.submit((str(name.value).strip(), value, str(priority.value), reason.value))

        with el("div", "dialog-actions"):
            button("Not now", asked.close)
            button("Send", submit, "primary")
    found = await asked
    asked.delete()
    if found is None:
        return
    named, value, level, why = cast("tuple[str, Any, str, Any]", found)
    message = Message(named, value, level)
    await visit.act(
        _order("signal", run_id, name=named), str(why or ""),
        lambda: messages.signal_run(visit.app, run_id, message, visit.by),
        "The signal is durable.",
    )  # fmt: skip


def _reason() -> ui.textarea:
    with el("label", "field"):
        el("span", "", "Reason, for the audit log")
        return ui.textarea().props("outlined dense autogrow rows=2 maxlength=500")


def _order(what: str, run_id: str, **more: str) -> Order:
    target = {"run_id": run_id, **{name: value for name, value in more.items() if value}}
    return Order(f"runs {what}", NEEDS, target, run_id)
