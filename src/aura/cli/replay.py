"""`aura replay`: recorded histories against the code at hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from aura.app import Aura, open_store
from aura.cli import process
from aura.cli.loading import bare_app, load_app, opened
from aura.cli.options import AppDatabase, AppName, Json, taking
from aura.cli.output import clean, note, print_json, show, table
from aura.delivery.catalog import Row
from aura.engine.arriving import histories
from aura.engine.rehearsal import rehearse_all
from aura.engine.replaying import ReplayReport
from aura.errors import InvalidInput, RunNotFound
from aura.server.operations import STATES
from aura.store.base import Claimed, RunFilter, RunState, Store
from aura.store.keys import Keyring
from aura.store.sealed import SealedStore
from aura.store.sealed_rows import open_row

_PAGE = 100


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What `aura replay` is told."""

    target: AppName
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Ids.", show_default=False)
    ] = None
    runs: Annotated[int, typer.Option("--runs", min=1, help="The newest so many.")] = 100
    every: Annotated[bool, typer.Option("--all", help="All runs.")] = False
    workflow: Annotated[
        str | None, typer.Option(help="Only runs of this workflow.", show_default=False)
    ] = None
    state: Annotated[
        str | None, typer.Option(help=f"Only these: {', '.join(STATES)}.", show_default=False)
    ] = None
    version: Annotated[
        str | None,
        typer.Option(help="Against the code of this version. Default: each its own."),
    ] = None
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The runs of this file.", show_default=False),
    ] = None
    record: Annotated[
        bool, typer.Option("--record", help="Keep the outcome in the catalog's matrix.")
    ] = False
    database: AppDatabase = None
    as_json: Json = False


@taking(ReplayOptions)
def replay(given: ReplayOptions) -> None:
    """Replay recorded runs against the code at hand and list what would diverge.

    No step is executed and nothing is written, but the outcome with --record:
    see aura catalog show. Exit code 1 when a run diverges, or when none could be
    replayed.

    \b
    Examples:
      aura replay research:app --runs 1000
      aura replay research:app --workflow research --state waiting --version 1.1.0
      aura replay research:app --version 2.0.0 --runs 1000 --record
      aura replay research:app doc-17 --json
    """
    if given.state is not None and given.state not in STATES:
        raise InvalidInput(
            f"there is no state {given.state!r}", hint=f"States: {', '.join(STATES)}"
        )
    app = load_app(given.target, given.database)
    _check(given, app)
    where = RunFilter(_state(given.state), given.workflow, _PAGE)
    most = None if given.every else given.runs

    async def work() -> ReplayReport:
        if given.bundle is not None:
            return await rehearse_all(
                app.registry, _of_bundle(app, given.bundle), version=given.version
            )
        async with aclosing(_stored(app, tuple(given.run_ids or ()), where, most)) as found:
            return await rehearse_all(app.registry, found, version=given.version)

    report = process.run(work())
    if given.record:
        process.run(_record(app, report))
    if given.as_json:
        print_json(report.plain())
    else:
        _tell(report)
    if not report.compatible or (report.skipped and not report.runs):
        raise typer.Exit(1)


async def _record(app: Aura, report: ReplayReport) -> None:
    """Keep the outcome, pair by pair of versions, in the compatibility matrix."""
    examples: dict[tuple[str, str, str], list[str]] = {}
    for one in report.diverged:
        told = examples.setdefault((one.workflow, one.recorded_version, one.version), [])
        told.append(f"run {one.run}: {one.divergences[0].kind}: {one.divergences[0].message}")
    rows = [
        Row(
            pair.workflow, pair.recorded_version, pair.version, pair.runs, pair.diverged,
            tuple(told[:500] for told in examples.get(pair[:3], [])[:3]),
        )
        for pair in report.pairs
    ]  # fmt: skip
    async with opened(app):
        await app.catalog.record(rows)


def _check(given: ReplayOptions, app: Aura) -> None:
    """A slip must not look like a replay without divergences. Raises InvalidInput."""
    if given.bundle is not None and (given.run_ids or given.workflow or given.state):
        raise InvalidInput(
            "--bundle takes all runs of its file, and chooses none by id, workflow or state",
            hint="Leave those out, or replay from the database",
        )
    names = sorted({workflow.name for workflow in app.registry})
    if given.workflow is not None and given.workflow not in names:
        raise InvalidInput(
            f"workflow {given.workflow} is not in the code of {given.target}",
            hint=f"It has: {', '.join(names)}",
        )


def _state(state: str | None) -> RunState | None:
    return next((one for one in STATES if one == state), None)


async def _stored(
    app: Aura, ids: Sequence[str], where: RunFilter, most: int | None
) -> AsyncGenerator[Claimed, None]:
    """Histories of a database. The app stays closed, so its code cannot reach anything by it."""
    bare_app(app.config.database)  # refuses what is not there
    inner = open_store(app.config.database, app.clock)
    await inner.open()
    try:
        store: Store = inner
        if app.config.encryption_keys:
            store = SealedStore(inner, Keyring(app.config.encryption_keys))
        async for history in _chosen(store, ids, where, most):
            yield history
    finally:
        await inner.close()


async def _chosen(
    store: Store, ids: Sequence[str], where: RunFilter, most: int | None
) -> AsyncIterator[Claimed]:
    for run_id in ids:
        run = await store.run(run_id)
        if run is None:
            raise RunNotFound(f"there is no run {run_id}", hint="List runs with: aura runs list")
        yield Claimed(run, await store.journal(run_id))
    left = most
    while not ids and (left is None or left > 0):
        page = await store.runs(where)
        for run in page[:left]:
            yield Claimed(run, await store.journal(run.id))
        if len(page) < where.limit:
            return
        left = None if left is None else left - len(page)
        where = replace(where, before=(page[-1].created_at, page[-1].id))


async def _of_bundle(app: Aura, file: Path) -> AsyncIterator[Claimed]:
    for history in histories(file, partial(open_row, Keyring(app.config.encryption_keys))):
        yield history


def _tell(report: ReplayReport) -> None:
    if not report.runs and not report.skipped:
        note("There are no such runs.")
        return
    columns = ("WORKFLOW", "RECORDED BY", "CODE", ">RUNS", ">DIVERGE")
    rows = [
        (clean(pair.workflow), pair.recorded_version, pair.version, f"{pair.runs}",
         Text(f"{pair.diverged}", "bold red" if pair.diverged else "green"))
        for pair in report.pairs
    ]  # fmt: skip
    show(table(columns, rows))
    for one in report.diverged:
        show(Text.assemble(("run ", "bold"), clean(one.run), f" ({one.state})"))
        for each in one.divergences:
            show(Text(f"  {each.kind}: {clean(each.message)}"))
    for one in report.skipped:
        note(f"Skipped run {one.run}: {one.reason}")
    if report.compatible and report.runs:
        note("The run replays." if report.runs == 1 else f"All {report.runs} runs replay.")
