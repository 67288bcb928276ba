"""From MODULE:APP and --database to an app."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from aura.app import Aura
from aura.cli.audited import note_failure, note_start
from aura.errors import AuraError, ConfigError, StoreError
from aura.masking import shown_with


def load_app(name: str, database: str | None = None) -> Aura:
    """The app that MODULE:APP names; the current folder is importable.

    Raises ConfigError when it cannot be had, and whatever AuraError its module raises.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise ConfigError(f"{name!r} names no app", hint="Write MODULE:APP, as in research:app")
    if "/" in module_name or module_name.endswith(".py"):
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigError(
            f"{module_name} is a file, not a module", hint=f"Write {dotted}:{path} in its folder"
        )
    found: Any = _module(module_name)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ConfigError(
                f"the module {module_name} has no {path}", hint=_apps_in(found, module_name)
            ) from error
    if not isinstance(found, Aura):
        raise ConfigError(
            f"{name} is of type {type(found).__name__}, not an Aura app",
            hint=_apps_in(sys.modules[module_name], module_name),
        )
    return using(found, database)


def using(app: Aura, database: str | None) -> Aura:
    """The app with another database, when there is one."""
    if database is not None:
        app.config = replace(app.config, database=_checked(database))
    return app


def bare_app(database: str | None) -> Aura:
    """An app without workflows of its own, to look at a database that is there.

    Raises ConfigError when it is a SQLite file that does not exist.
    """
    app = using(Aura("aura"), database)
    file = sqlite_file(app.config.database)
    if app.config.database == ":memory:":
        raise ConfigError(
            "a database in memory is seen by its own process only", hint="Name a file or a URL"
        )
    if file is not None and not file.exists():
        raise ConfigError(
            f"there is no database at {file}",
            hint="Name it with --database or AURA_DATABASE_URL; the first run creates it",
        )
    return app


def sqlite_file(database: str) -> Path | None:
    """The file of a SQLite database, None for other kinds."""
    path = database.removeprefix("sqlite:///")
    return None if "://" in path or path == ":memory:" else Path(path)


@asynccontextmanager
async def opened(
    app: Aura, *, worker: bool = False, only: str | None = None
) -> AsyncIterator[Aura]:
    """The app, open; without a worker unless one is asked for (for all runs, or `only` for the
    one of that id). What a command is about to change is in the audit log then. Raises
    AuraError."""
    try:
        await app.open(worker=worker, only=only)
    except BaseException:
        store = getattr(app, "store", None)
        if store is not None:
            with suppress(StoreError, OSError):
                await store.close()
        raise
    try:
        await note_start(app)
        with shown_with(app.config.masking.mask()):
            yield app
    except Exception as error:
        await note_failure(app, error)
        raise
    finally:
        await app.close()


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except AuraError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"there is no module {name}",
                hint="Run the command in the project's folder, or set PYTHONPATH",
            ) from error
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:  # user code: whatever its import raises
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> ConfigError:
    return ConfigError(
        f"the module {name} cannot be imported: {type(error).__name__}: {error}{_place(error)}",
        hint="Mend it first; AURA_DEBUG=1 shows the traceback",
    )


def _place(error: BaseException) -> str:
    """Where the module broke: the last line of it that is no machinery of importing."""
    if isinstance(error, SyntaxError):
        return ""  # its own text names file and line
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and frame.filename != __file__
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _apps_in(found: object, module: str) -> str:
    names = [name for name, value in vars(found).items() if isinstance(value, Aura)]
    if names:
        return f"Its apps: {', '.join(f'{module}:{name}' for name in names)}"
    return 'It has no app; write `app = Aura("name")` at its top'


def _checked(database: str) -> str:
    if not database:
        raise ConfigError("--database is empty", hint="Give a path or a postgresql:// URL")
    return database
