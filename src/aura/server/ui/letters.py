"""Dead letters: events that a group could not handle and runs that are parked, and what becomes of
them."""

from __future__ import annotations

from typing import Any

from aura.server import letters, letters_bulk
from aura.server.access import Needs
from aura.server.letters import LetterDetail, LetterFilter, LetterList, LetterView
from aura.server.letters_bulk import ChosenLetters, LetterAction, LettersChanged
from aura.server.scopes import require_letter, theirs
from aura.server.ui.forms import Answer, Field, Form, as_given, ask
from aura.server.ui.pages import page
from aura.server.ui.parts import (
    Click,
    Column,
    El,
    Empty,
    Table,
    button,
    card,
    code,
    el,
    facts,
    heading,
    link,
)
from aura.server.ui.paths import path
from aura.server.ui.values import whole
from aura.server.ui.visit import Order, Visit
from aura.server.views import ErrorView
from aura.spans import counted

NEEDS = Needs("operator", "body")
MOST = 100
"""So many are on a page."""

NOTHING = Empty(
    "Nothing waits for a person",
    "Events that a group could not handle, and runs that could not go on, are kept here with their "
    "payload until somebody requeues or drops them. The same in a terminal:",
    "aura dlq list",
)
COLUMNS = (
    Column("name", "Dead letter", "link"),
    Column("key", "Key or workflow", narrow=False),
    Column("tries", "Tries", "number"),
    Column("at", "Since", "time"),
    Column("error", "Error"),
)
ASKS: dict[LetterAction, tuple[str, str]] = {
    "requeue": ("Requeue", "Each is tried again, by whatever worker handles it."),
    "drop": ("Drop", "Events count as handled, runs as cancelled. This cannot be taken back."),
}


@page("/dead-letters", "Dead letters", about="body")
async def all_letters(visit: Visit) -> None:
    """All of them, or those of a topic or group (in the address)."""
    asked = {name: visit.query.get(name) or None for name in ("topic", "group", "workflow")}
    asked["workflow"] = theirs(visit.caller, asked["workflow"])
    where = LetterFilter(**asked)  # type: ignore[arg-type]
    told = ", ".join(f"{name} {value}" for name, value in asked.items() if value)
    with heading("Dead letters", told or "What could not be handled, and waits for a person"):
        if told:
            link("Show all", "/dead-letters")
    with card("Dead letters", classes="letters"):
        with el("div", "toolbar in-card"):
            chosen = Chosen(visit)
        table = Table(COLUMNS, label="Dead letters", empty=NOTHING, choose=lambda: chosen.show())
        chosen.table = table
        more = el("p", "muted hidden in-card", "")

    def show(found: LetterList) -> None:
        table.show(map(_row, found.letters))
        chosen.show()
        more.show(f"There are more than {MOST}: requeue or drop these first, or: aura dlq list")
        more.classes(replace="toolbar in-card muted" if found.next else "hidden")

    key = ("letters", visit.caller.role, visit.caller.workflows, *asked.values())
    await visit.live(lambda: letters.list_letters(visit.app, where, MOST), show, key=key)


class Chosen:
    """What is done to the letters that are ticked."""

    def __init__(self, visit: Visit) -> None:
        self.table: Table | None = None
        self._visit = visit
        self._told = el("span", "muted", "Choose some to requeue or drop them")
        el("span", "spacer")
        self._buttons = [self._button("requeue"), self._button("drop")]
        self.show()

    def show(self) -> None:
        """How many are chosen."""
        count = len(self.table.chosen) if self.table else 0
        told = f"{count:,} chosen" if count else "Choose some to requeue or drop them"
        self._told.show(told)
        for made in self._buttons:
            refused = self._visit.may(NEEDS)
            made.props["disabled"] = bool(refused) or not count
            made.props["title"] = refused or ("" if count else "Choose some first")

    def _button(self, action: LetterAction) -> El:
        async def change() -> None:
            ids = self.table.chosen if self.table else ()
            if not ids:
                return
            visit = self._visit
            answer = await _asked(visit, action, counted(len(ids), "dead letter"))
            if answer is None:
                return
            version = answer.given.get("version")

            async def act() -> LettersChanged:
                for one in ids:
                    await require_letter(visit.app, visit.caller, one)
                chosen = ChosenLetters(ids)
                return await letters_bulk.change_letters(
                    visit.app, action, chosen, version=version, dry_run=False
                )

            target = {"action": action, "ids": " ".join(ids)}
            what = Order("dlq bulk", NEEDS, target | answer.found)
            done = await visit.act(what, answer.why, act)
            if done is not None:
                failed = [one for one in done.outcomes if one.outcome != "done"]
                good = len(done.outcomes) - len(failed)
                told = f"{action.capitalize()}: {good:,} of {len(done.outcomes):,} done."
                first = f" {failed[0].letter}: {failed[0].detail}" if failed else ""
                visit.say(told + first, "problem" if failed else "")

        return button(ASKS[action][0], change, "danger" if action == "drop" else "")


async def _asked(visit: Visit, action: LetterAction, which: str) -> Answer[dict[str, Any]] | None:
    label, consequence = ASKS[action]
    version = Field("version", "With which version of the workflow (the same, if empty)")
    fields = (version,) if action == "requeue" else ()
    form = Form(f"{label} {which}?", consequence, label, fields, danger=action == "drop")
    return await ask(visit, form, as_given)


def _row(one: LetterView) -> dict[str, object]:
    return {
        "id": one.id,
        "name": one.id,
        "href": path("dead-letters", one.id),
        "key": one.key if one.kind == "event" else f"{one.workflow} {one.version}",
        "tries": one.tries,
        "at": one.at,
        "error": error_line(one.error),
    }


def error_line(error: ErrorView | None) -> str:
    """An error in a line."""
    return "" if error is None else f"{error.type}: {error.message}"[:300]


@page("/dead-letters/{letter:segment}", "Dead letter", about="body", menu="/dead-letters")
async def one_letter(visit: Visit, letter: str) -> None:
    """One of them: its payload, and how each try failed."""
    await require_letter(visit.app, visit.caller, letter)
    found = await letters.show_letter(visit.app, letter, full=True)
    refused = visit.may(NEEDS)
    with heading(found.letter.id, "waits for a person"):
        button("Requeue", _change(visit, "requeue", letter), "primary", refused)
        button("Drop", _change(visit, "drop", letter), "danger", refused)
    with el("div", "charts"):
        with card("What it is"):
            facts(_facts(found.letter))
            if found.letter.kind == "run":
                link("The run", path("runs", letter.removeprefix("run:")))
        with card("Payload"):
            code(whole(found.payload))
    with card("Tries"):
        _tries(found)


def _facts(one: LetterView) -> dict[str, object]:
    told: dict[str, object] = {"kind": one.kind, "tries": one.tries}
    told["since"] = one.at.strftime("%Y-%m-%d %H:%M:%S UTC") if one.at else None
    if one.kind == "event":
        return told | {"topic": one.topic, "group": one.group, "number": one.seq, "key": one.key}
    return told | {"workflow": one.workflow, "version": one.version}


def _tries(found: LetterDetail) -> None:
    if not found.history:
        code(error_line(found.letter.error) or "nothing is recorded")
        if found.letter.error is not None and found.letter.error.traceback:
            code(found.letter.error.traceback)
    for number, one in enumerate(found.history, 1):
        with el("details", "difference", open=number == len(found.history) or None):
            el("summary", "", f"Try {number}: {one.get('type', '')}: {one.get('message', '')}")
            if one.get("traceback"):
                code(str(one["traceback"]))


def _change(visit: Visit, action: LetterAction, letter: str) -> Click:
    async def change() -> None:
        answer = await _asked(visit, action, letter)
        if answer is None:
            return
        label, version = ASKS[action][0], answer.given.get("version")

        async def act() -> bool:
            await require_letter(visit.app, visit.caller, letter)
            if action == "requeue":
                await letters.requeue_letter(visit.app, letter, version)
            else:
                await letters.drop_letter(visit.app, letter)
            return True

        what = Order(f"dlq {action}", NEEDS, {"letter": letter} | answer.found)
        done = await visit.act(what, answer.why, act, f"{label}: done")
        if done:
            visit.go("/dead-letters")

    return change
