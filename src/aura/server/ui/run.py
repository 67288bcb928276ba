"""One run: what it does and has done, step by step, and what can be done about it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

from nicegui import ui
from nicegui.element import Element

from aura.errors import AuraError
from aura.server import messages, outline
from aura.server.journal import Call
from aura.server.outline import Outline, Said, SignalView
from aura.server.problems import Refused
from aura.server.ui.pages import page
from aura.server.ui.parts import (
    Column,
    El,
    Empty,
    Table,
    Value,
    badge,
    card,
    el,
    facts,
    fault,
    link,
    problem,
    written,
)
from aura.server.ui.run_actions import actions, signal_buttons
from aura.server.ui.visit import Visit
from aura.server.views import (
    MOST_CHILDREN,
    MOST_WAITS,
    CallView,
    Payload,
    RunView,
    WaitView,
    payload_view,
    run_view,
)
from aura.server.waits import waits_now
from aura.spans import span
from aura.store.base import SETTLED, RunRecord

CHILDREN = (
    Column("id", "Run", "link"),
    Column("workflow", "Workflow"),
    Column("state", "State", "state"),
    Column("created_at", "Created", "time"),
    Column("seconds", "Took", "seconds"),
)
SIGNALS = (
    Column("number", "No.", "number", narrow=False),
    Column("name", "Signal"),
    Column("priority", "Priority", "badge"),
    Column("sent_at", "Sent", "time"),
    Column("payload", "Payload", "code"),
)
PRIORITIES = {"critical": "red", "high": "amber", "normal": "grey", "low": "grey"}
WHY = {"failed": "Why it failed", "parked": "Why it is parked"}
VIEWS = ("timeline", "graph", "journal")


class Steps(Element, component="components/aura_steps.js"):
    """A run's calls: as a time line, a graph or a list."""

    def __init__(
        self, run: RunRecord, known: Outline, found: tuple[Call, ...], view: str, picked: str
    ) -> None:
        super().__init__()
        self._known = known
        self._began = run.started_at or run.created_at
        self.props["given"] = json.dumps([self._row(one) for one in found])
        self.props["view"] = view if view in VIEWS else VIEWS[0]
        self.props["picked"] = picked

    def stand(self, run: RunRecord, now: float, *, more: bool) -> None:
        """How far the run is, now in epoch seconds."""
        began = run.started_at or run.created_at
        self.props["running"] = run.state not in SETTLED
        self.props["now"] = round(1000 * ((run.finished_at or now) - began))
        self.props["more"] = more

    def put(self, found: tuple[Call, ...], *, anew: bool = False) -> None:
        """Calls that are new or have changed; `anew`: in place of all."""
        self.run_method("restart" if anew else "put", [self._row(one) for one in found])

    def _row(self, call: Call) -> list[Any]:
        def ms(at: float) -> float:
            return max(0.0, round(1000 * (at - self._began), 3))

        ended = None if call.seconds is None else ms(call.last.recorded_at)
        tries = [
            [ms(one.started_at), ms(one.recorded_at)]
            for one in call.entries
            if one.kind == "attempt" or one.attempt > 1
        ]
        began, size = ms(call.started_at), self._known.sizes.get(call.key)
        return [call.key, call.kind, call.state, call.last.attempt, began, ended, size, tries]


@page("/runs/{run_id:segment}", "Run", about="run", menu="/runs")
async def run(visit: Visit, run_id: str) -> None:
    """What the run does and has done."""
    record = await outline.record_of(visit.app, run_id)
    await RunPage(visit, record).build()


class RunPage:
    """The page of one run, which follows it."""

    def __init__(self, visit: Visit, record: RunRecord) -> None:
        self._visit = visit
        self._app = visit.app
        self._record = record
        self._outline = Outline(record.id)
        self._signals = -1
        self._said = 0
        self._waits: tuple[WaitView, ...] = ()
        self._streams: dict[str, El] = {}
        self._picked = visit.query.get("step", "")

    async def build(self) -> None:
        """All of it as it is now; then it is kept current."""
        visit, record = self._visit, self._record
        found = await outline.go_on(self._app, self._outline, record.execution)
        attributes = (await self._app.store.attributes([record.id])).get(record.id, {})
        self._attributes = dict(attributes)
        self._head = el("div", "stack")
        self._waits_box = el("div")
        view = visit.query.get("view", "")
        with card("Steps") as body:
            body.classes("flush")
            self._steps = Steps(record, self._outline, found, view, self._picked)
            self._steps.on("look", lambda event: self._look(str(event.args)))
            self._steps.on("view", lambda event: self._turn(str(event.args)))
        self._detail = el("div", "detail-place")
        with el("div", "two"):
            with card():
                self._value("Input", payload_view(record.input), "input")
            with card():
                self._output = el("div")
        self._state = el("div", "stack")
        self._live = el("div", "stack")
        self._signals_box = el("div")
        self._children_box = el("div")
        self._show_head()
        await self._more(found)
        if self._picked:
            await self._look(self._picked)
        visit.repeat(self._again)

    async def _again(self) -> None:
        record = await outline.record_of(self._app, self._record.id)
        changed = record != self._record
        anew = record.execution != self._record.execution
        self._record = record
        found = await outline.go_on(self._app, self._outline, record.execution)
        if found or anew:
            self._steps.put(found, anew=anew)
        if changed:
            self._show_head()
        if changed or found:
            await self._more(found)
        elif record.state not in SETTLED:
            if any(one.kind == "retry" for one in self._waits):  # its end is no entry
                self._show_waits(await waits_now(self._app, record, self._outline))
            self._steps.stand(record, self._app.time.now(), more=self._outline.full)
            await self._show_children()

    def _show_head(self) -> None:
        record, view = self._record, run_view(self._record)
        self._head.clear()
        with self._head:
            with el("header", "page-head"):
                with el("div", "page-title run-id"):
                    el("h1", "", view.id)
                    badge(view.state)
                    if view.cancel_requested and view.state not in SETTLED:
                        badge("asked to stop", "amber")
                with el("div", "page-actions"):
                    actions(self._visit, record, list(self._outline.found), _choices(self._outline))
            with card():
                _facts(view, self._attributes)
            if view.error is not None:
                with card(WHY.get(view.state, "What went wrong")):
                    fault(view.error)
        self._output.clear()
        with self._output:
            if record.output is None:
                el("h3", "", "Output")
                el("p", "muted", "There is none yet." if view.error is None else "There is none.")
            else:
                self._value("Output", payload_view(record.output), "output")
        self._steps.stand(record, self._app.time.now(), more=self._outline.full)

    async def _more(self, found: tuple[Call, ...]) -> None:
        """What the run waits for, hears and says."""
        self._show_waits(await waits_now(self._app, self._record, self._outline))
        if self._record.signals != self._signals:
            self._signals = self._record.signals
            self._show_signals(await outline.signals_of(self._app, self._record.id))
        if any(one.kind == "state" for one in found):
            self._show_state(await messages.state_of(self._app, self._record.id))
        if any(one.kind == "stream" for one in found):
            said = await outline.said_by(self._app, self._record.id, self._said)
            self._hear(said)
        await self._show_children()

    def _show_waits(self, found: tuple[WaitView, ...]) -> None:
        if found == self._waits:
            return
        self._waits = found
        self._waits_box.clear()
        if not found:
            return
        hint = f"the first {MOST_WAITS}" if len(found) > MOST_WAITS else ""
        with self._waits_box, card("Waits for", hint), el("ul", "waits"):
            for one in found[:MOST_WAITS]:
                with el("li", "wait"):
                    _wait_words(one)
                    if one.kind == "signal":
                        signal_buttons(self._visit, self._record.id, one.names)

    def _show_signals(self, found: tuple[SignalView, ...]) -> None:
        self._signals_box.clear()
        if not found:
            return
        with self._signals_box, card("Signals", "what was sent to this run"):
            rows = [
                {
                    "id": str(one.number), "number": one.number, "name": one.name,
                    "priority": one.priority + (", late" if one.late else ""),
                    "priority_tone": PRIORITIES[one.priority], "sent_at": one.sent_at,
                    "payload": written(one.payload)[:400] if one.payload else "",
                }
                for one in found
            ]  # fmt: skip
            Table(SIGNALS, rows, label="Signals")

    def _show_state(self, found: dict[str, Any]) -> None:
        self._state.clear()
        with self._state, card("State", "what the run says of itself"):
            facts({key: _brief(one) for key, one in found.items()})

    def _hear(self, said: tuple[Said, ...]) -> None:
        for one in said:
            self._said = max(self._said, one.seq)
            if one.stream not in self._streams:
                with self._live, card(f"Stream {one.stream}", "as the run writes it"):
                    self._streams[one.stream] = el(
                        "ol", "stream code", role="log", aria_label=f"Stream {one.stream}",
                        tabindex=0,
                    )  # fmt: skip
            with self._streams[one.stream]:
                el("li", "", _brief(one.item))

    async def _show_children(self) -> None:
        found = await outline.children_of(self._app, self._record.id)
        mine = [one for one in found if self._visit.caller.may_see(one.workflow)]
        rows = [run_row(one) for one in mine[:MOST_CHILDREN]]
        if rows == getattr(self, "_children", []):
            return
        self._children = rows
        self._children_box.clear()
        hint = f"the newest {MOST_CHILDREN}" if len(found) > MOST_CHILDREN else ""
        with self._children_box, card("Children", hint):
            Table(CHILDREN, rows, label="Children")

    def _value(self, label: str, payload: Payload | None, part: str, key: str = "") -> None:
        if payload is None:
            return
        query = urlencode({"part": part, **({"key": key} if key else {})})
        Value(label, payload, f"/raw/runs/{quote(self._record.id, safe='')}?{query}")

    async def _look(self, key: str) -> None:
        """Show what is in a call, below the steps."""
        self._picked = key
        self._here()
        self._detail.clear()
        with self._detail:
            try:
                found = await outline.show_call(self._app, self._record.id, key)
            except (AuraError, Refused) as error:
                problem(error)
                return
            self._show_call(found)
        ui.run_javascript(
            'document.querySelector(".detail-place").scrollIntoView({block:"nearest"})'
        )

    def _show_call(self, call: CallView) -> None:
        with card() as body:
            body.classes("detail")
            with el("div", "detail-head"):
                el("h2", "", call.name)
                badge(call.state)
                el("code", "muted", call.key)
            with el("dl", "strip"):
                _pair("kind", call.kind)
                _pair("lane", call.lane)
                _pair("tries", str(call.attempts))
                _pair("began", f"{call.started_at:%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC")
                _pair("took", span(call.seconds))
            if call.error is not None:
                fault(call.error)
            for number, one in enumerate(call.failures, 1):
                fault(one, f"try {number}: ")
            with el("div", "two"):
                self._value("Input", call.input, "input", call.key)
                self._value("Output", call.output, "output", call.key)

    def _turn(self, view: str) -> None:
        self._steps.props["view"] = view if view in VIEWS else VIEWS[0]
        self._here()

    def _here(self) -> None:
        """What is looked at is in the address, to be shared."""
        told = {"view": str(self._steps.props["view"]), "step": self._picked}
        query = urlencode({name: value for name, value in told.items() if value})
        ui.navigate.history.replace(f"{self._visit.request.url.path}?{query}")


def _choices(known: Outline) -> list[str]:
    """The names of the choices (`aura.choose`) that the run has made."""
    names = (key.partition("/")[2].rpartition("#")[0] for key in known.found)
    return sorted({one.removeprefix("choose:") for one in names if one.startswith("choose:")})


def _facts(view: RunView, attributes: dict[str, str]) -> None:
    with el("dl", "strip"):
        with el("div"):
            el("dt", "", "workflow")
            with el("dd"):
                link(f"{view.workflow} {view.version}", f"/runs?workflow={quote(view.workflow)}")
        _pair("created", f"{view.created_at:%Y-%m-%d %H:%M:%S} UTC")
        _pair("took", span(view.seconds))
        if view.wake_at and view.state == "waiting":
            _pair("wakes", f"{view.wake_at:%Y-%m-%d %H:%M:%S} UTC")
        _pair("queue", view.queue or "default")
        _pair("worker", view.worker or "–")
        if view.recoveries:
            _pair("taken over", f"{view.recoveries} times")
        if view.execution > 1:
            _pair("execution", str(view.execution))
        if view.parent:
            with el("div"):
                el("dt", "", "parent")
                with el("dd"):
                    link(view.parent, f"/runs/{quote(view.parent, safe='')}")
        for name, value in attributes.items():
            _pair(name, value)


def _wait_words(one: WaitView) -> None:
    """What is waited for, in which lane, since when and until when."""
    badge(one.kind, "violet")
    if one.runs:
        link(one.what, f"/runs/{quote(one.runs[0], safe='')}")
    else:
        el("span", "wait-what", one.what)
    lane = one.call.partition("/")[0]
    told = [
        f"lane {lane}" if lane not in ("", "0") else "",
        f"since {one.since:%Y-%m-%d %H:%M:%S} UTC" if one.since else "",
        f"until {one.until:%Y-%m-%d %H:%M:%S} UTC" if one.until else "",
    ]
    el("span", "muted wait-times", " · ".join(part for part in told if part))


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:2000]


def _pair(name: str, value: str) -> None:
    with el("div"):
        el("dt", "", name)
        el("dd", "", value)


def run_row(one: RunView) -> dict[str, Any]:
    """A run as a row of a table."""
    return {
        "id": one.id, "href": f"/runs/{quote(one.id, safe='')}", "workflow": one.workflow,
        "version": one.version, "state": one.state, "created_at": one.created_at,
        "seconds": one.seconds, "queue": one.queue or "default",
        "error": one.error.message[:120] if one.error else "",
    }  # fmt: skip


EMPTY = Empty("No run is like that", "Remove a filter, or start one.")
