"""Runs: found by id, attribute, state and workflow; changed many at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from aura.engine.attributes import read_attribute
from aura.errors import AuraError
from aura.server import bulk, operations, workflows
from aura.server.access import Needs
from aura.server.bulk import Action, BulkView, Chosen
from aura.server.scopes import theirs
from aura.server.ui.first import first_command
from aura.server.ui.pages import page
from aura.server.ui.parts import Column, El, Empty, Table, button, card, el, heading, sentence
from aura.server.ui.paths import path
from aura.server.ui.starts import start
from aura.server.ui.visit import EVERY, Order, Visit, notify
from aura.server.views import RunList, RunView

COLUMNS = (
    Column("id", "Run", "link"),
    Column("workflow", "Workflow"),
    Column("version", "Version", "code", narrow=False),
    Column("state", "State", "state"),
    Column("queue", "Queue", narrow=False),
    Column("error", "Error", narrow=False),
    Column("created_at", "Created", "time"),
    Column("seconds", "Took", "seconds"),
)
STATES = ("running", "waiting", "pending", "completed", "failed", "parked", "cancelled")
NEEDS = Needs("operator", "body")
ASKED = ("state", "workflow", "attribute", "cursor")
PER_PAGE = 50
NONE = Empty(
    "No runs here",
    "Nothing is like that. Remove a filter, or start a run:",
)
_PLAIN_CLICK = (
    "(e) => { if (!e.ctrlKey && !e.metaKey && !e.shiftKey) { e.preventDefault(); emit(); } }"
)
BULK: tuple[tuple[Action, str, str], ...] = (
    ("cancel", "Cancel", "danger"),
    ("requeue", "Requeue", ""),
    ("retry", "Retry", ""),
)


@dataclass(frozen=True, slots=True)
class Filters:
    """What is shown, as it stands in the address."""

    state: str = ""
    workflow: str = ""
    attribute: str = ""
    cursor: str = ""

    @property
    def address(self) -> str:
        """The page that shows it."""
        told = {name: value for name in ASKED if (value := getattr(self, name))}
        return "/runs" + (f"?{urlencode(told)}" if told else "")


@page("/runs", "Runs", about="body")
async def runs(visit: Visit) -> None:
    """All of them, the newest first."""
    told = {name: visit.query.get(name, "") for name in ASKED}
    mine = visit.caller.workflows
    if mine and not told["workflow"]:
        told["workflow"] = mine[0]
    await RunsPage(visit, Filters(**told)).build()


class RunsPage:
    """The list, its filters, and what can be done to what is chosen."""

    def __init__(self, visit: Visit, filters: Filters) -> None:
        self._visit = visit
        self._app = visit.app
        self._filters = filters
        self._shown: RunList | None = None
        self._tabs: dict[str, El] = {}

    async def build(self) -> None:
        """All of it; the list is kept current."""
        with heading("Runs"):
            button("Start a run", self._start, "primary", self._visit.may(NEEDS))
        with card() as body:
            body.classes("flush")
            with el("div", "filter-bar"):
                await self._show_bar()
            self._bulk_bar = el("div", "bulk-bar hidden", role="region", aria_label="Chosen runs")
            none = replace(NONE, command=first_command(self._app, self._visit.caller.workflows))
            self._table = Table(COLUMNS, label="Runs", empty=none, choose=self._show_bulk)
            self._pager = el("div", "pager")
        await self._visit.live(self._look, self._show)

    async def _look(self) -> RunList:
        """The page as it is now; tabs with the same page share a look."""
        one = self._filters
        workflow = theirs(self._visit.caller, one.workflow or None)
        look = partial(
            operations.list_runs, self._app, state=one.state or None, workflow=workflow,
            limit=PER_PAGE, cursor=one.cursor or None,
            attributes=(one.attribute,) if one.attribute else (),
        )  # fmt: skip
        return await self._visit.looks.at(("runs", workflow, one), look, EVERY / 2)

    def _show(self, found: RunList) -> None:
        self._table.show(row(one) for one in found.runs)
        if self._shown is None or self._shown.next != found.next:
            self._pager.clear()
            with self._pager:
                self._show_pager(found)
        self._shown = found

    async def _show_bar(self) -> None:
        one = self._filters
        with el("div", "search", data_search="true"):
            self._search = ui.input(placeholder="Find by id, or attribute:value")
            self._search.value = one.attribute
            self._search.props('outlined dense clearable aria-label="Find runs"')
            self._search.on("keydown.enter", self._find)
            self._search.on("clear", self._find)
        with el("nav", "tabs states-tabs", aria_label="State"):
            for state in ("", *STATES):
                tab = self._tabs[state] = el("a", "tab", state or "all")
                tab.on("click", partial(self._choose_state, state), js_handler=_PLAIN_CLICK)
        self._mark_tabs()
        names = await self._workflows()
        if len(names) > 1 or one.workflow:
            offered = {"": "all workflows", **{name: name for name in names}}
            if one.workflow and one.workflow not in offered:
                offered[one.workflow] = one.workflow
            if self._visit.caller.workflows:
                del offered[""]
            select = ui.select(offered, value=one.workflow, on_change=self._choose_workflow)
            select.props('outlined dense aria-label="Workflow"').classes("workflow-select")

    async def _start(self) -> None:
        known = await self._workflows()
        if known:
            await start(self._visit, known)
        else:
            notify(
                "No worker has told of a workflow yet. Start one: aura worker app:app", "problem"
            )

    def _mark_tabs(self) -> None:
        """Which state is shown, and where the others lead."""
        for state, tab in self._tabs.items():
            tab.props["href"] = replace(self._filters, state=state, cursor="").address
            tab.props["aria-current"] = "page" if state == self._filters.state else "false"

    async def _choose_state(self, state: str) -> None:
        await self._turn(replace(self._filters, state=state, cursor=""))

    async def _choose_workflow(self, event: ValueChangeEventArguments[Any]) -> None:
        await self._turn(replace(self._filters, workflow=str(event.value or ""), cursor=""))

    async def _workflows(self) -> list[str]:
        allowed = self._visit.caller.workflows
        found = await self._visit.looks.at(
            ("workflows", allowed), lambda: workflows.list_workflows(self._app, allowed), 30.0
        )
        return [one.name for one in found]

    def _show_pager(self, found: RunList) -> None:
        if self._filters.cursor:
            newest = replace(self._filters, cursor="")
            el("a", "button", "Newest", href=newest.address)
        if found.next:
            older = replace(self._filters, cursor=found.next)
            el("a", "button", "Older", href=older.address)

    async def _turn(self, to: Filters) -> None:
        """Show something else, under its own address."""
        if to == self._filters:
            return
        before, self._filters = self._filters, to
        try:
            found = await self._look()
        except AuraError as error:
            self._filters = before
            notify(sentence(error), "problem")
            return
        self._visit.here(to.address)
        self._shown = None
        self._show(found)
        self._mark_tabs()

    async def _find(self) -> None:
        """A run by its id, or runs by an attribute."""
        text = str(self._search.value or "").strip()
        if not text:
            await self._turn(replace(self._filters, attribute="", cursor=""))
            return
        known = await operations.runs_of(self._app, [text])
        if text in known and self._visit.caller.may_see(known[text].workflow):
            self._visit.go(path("runs", text))
            return
        if ":" not in text:
            notify(f"There is no run {text}. Attributes are written name:value.", "problem")
            return
        try:
            read_attribute(text)
        except AuraError as error:
            notify(sentence(error), "problem")
            return
        await self._turn(replace(self._filters, attribute=text, cursor=""))

    # -- many at once ------------------------------------------------------------------------

    def _show_bulk(self) -> None:
        chosen = self._table.chosen
        self._bulk_bar.clear()
        self._bulk_bar.classes(replace="bulk-bar" if chosen else "bulk-bar hidden")
        if not chosen:
            return
        why = self._visit.may(NEEDS)
        with self._bulk_bar:
            el("strong", "", f"{len(chosen)} chosen")
            for action, label, tone in BULK:
                button(label, partial(self._change, action), tone, why)

    async def _change(self, action: Action) -> None:
        """A dry run first, then the question, then the change."""
        ids = self._table.chosen
        order = Order("runs bulk", NEEDS, {"action": action, "ids": ", ".join(ids)})
        chosen = Chosen(ids=ids)
        known = await operations.runs_of(self._app, ids)
        if not all(self._visit.caller.may_see(one.workflow) for one in known.values()):
            notify("These are not all runs of your workflows.", "problem")
            return
        tried = await bulk.change_many(self._app, action, chosen, dry_run=True)
        wanted, others = counted(tried)
        if not wanted:
            notify(f"Nothing to {action}: {others}.", "problem")
            return
        told = f"{wanted} of {len(ids)} runs would be changed" + (f"; {others}." if others else ".")
        why = await self._visit.confirm(
            f"{action.capitalize()} {wanted} runs?", told, label=f"{action.capitalize()} {wanted}",
            danger=action == "cancel",
        )  # fmt: skip
        if why is None:
            return
        done = await self._visit.act(
            order, why,
            lambda: bulk.change_many(self._app, action, chosen, dry_run=False, by=self._visit.by),
        )  # fmt: skip
        if done is not None:
            count, rest = counted(done)
            notify(f"{count} runs: {action} done" + (f"; {rest}" if rest else ""))


def counted(found: BulkView) -> tuple[int, str]:
    """How many were (or would be) done, and what is the matter with the others."""
    done = [one for one in found.outcomes if one.outcome in ("done", "would be done")]
    others: dict[str, int] = {}
    for one in found.outcomes:
        if one not in done:
            others[one.detail or one.outcome] = others.get(one.detail or one.outcome, 0) + 1
    return len(done), ", ".join(f"{count} × {what}" for what, count in others.items())


def row(one: RunView) -> dict[str, Any]:
    """A run as a row of a table."""
    return {
        "id": one.id, "href": path("runs", one.id), "workflow": one.workflow,
        "version": one.version, "state": one.state, "created_at": one.created_at,
        "seconds": one.seconds, "queue": one.queue or "default",
        "error": f"{one.error.type}: {one.error.message}"[:100] if one.error else "",
    }  # fmt: skip
