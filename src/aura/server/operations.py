"""What the faces of Aura have in common: the HTTP API and the command line ask here."""

from __future__ import annotations

import base64
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from aura.app import Aura
from aura.engine.attributes import read_attribute
from aura.engine.fork import Fork, fork, fork_id
from aura.engine.ids import storable as storable
from aura.errors import InvalidInput, RunNotFound
from aura.server.journal import calls
from aura.server.views import (
    MOST_CHILDREN,
    MOST_WAITS,
    DatabaseView,
    RunDetail,
    RunList,
    RunView,
    WorkerView,
    database_view,
    run_detail,
    run_view,
    worker_view,
)
from aura.server.waits import waits
from aura.store.base import RunFilter, RunState

STATES: tuple[RunState, ...] = get_args(RunState)
MOST_RUNS = 500
"""A page of a list is not longer than this."""

RESERVED = frozenset(
    {"self", "workflow", "id", "version", "queue", "deadline", "detached", "attributes"}
)
"""Names of `Aura.start`'s own parameters: arguments of a workflow with these names are passed by
position, so that data from outside can never stand for them."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole at a glance; `runs` counts them by state."""

    app: str
    database: DatabaseView
    runs: dict[str, int]
    workers: tuple[WorkerView, ...]
    rollouts: tuple[dict[str, Any], ...]


async def overview(app: Aura) -> Overview:
    """Runs by state, workers with a live lease, and rollouts. Raises StoreUnavailable."""
    info = await app.store.info()
    counts = await app.store.count_runs(("state",))
    return Overview(
        app=app.name,
        database=database_view(info),
        runs={state: counts.get((state,), 0) for state in STATES},
        workers=await live_workers(app),
        rollouts=tuple(status.plain() for status in await app.rollouts.all()),
    )


async def live_workers(app: Aura) -> tuple[WorkerView, ...]:
    """The workers whose lease is not over, by the database's clock."""
    offset = (await app.store.info()).clock_offset
    now = app.clock.now() + offset
    views = (worker_view(worker, now) for worker in await app.store.workers())
    return tuple(view for view in views if view.live)


async def list_runs(
    app: Aura,
    *,
    state: str | None = None,
    workflow: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
    attributes: Sequence[str] = (),
    since: float | None = None,
    until: float | None = None,
) -> RunList:
    """A page of runs, newest first; those that have all `attributes`, each as name:value, and were
    created from `since` on and before `until` (epoch seconds). Raises InvalidInput for an unknown
    state, limit, cursor or attribute."""
    if state is not None and state not in STATES:
        raise InvalidInput(f"there is no state {state!r}", hint=f"States: {', '.join(STATES)}")
    if not 1 <= limit <= MOST_RUNS:
        raise InvalidInput(f"the limit is {limit}", hint=f"Give 1 to {MOST_RUNS}")
    words = tuple(sorted({read_attribute(one) for one in attributes}))
    if not all(map(storable, (workflow or "", *(value for _, value in words)))):
        return RunList((), None)
    before = read_cursor(cursor) if cursor else None
    if until is not None:
        before = min(before or (until, ""), (until, ""))
    where = RunFilter(workflow=workflow, limit=limit + 1, before=before, attributes=words)
    if state is not None:
        where = replace(where, state=state)
    found = await app.runs(where)
    if since is not None:  # the newest come first, so the others end the list
        found = [run for run in found if run.created_at >= since]
    page = found[:limit]
    more = len(found) > limit
    after = write_cursor(page[-1].created_at, page[-1].id) if more else None
    known = await app.store.attributes([run.id for run in page])
    return RunList(tuple(run_view(run, known.get(run.id)) for run in page), after)


async def show_run(app: Aura, run_id: str, *, full: bool = False) -> RunDetail:
    """A run with its journal and children. Raises RunNotFound."""
    record = await app.store.run(run_id) if storable(run_id) else None
    if record is None:
        raise no_run(run_id)
    family = RunFilter(parent=run_id, limit=MOST_CHILDREN + 1)
    known = await app.store.attributes([run_id])
    journal = await app.store.journal(run_id)
    detail = run_detail(
        record, journal, await app.store.runs(family), full=full, attributes=known.get(run_id)
    )
    found = waits(record, calls(journal), app.time.now())
    return replace(detail, waits=found[:MOST_WAITS], more_waits=len(found) > MOST_WAITS)


async def runs_of(app: Aura, ids: Sequence[str]) -> dict[str, RunView]:
    """Those of these runs that there are, by id."""
    known = await app.store.runs_by_id([one for one in ids if storable(one)])
    return {one.id: run_view(one) for one in known}


async def cancel_run(app: Aura, run_id: str) -> RunView:
    """Ask a run to stop; the run after that. Raises RunNotFound."""
    if not storable(run_id):
        raise no_run(run_id)
    run = app.run(run_id)
    await run.cancel()
    return await view_of(app, run_id)


async def view_of(app: Aura, run_id: str) -> RunView:
    """A run as it is now, with its attributes. Raises RunNotFound."""
    record = await app.run(run_id).record()
    return run_view(record, (await app.store.attributes([run_id])).get(run_id))


@dataclass(frozen=True, slots=True)
class ForkView:
    """A fork that was made: how much of the original it has. `undone` are the keys of steps that
    it counts as done although the original has compensated them since."""

    run: RunView
    entries: int
    signals: int
    undone: tuple[str, ...]


async def fork_run(
    app: Aura,
    run_id: str,
    *,
    at: str | None = None,
    version: str | None = None,
    new_id: str | None = None,
) -> ForkView:
    """Start a second run from the middle of another one, before the key `at` (None: from its end).

    Raises RunNotFound, InvalidInput, RunConflict.
    """
    if not storable(run_id):
        raise no_run(run_id)
    if new_id is not None and not storable(new_id):
        raise InvalidInput("the new run's id cannot be stored", hint="Use other characters")
    what = Fork(run_id, fork_id(run_id) if new_id is None else new_id, at, version)
    made = await fork(app.store, what, app.clock.now())
    return ForkView(await view_of(app, made.id), made.entries, made.signals, made.undone)


def write_cursor(at: float, run_id: str) -> str:
    """The place after a run in the list, as text without meaning to others."""
    return base64.urlsafe_b64encode(json.dumps([at, run_id]).encode()).decode().rstrip("=")


def read_cursor(text: str) -> tuple[float, str]:
    """What `write_cursor` wrote. Raises InvalidInput."""
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        found = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):  # not base64, not JSON
        found = None
    match found:
        case [float(at), str(run_id)] if storable(run_id):
            return at, run_id
    raise InvalidInput(
        "the cursor cannot be read", hint="Give the `next` of the page before, unchanged"
    )


def split_arguments(
    app: Aura, workflow: str, version: str | None, arguments: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments for `app.start(workflow, ...)`.

    Raises UnknownWorkflow, and InvalidInput when a reserved name is not one of its arguments.
    """
    if not RESERVED & arguments.keys():
        return [], dict(arguments)
    declared = app.catalog.named(workflow, version)
    by_position: list[Any] = []
    named = dict(declared.signature.bind((), arguments))
    for name, parameter in _leading(declared.function, named):
        by_position.append(named.pop(name) if name in named else parameter.default)
    if RESERVED & named.keys():
        raise InvalidInput(
            f"workflow {workflow} takes {', '.join(sorted(RESERVED & named.keys()))} by name only",
            hint="Let it be passed by position too",
        )
    return by_position, named


def _leading(function: Any, named: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The parameters up to the last one that has to go by position."""
    parameters = [
        (name, parameter)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.KEYWORD_ONLY
    ]
    places = [at for at, (name, _) in enumerate(parameters) if name in RESERVED and name in named]
    return parameters[: places[-1] + 1] if places else []


def no_run(run_id: str) -> RunNotFound:
    """What to raise for an id that no run has."""
    shown = run_id[:200].encode("utf-8", "replace").decode()
    return RunNotFound(f"there is no run {shown}", hint="List runs with: aura runs list")
