"""What pages are made of. Everything that is shown is text to the browser: nothing here takes HTML,
so that a run's input can never become part of a page.

    with card("Limits", "per queue"):
        facts({"running": 3, "at most": 10})
    badge("parked", "amber")
    table = Table(COLUMNS, label="Queues", empty=Empty("No queues", "", "aura queues list"))
    table.show(rows)                        # again and again: nothing is sent for the same rows
    button("Requeue", on_click, tone="danger")
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nicegui.element import Element

from aura.server.problems import problem_of
from aura.server.ui.icons import ICONS
from aura.server.views import ErrorView, Payload

Tone = Literal["", "green", "blue", "red", "amber", "grey", "violet"]
Kind = Literal["text", "code", "link", "badge", "state", "time", "seconds", "number", "share"]
Click = Callable[[], Awaitable[None] | None]

STATE_TONES: dict[str, Tone] = {
    "pending": "violet",
    "running": "blue",
    "waiting": "violet",
    "completed": "green",
    "failed": "red",
    "cancelled": "grey",
    "parked": "amber",
    "moved": "grey",
    "done": "green",
    "retrying": "amber",
}


class El(Element):
    """An HTML element with text in it."""

    def __init__(self, tag: str, text: str | None = None) -> None:
        super().__init__(tag)
        self._text = text

    def show(self, text: str) -> None:
        """Say something else; nothing is sent when it is the same."""
        if text != self._text:
            self._text = text
            self.update()


def el(tag: str, classes: str = "", text: str | None = None, **attributes: Any) -> El:
    """An HTML element: `el("a", "link", "doc-17", href="/runs/doc-17")`. Names of attributes have
    `_` for `-`; what is None is left out. Links lead inside the dashboard only."""
    made = El(tag, text)
    if classes:
        made.classes(classes)
    for name, value in attributes.items():
        if value is not None:
            key = name.rstrip("_").replace("_", "-")
            if key in ("href", "action") and not _inside(str(value)):
                raise ValueError(f"{key} leads out of the dashboard: {value!r:.100}")
            made.props[key] = value
    return made


def _inside(target: str) -> bool:
    return target.startswith(("/", "#", "?")) and not target.startswith("//")


def icon(name: str) -> El:
    """One of icons.py, for the eye only."""
    made = el("svg", "icon", viewBox="0 0 16 16", aria_hidden="true", focusable="false")
    with made:
        el("path", d=ICONS[name])
    return made


def link(text: str, target: str, classes: str = "link") -> El:
    """A link to another page."""
    return el("a", classes, text, href=target)


def heading(title: str, sub: str = "") -> El:
    """The page's title; as a context manager, what stands at its right (buttons)."""
    with el("header", "page-head"):
        with el("div", "page-title"):
            el("h1", "", title)
            if sub:
                el("p", "muted", sub)
        return el("div", "page-actions")


def card(title: str = "", hint: str = "", classes: str = "") -> El:
    """A card with a title; a context manager for its content."""
    with el("section", f"card {classes}", aria_label=title or None):
        if title:
            with el("div", "card-head"):
                el("h2", "", title)
                if hint:
                    el("span", "muted", hint)
        return el("div", "card-body")


class Stat:
    """A number with its name, which may change."""

    def __init__(self, label: str, value: str, hint: str = "", tone: Tone = "") -> None:
        with el("div", f"stat {tone}"):
            el("div", "stat-label", label)
            self._value = el("div", "stat-value", value)
            self._hint = el("div", "stat-hint", hint)

    def show(self, value: str, hint: str = "") -> None:
        """Another value."""
        self._value.show(value)
        self._hint.show(hint)


def badge(text: str, tone: Tone = "") -> El:
    """A word with a colour, which never says more than the word."""
    return el("span", f"badge {tone or STATE_TONES.get(text, 'grey')}", text)


def facts(pairs: Mapping[str, object]) -> El:
    """Names and values, one under the other."""
    with el("dl", "facts") as made:
        for name, value in pairs.items():
            el("dt", "", name)
            el("dd", "", "–" if value in (None, "") else str(value))
    return made


def code(text: str) -> El:
    """Text as it is, in a fixed width."""
    return el("pre", "code", text, tabindex=0)


def button(label: str, click: Click, tone: str = "", why_not: str = "") -> El:
    """A button; `tone` is "", "primary" or "danger"; `why_not` disables it and says why."""
    made = el("button", f"button {tone}", label, type="button")
    if why_not:
        made.props["disabled"] = True
        made.props["title"] = why_not
    else:
        made.on("click", click, args=[])
    return made


@dataclass(frozen=True, slots=True)
class Empty:
    """What is said where there is nothing: a title, a sentence, and what to type next."""

    title: str
    sentence: str = ""
    command: str = ""


def empty(what: Empty) -> El:
    """An empty state."""
    with el("div", "empty") as made:
        el("p", "empty-title", what.title)
        if what.sentence:
            el("p", "muted", what.sentence)
        if what.command:
            el("pre", "code command", what.command, tabindex=0)
    return made


def sentence(error: BaseException) -> str:
    """An error as the dashboard says it; faults of the server do not show their inside."""
    return str(problem_of(error).detail)


def problem(error: BaseException) -> El:
    """What went wrong, in place of what was to be shown."""
    with el("div", "problem", role="alert") as made:
        el("strong", "", "This cannot be shown")
        el("p", "", sentence(error))
    return made


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `key` is the rows' field; `kind` says how it is shown: "time" is an ISO
    time, "seconds" a duration, "share" a number in 0..1; a "link" leads to the row's `href`.
    `narrow` columns stay on a small screen."""

    key: str
    label: str
    kind: Kind = "text"
    narrow: bool = True


class Table(Element, component="components/aura_table.js"):
    """Rows (dicts of plain values; `id` tells them apart) under columns. A click on a row follows
    its `href`. With `choose` rows can be ticked: `chosen` has their ids."""

    def __init__(
        self,
        columns: Sequence[Column],
        rows: Iterable[Mapping[str, Any]] = (),
        *,
        label: str,
        empty: Empty | None = None,
        choose: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.chosen: tuple[str, ...] = ()
        self._choose = choose
        self._shown = ""
        self.props["label"] = label
        self.props["columns"] = json.dumps([asdict(one) for one in columns])
        self.props["tones"] = json.dumps(STATE_TONES)
        self.props["empty"] = json.dumps(asdict(empty or Empty("Nothing here yet")))
        self.props["choosable"] = choose is not None
        self.show(rows)
        self.on("chosen", self._on_chosen)

    def show(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Show these rows; nothing is sent when they are the same."""
        text = json.dumps([dict(one) for one in rows], default=_plain)
        if text != self._shown:
            self._shown = text
            self.props["rows"] = text

    def _on_chosen(self, event: Any) -> None:
        self.chosen = tuple(str(one) for one in event.args)
        if self._choose is not None:
            self._choose()


class Value(Element, component="components/aura_payload.js"):
    """An input or output as text. One that is not whole has a `source`, from which all of it is
    fetched when somebody asks for it."""

    def __init__(self, label: str, payload: Payload, source: str) -> None:
        super().__init__()
        self.props["label"] = label
        self.props["text"] = written(payload)
        self.props["size"] = payload.bytes
        self.props["whole"] = payload.whole
        self.props["source"] = "" if payload.whole or payload.encrypted else source


def written(payload: Payload) -> str:
    """A payload as text: JSON with line breaks, or its beginning."""
    if not payload.whole:
        return payload.preview
    return json.dumps(payload.value, indent=2, ensure_ascii=False)


def fault(error: ErrorView, title: str = "") -> El:
    """Why something failed, with its traceback."""
    with el("div", "fault") as made:
        el("strong", "", f"{title}{error.type}: {error.message}")
        if error.hint:
            el("p", "", error.hint)
        if error.traceback:
            with el("details"):
                el("summary", "", "Traceback")
                code(error.traceback)
    return made


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
