"""The audit log, newest first: who changed what, when, why and from where. For admins."""

from __future__ import annotations

from urllib.parse import urlencode

from nicegui import ui

from aura.server import audit
from aura.server.audit import AuditEntry, AuditFilter, AuditLog
from aura.server.ui.pages import page
from aura.server.ui.parts import Column, Empty, Table, button, card, el, heading, link
from aura.server.ui.visit import Visit

PAGE = 100
NOTHING = Empty(
    "Nothing like that is in the log",
    "Every change by the dashboard, the API and the command line leaves an entry.",
)
COLUMNS = (
    Column("number", "Number", "number", narrow=False),
    Column("at", "When", "time"),
    Column("by", "Who"),
    Column("what", "What"),
    Column("target", "Which"),
    Column("why", "Why"),
    Column("outcome", "Outcome", "badge"),
    Column("via", "From", narrow=False),
)


@page("/audit", "Audit log", "admin")
async def log(visit: Visit) -> None:
    """The newest entries, those of somebody or about something (in the address)."""
    heading("Audit log", "Every change: who, what, when, why and from where")
    by, what = visit.query.get("by", ""), visit.query.get("what", "")
    before = visit.query.get("before", "")
    end = int(before) if before.isascii() and before.isdigit() and len(before) < 16 else 0
    where = AuditFilter(by, what)

    def search() -> None:
        told = {"by": str(who.value or "").strip(), "what": str(which.value or "").strip()}
        query = urlencode({name: value for name, value in told.items() if value})
        visit.go(f"/audit?{query}" if query else "/audit")

    with card("Entries", "newest first", "whole"):
        with el("div", "toolbar in-card"):
            who = ui.input("Who", value=by).props("outlined dense").on("keydown.enter", search)
            which = ui.input("What", value=what).props("outlined dense")
            which.on("keydown.enter", search)
            button("Search", search)
            if by or what or end:
                link("Show all", "/audit")
        table = Table(COLUMNS, label="Audit log", empty=NOTHING)
        older = el("div", "toolbar in-card hidden")

    def show(found: AuditLog) -> None:
        table.show(map(_row, found.entries))
        older.clear()
        older.classes(replace="toolbar in-card" if found.next else "hidden")
        with older:
            told = {"by": by, "what": what, "before": str(found.next or "")}
            query = urlencode({name: value for name, value in told.items() if value})
            link("Older entries", f"/audit?{query}")

    key = ("audit", by, what, end)
    await visit.live(lambda: audit.newest(visit.app, where, before=end, limit=PAGE), show, key=key)


def _row(one: AuditEntry) -> dict[str, object]:
    failed = one.outcome != "asked"
    return {
        "id": str(one.number),
        "number": one.number,
        "at": one.at,
        "by": one.by,
        "what": one.what,
        "target": ", ".join(f"{name}: {value}" for name, value in one.target.items()),
        "why": one.why,
        "outcome": f"{one.of} failed: {one.outcome}" if failed else one.outcome,
        "outcome_tone": "red" if failed else "grey",
        "via": ", ".join(filter(None, (one.via, one.role, one.address))),
    }
