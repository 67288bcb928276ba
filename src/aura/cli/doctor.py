"""`aura doctor`: look at everything that Aura stands on, and say what mends what is wrong."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated

import typer

from aura.app import Aura
from aura.cli import process
from aura.cli.checks import (
    Check,
    FileFacts,
    Work,
    check_clock,
    check_durability,
    check_encryption,
    check_file,
    check_runs,
    check_versions,
    check_workers,
    has_problem,
)
from aura.cli.loading import load_app, opened, sqlite_file, using
from aura.cli.options import AppDatabase, Json
from aura.cli.output import clean, print_json, redact, show, styled, table
from aura.engine.residence import unguarded
from aura.errors import AuraError
from aura.server.operations import live_workers
from aura.server.views import RunView, WorkerView, run_view
from aura.store.base import RunFilter, RunState, Store
from aura.store.sealed import SealedStore

LOOK_AT = 500
"""So many runs of each state are looked at, the newest ones."""


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:APP]", help="Check that this app loads too.", show_default=False
        ),
    ] = None,
    database: AppDatabase = None,
    as_json: Json = False,
) -> None:
    """Check database, durability, clocks, versions, workers and stuck runs.

    Each problem is shown with what mends it. The exit code is 1 when there
    is one.

    \b
    Examples:
      aura doctor
      aura doctor research:app --database postgresql://aura@db/aura
    """
    versions = installed_versions()
    found = list(check_versions(versions))
    app = using(Aura("aura"), database)
    if target is not None:
        try:
            app = load_app(target, database)
            found.append(Check("app", "ok", f"{target} is the app {app.name}"))
        except AuraError as error:
            found.append(_failed("app", error))
    found += process.run(_examine(app))
    if as_json:
        checks = [_redacted(check) for check in found]
        print_json({"ok": not has_problem(found), "versions": versions, "checks": checks})
    else:
        rows = [
            (styled(one.level), one.name, clean(redact(one.text)), clean(redact(one.mend)))
            for one in found
        ]
        show(table(("", "CHECK", "FOUND", "MEND IT WITH"), rows))
    if has_problem(found):
        raise typer.Exit(1)


def installed_versions() -> dict[str, str | None]:
    """Versions by name, None for a package that is not there."""
    found: dict[str, str | None] = {
        "aura": _version("aura-workflows"),
        "python": ".".join(map(str, sys.version_info[:3])),
        "sqlite": sqlite3.sqlite_version,
    }
    return found | {name: _version(name) for name in needed(requires("aura-workflows") or [])}


def needed(requirements: list[str]) -> list[str]:
    """The packages that this Aura cannot do without, by its own metadata. Pure."""
    names = []
    for line in requirements:
        requirement, _, marker = line.partition(";")
        elsewhere = "win32" in marker and sys.platform == "win32"
        name = re.match(r"[\w.-]+", requirement.strip())
        if name is not None and "extra" not in marker and not elsewhere:
            names.append(name[0])
    return sorted(names)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


async def _examine(app: Aura) -> list[Check]:
    """The database of an app and what is in it; looking creates none."""
    found: list[Check] = []
    file = sqlite_file(app.config.database)
    if file is not None:
        found += check_file(file_facts(file))
        if not file.exists():
            return found
    try:
        async with opened(app):
            found += await _look(app)
    except AuraError as error:
        found.append(_failed("database", error))
    except sqlite3.Error as error:  # a damaged file can break any query
        found.append(Check("database", "problem", f"SQLite: {error}", "restore a backup"))
    return found


async def _look(app: Aura) -> list[Check]:
    info = await app.store.info()
    server = {"sqlite": "SQLite", "postgres": "PostgreSQL"}.get(info.kind, info.kind)
    where = f"{server} {info.server} at {info.location}, schema {info.schema}"
    workers = await live_workers(app)
    work = await _work(app, workers, app.clock.now() + info.clock_offset)
    busy = bool(work.pending or work.overdue or work.abandoned)
    return [
        Check("database", "ok", where),
        *check_durability(info),
        _encryption(app.store),
        check_clock(info.clock_offset),
        check_workers(workers, busy=busy),
        *check_runs(work, workers),
    ]


def _encryption(store: Store) -> Check:
    store = unguarded(store)
    if isinstance(store, SealedStore):
        return check_encryption(store.key_ids, store.refusal)
    return check_encryption((), None)


async def _work(app: Aura, workers: tuple[WorkerView, ...], now: float) -> Work:
    live = {one.id for one in workers}

    async def of(state: RunState) -> list[RunView]:
        return list(map(run_view, await app.runs(RunFilter(state=state, limit=LOOK_AT))))

    return Work(
        pending=await of("pending"),
        overdue=[r for r in await of("waiting") if r.wake_at and r.wake_at.timestamp() <= now],
        abandoned=[r for r in await of("running") if r.worker not in live],
        parked=await of("parked"),
    )


def file_facts(file: Path) -> FileFacts:
    """What the system knows of a SQLite file, whether it exists or not."""
    path = file.resolve()
    folder = next(parent for parent in path.parents if parent.is_dir())
    space = shutil.disk_usage(folder)
    exists = path.exists()
    return FileFacts(
        path=str(file),
        exists=exists,
        mode=path.stat().st_mode & 0o777 if exists else 0,
        readable=_may(path, os.R_OK),
        writable=_may(path, os.W_OK),
        folder_exists=path.parent.is_dir(),
        folder_writable=path.parent.is_dir() and _may(folder, os.W_OK),
        free=space.free,
        total=space.total,
    )


def _may(path: Path, what: int) -> bool:
    return os.access(path, what, effective_ids=os.access in os.supports_effective_ids)


def _failed(name: str, error: AuraError) -> Check:
    return Check(name, "problem", error.message, error.hint)


def _redacted(check: Check) -> Check:
    return Check(check.name, check.level, redact(check.text), redact(check.mend))
