"""The first page: how it all stands."""

from __future__ import annotations

from aura.server import operations
from aura.server.ui.pages import page
from aura.server.ui.parts import Column, Empty, Stat, Table, card, el, heading
from aura.server.ui.visit import Visit
from aura.server.views import WorkerView

WORKERS = (
    Column("host", "Host"),
    Column("pid", "Process", "number", narrow=False),
    Column("runs", "Runs", "number"),
    Column("started_at", "Since", "time"),
)


@page("/", "Overview")
async def overview(visit: Visit) -> None:
    """Runs by state and workers."""
    heading("Overview", visit.app.name)
    with el("div", "stats"):
        stats = {str(state): Stat(state, "–") for state in operations.STATES}
    with card("Workers"):
        nobody = Empty(
            "No worker is running", "Runs wait until there is one.", "aura worker app:app"
        )
        workers = Table(WORKERS, label="Workers", empty=nobody)

    def show(found: operations.Overview) -> None:
        for state, count in found.runs.items():
            stats[state].show(f"{count:,}")
        workers.show({**vars_of(one)} for one in found.workers)

    await visit.live(lambda: operations.overview(visit.app), show, key="overview")


def vars_of(worker: WorkerView) -> dict[str, object]:
    return {
        "id": worker.id, "host": worker.host, "pid": worker.pid, "runs": worker.runs,
        "started_at": worker.started_at,
    }  # fmt: skip
