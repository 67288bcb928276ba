"""Queues with their limits, and the workers that take from them."""

from __future__ import annotations

from aura.server import queues, workflows
from aura.server.queues import QueueDetail, QueueView
from aura.server.ui.pages import page
from aura.server.ui.parts import Column, Empty, Stat, Table, card, el, empty, facts, heading
from aura.server.ui.paths import path
from aura.server.ui.visit import Visit
from aura.server.views import WorkerView
from aura.server.workflows import WorkerDetail
from aura.spans import span

QUEUES = (
    Column("name", "Queue", "link"),
    Column("pending", "Pending", "number"),
    Column("running", "Running", "number"),
    Column("waiting", "Waiting", "number"),
    Column("parked", "Parked", "number"),
    Column("limits", "Limits"),
)
KEYS = (
    Column("key", "Key"),
    Column("pending", "Pending", "number"),
    Column("running", "Running", "number"),
)
PLACES = (Column("worker", "Worker", "link"), Column("runs", "Runs of this queue", "number"))
WORKERS = (
    Column("host", "Worker", "link"),
    Column("runs", "Runs", "number"),
    Column("workflows", "Workflows", "number", narrow=False),
    Column("tags", "Tags", narrow=False),
    Column("resources", "Resources", narrow=False),
    Column("started", "Since", "time"),
)
RUNS = (
    Column("name", "Run", "link"),
    Column("workflow", "Workflow"),
    Column("state", "State", "state"),
    Column("created", "Started", "time"),
)
NO_QUEUES = Empty(
    "No queues yet",
    "Runs without a queue need none. A queue bounds how many run at once; declare it in the app: "
    'app.queue("gpu", concurrency=2)',
)
NO_WORKERS = Empty(
    "No worker is running", "Runs wait until there is one. Start it:", "aura worker app:app"
)


@page("/queues", "Queues")
async def all_queues(visit: Visit) -> None:
    """All of them."""
    heading("Queues", "Where runs wait for their turn")
    with card("Queues"):
        table = Table(QUEUES, label="Queues", empty=NO_QUEUES)

    def show(found: list[QueueView]) -> None:
        table.show(
            {
                "id": one.name, "name": one.name, "href": path("queues", one.name),
                "pending": one.pending, "running": one.running, "waiting": one.waiting,
                "parked": one.parked, "limits": limits(one),
            }
            for one in found
        )  # fmt: skip

    await visit.live(lambda: queues.list_queues(visit.app), show, key="queues")


def limits(queue: QueueView) -> str:
    """The limits of a queue in words."""
    found = [
        f"{value} {what}"
        for value, what in (
            (queue.concurrency, "at once"),
            (queue.per_worker, "per worker"),
            (queue.per_key, "per key"),
        )
        if value is not None
    ]
    if queue.rate is not None:
        found.append(f"{queue.rate} per {span(queue.per or 1.0)}")
    if queue.requires:
        found.append("requires " + ", ".join(queue.requires))
    found += [f"{amount:g} {name} each" for name, amount in queue.resources.items()]
    return "; ".join(found) or "none"


@page("/queues/{name:segment}", "Queue", menu="/queues")
async def one_queue(visit: Visit, name: str) -> None:
    """A queue: its limits, who works on it, and which keys wait."""
    first = await queues.show_queue(visit.app, name)
    heading(name, f"Limits: {limits(first.queue)}")
    warning = el("p", "hero-note", "", role="status")
    with el("div", "stats"):
        stats = {what: Stat(what, "–") for what in ("Pending", "Running", "Waiting", "Parked")}
    with el("div", "charts"):
        with card("Keys", "with the most waiting runs"):
            keys = Table(KEYS, label="Keys", empty=Empty("No run has a key"))
        with card("Workers", "that have runs of it"):
            places = Table(PLACES, label="Workers", empty=Empty("No worker has a run of it"))

    def show(found: QueueDetail) -> None:
        one = found.queue
        for what, count in (
            ("Pending", one.pending), ("Running", one.running), ("Waiting", one.waiting),
            ("Parked", one.parked),
        ):  # fmt: skip
            stats[what].show(f"{count:,}")
        nobody = one.pending and not found.served_by
        warning.show("No live worker has what this queue requires: its runs wait." * bool(nobody))
        keys.show(
            {"id": each.key or "-", "key": each.key or "(none)", "pending": each.pending,
             "running": each.running}
            for each in found.keys
        )  # fmt: skip
        places.show(
            {"id": who, "worker": who, "href": path("workers", who), "runs": count}
            for who, count in found.running_on.items()
        )

    await visit.live(lambda: queues.show_queue(visit.app, name), show, key=("queue", name))


@page("/workers", "Workers")
async def all_workers(visit: Visit) -> None:
    """The live ones."""
    heading("Workers", "Processes that execute runs")
    with card("Workers"):
        table = Table(WORKERS, label="Workers", empty=NO_WORKERS)

    def show(found: list[WorkerView]) -> None:
        table.show(map(_worker, found))

    await visit.live(lambda: workflows.list_workers(visit.app), show, key="workers")


def _worker(one: WorkerView) -> dict[str, object]:
    return {
        "id": one.id,
        "host": f"{one.host}, process {one.pid}",
        "href": path("workers", one.id),
        "runs": one.runs,
        "workflows": len([name for name in one.workflows if not name.startswith("aura.")]),
        "tags": ", ".join(one.tags),
        "resources": ", ".join(f"{name} {amount:g}" for name, amount in one.resources.items()),
        "started": one.started_at,
    }


@page("/workers/{worker_id:segment}", "Worker", menu="/workers")
async def one_worker(visit: Visit, worker_id: str) -> None:
    """A worker, what it can run, and what it runs now."""
    first = (await workflows.show_worker(visit.app, worker_id)).worker
    heading(f"{first.host}, process {first.pid}", worker_id)
    with el("div", "stats"):
        state, runs = Stat("State", "–"), Stat("Runs", "–")
        commits, entries = Stat("Commits", "–"), Stat("Journal entries", "–")
    with el("div", "charts"):
        with card("What it has"):
            facts(
                {
                    "host": first.host,
                    "process": first.pid,
                    "since": first.started_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
                    "tags": ", ".join(first.tags),
                    "resources": ", ".join(f"{k} {v:g}" for k, v in first.resources.items()),
                }
            )
        with card("What it can run"):
            own = [name for name in first.workflows if not name.startswith("aura.")]
            if not own:
                empty(Empty("It has no workflows of the app"))
            with el("ul", "plain-list"):
                for name in own:
                    el("li", "", name)
    with card("Runs", "the newest that it has now"):
        table = Table(RUNS, label="Runs", empty=Empty("It has no run now"))

    def show(found: WorkerDetail) -> None:
        one = found.worker
        state.show("live" if one.live else "gone", f"lease until {one.lease_until:%H:%M:%S} UTC")
        runs.show(f"{one.runs:,}")
        written = one.written
        commits.show(f"{written.get('commits', 0):,}", f"{written.get('saved', 0):,} saved")
        entries.show(f"{written.get('entries', 0):,}")
        table.show(
            {"id": each.id, "name": each.id, "href": path("runs", each.id),
             "workflow": f"{each.workflow} {each.version}", "state": each.state,
             "created": each.created_at}
            for each in found.runs
        )  # fmt: skip

    key = ("worker", worker_id)
    await visit.live(lambda: workflows.show_worker(visit.app, worker_id), show, key=key)
