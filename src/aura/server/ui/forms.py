"""Orders that need more words than why: a dialog with fields, checked before anything is done.

    form = Form("Replay orders", "Events are handled once more.", "Replay", (
        Field("group", "Group", "choice", options=("billing",)),
        Field("since", "Since", value="2026-05-01T12:00:00Z"),
    ))
    answer = await ask(visit, form, into(ReplayBody))
    if answer is not None:                # answer.found is the ReplayBody, answer.why the reason
        await visit.act(Order("topics replay", NEEDS, {...}), answer.why, ...)

Fields are read into the bodies of the API's routes, so both faces take and refuse the same. What is
wrong is said in the dialog, and what was typed stays.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

import yaml
from nicegui import ui
from pydantic import BaseModel, ValidationError

from aura import yamlnodes
from aura.delivery.gitops import plain
from aura.errors import AuraError, InvalidInput
from aura.server.given import MOST
from aura.server.problems import Refused
from aura.server.ui.parts import button, el, sentence
from aura.server.ui.visit import Visit

log = logging.getLogger("aura.server")

T = TypeVar("T")
R = TypeVar("R")
B = TypeVar("B", bound=BaseModel)
Kind = Literal["text", "json", "plan", "pairs", "number", "choice", "yes"]


@dataclass(frozen=True, slots=True)
class Field:
    """A field: `name` as the API calls it. What is left empty is not in the answer. A "plan" is
    YAML as in a file, "pairs" are lines of `name: value`, "yes" is a box to tick."""

    name: str
    label: str
    kind: Kind = "text"
    value: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """What is asked: title, what follows from it, the button that does it, and the fields; with
    `why_needed` a reason, too."""

    title: str
    told: str
    label: str
    fields: tuple[Field, ...]
    danger: bool = False
    why_needed: bool = False


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What was `given` by the names of fields, what the check has `found`, and the reason."""

    given: Mapping[str, Any]
    found: T
    why: str


@contextmanager
def dialog(visit: Visit, title: str) -> Iterator[ui.dialog]:
    """A dialog of the page itself: it stays when the button that opened it is drawn anew."""
    with visit.said.client:
        made = ui.dialog()
    with made, el("div", "dialog", role="dialog", aria_label=title):
        el("h2", "", title)
        yield made


async def ask(
    visit: Visit, form: Form, check: Callable[[dict[str, Any]], Awaitable[T]]
) -> Answer[T] | None:
    """What somebody fills in, once `check` takes it; None when it is not meant. `check` may raise
    AuraError, Refused and pydantic's ValidationError, which is said in the dialog."""

    async def done(answer: Answer[T]) -> Answer[T]:
        return answer

    return await give(visit, form, check, done)


async def give(
    visit: Visit,
    form: Form,
    check: Callable[[dict[str, Any]], Awaitable[T]],
    do: Callable[[Answer[T]], Awaitable[R | None]],
) -> R | None:
    """As `ask`, and `do` it while the dialog is open: when it comes to nothing (None), what was
    typed stays to be mended."""
    with dialog(visit, form.title) as made:
        if form.told:
            el("p", "", form.told)
        read = [(field, _drawn(field)) for field in form.fields]
        with el("label", "field"):
            el("span", "", "Reason, for the audit log")
            reason = ui.textarea().props("outlined dense autogrow rows=2 maxlength=500")
        missing = el("p", "dialog-missing", "", role="alert")

        async def submit() -> None:
            missing.show("")
            if form.why_needed and not str(reason.value or "").strip():
                missing.show("Say why: others will want to know.")
                return
            try:
                given = await _given(read)
                found = await check(given)
            except (AuraError, Refused, ValidationError) as error:
                missing.show(_said(error))
                return
            except Exception as error:
                log.exception("the check of %s failed", form.title)
                missing.show(sentence(error))
                return
            result = await do(Answer(given, found, str(reason.value or "")))
            if result is not None:
                made.submit(result)

        with el("div", "dialog-actions"):
            button("Not now", made.close)
            button(form.label, submit, "danger" if form.danger else "primary")
    answer = await made
    made.delete()
    return cast("R | None", answer)


def into(body: type[B]) -> Callable[[dict[str, Any]], Awaitable[B]]:
    """A check that reads what was given into the body of a route."""

    async def check(given: dict[str, Any]) -> B:
        return body.model_validate(given)

    return check


async def as_given(given: dict[str, Any]) -> dict[str, Any]:
    """The check of fields that need none."""
    return given


def _said(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return sentence(error)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


Read = Callable[[], object]


def _drawn(field: Field) -> Read:
    """Draw it; what says what stands in it."""
    if field.kind == "yes":
        return _box(field.label)
    with el("label", "field"):
        el("span", "", field.label)
        if field.kind == "choice":
            chosen = ui.select(list(field.options), value=field.value or field.options[0])
            chosen.props("outlined dense")
            return lambda: chosen.value
        if field.kind in ("json", "plan", "pairs"):
            rows = 12 if field.kind == "plan" else 2
            area = ui.textarea(value=field.value).classes("typed")
            area.props(f"outlined dense autogrow rows={rows} spellcheck=false maxlength={MOST}")
            return lambda: area.value
        line = ui.input(value=field.value).props("outlined dense autocomplete=off spellcheck=false")
        return lambda: line.value


def _box(label: str) -> Read:
    ticked = False

    def changed(event: Any) -> None:
        nonlocal ticked
        ticked = event.args is True

    with el("label", "field-yes"):
        box = el("input", type="checkbox")
        el("span", "", label)
    box.on("change", changed, js_handler="(event) => emit(event.target.checked)")
    return lambda: ticked


async def _given(read: list[tuple[Field, Read]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, value in read:
        got = value()
        if field.kind == "yes":
            if got:
                found[field.name] = True
            continue
        text = str(got or "").strip()
        if text:
            found[field.name] = await asyncio.to_thread(_value, field, text)
    return found


def _value(field: Field, text: str) -> object:
    """What stands there as a value. Raises InvalidInput, ConfigError."""
    if field.kind == "json":
        return _json(field.label, text)
    if field.kind == "plan":
        return read_document(text)
    if field.kind == "pairs":
        pairs = [line.partition(":") for line in text.splitlines() if line.strip()]
        if not all(colon for _, colon, _ in pairs):
            raise InvalidInput(f"{field.label}: a line has no colon", hint="Write name: value")
        return {name.strip(): value.strip() for name, _, value in pairs}
    if field.kind == "number":
        try:
            return float(text)
        except ValueError:
            raise InvalidInput(f"{field.label}: {text!r:.60} is no number") from None
    return text


def _json(label: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{label}: this is no JSON: {error}") from None


def read_document(text: str) -> dict[str, Any]:
    """A plan that was typed, as YAML or JSON. Aliases are refused: a few lines of them can stand
    for gigabytes. Raises ConfigError, InvalidInput."""
    node = yamlnodes.load(text, file="line", kind="plan", begin="name:")
    if any(isinstance(one, yaml.AliasEvent) for one in yaml.parse(text, Loader=yaml.SafeLoader)):
        raise InvalidInput("the plan has an alias (*name)", hint="Write it out")
    found = plain(node)
    if not isinstance(found, dict):
        raise InvalidInput("the plan is no mapping", hint="Write lines such as name: checkout")
    return found
