"""Which commands change something, and their line in the audit log.

`watched` lets every command know by which name and with which options it was given, and gives
those that change something the option `--reason`, where they have none; `note_start`, called when
a command opens its app, writes the entry before anything is changed, `note_failure` why it was not.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, wraps
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
import typer.main

from aura.cli import process
from aura.errors import ResultTimeout, RunError, StoreError

if TYPE_CHECKING:
    from aura.app import Aura
    from aura.server.audit import Change

CHANGES: dict[str, tuple[str, ...]] = {
    "run": ("call", "run_id", "version"),
    "apply": ("files",),
    "rollback": ("names", "everything", "release", "restore"),
    "gc": ("older_than",),
    "runs cancel": ("run_id",),
    "runs signal": ("run_id", "name"),
    "runs update": ("run_id", "name"),
    "runs requeue": ("run_id",),
    "runs retry": ("run_id",),
    "runs fork": ("run_id", "at", "version", "new_id"),
    "runs bulk": ("action", "run_ids", "state", "workflow", "attribute", "since", "until"),
    "runs reward": ("run_id", "name"),
    "runs export": ("file", "run_ids", "every", "move"),
    "runs import": ("file", "take_back"),
    "rollout start": ("file", "again", "replace", "incompatible"),
    "rollout advance": ("name",),
    "rollout hold": ("name",),
    "rollout pause": ("name",),
    "rollout resume": ("name",),
    "rollout retry": ("name",),
    "rollout rollback": ("name",),
    "rollout skip": ("name", "stage"),
    "rollout approve": ("name", "stage", "refuse"),
    "catalog deprecate": ("version", "replacement", "undo"),
    "experiment start": ("file",),
    "experiment stop": ("name", "promote"),
    "experiment reward": ("name", "unit", "metric"),
    "flows release": ("name", "arm"),
    "flows start": ("file",),
    "flows stop": ("name", "keep"),
    "decommission start": ("name",),
    "decommission undo": ("name",),
    "shadow clear": ("name",),
    "schedules put": ("name", "workflow", "version"),
    "schedules pause": ("name",),
    "schedules resume": ("name",),
    "schedules trigger": ("name", "key"),
    "schedules backfill": ("name", "start", "end"),
    "schedules delete": ("name",),
    "dlq requeue": ("letter", "version"),
    "dlq drop": ("letter",),
    "dlq bulk": ("action", "letters", "topic", "group", "workflow", "version"),
    "topics emit": ("topic", "key", "event_id"),
    "topics replay": ("topic", "group", "since"),
    "topics forget": ("topic", "group"),
    "token create": ("name", "role", "workflow", "expires"),
    "token revoke": ("name",),
}
"""Commands that change something, and which of their parameters say what: never payloads."""

READS = frozenset(
    {
        *("serve", "worker", "doctor", "replay", "demo"),
        *(
            "runs list",
            "runs show",
            "runs state",
            "runs stream",
            "runs watch",
            "init",
            "top",
            "queues list",
            "queues show",
        ),
        *("rollout status", "rollout history", "rollout backtest"),
        *("catalog list", "catalog show", "catalog diff"),
        *("experiment plan", "experiment list", "experiment status", "experiment report"),
        *("flows list", "flows show", "flows evaluate", "flows status"),
        *("decommission status", "shadow report", "shadow list"),
        *("audit list", "workers list", "workers show", "splits list", "splits show"),
        *("contract infer", "contract check", "schedules list", "schedules show"),
        *("dlq list", "dlq show", "topics list", "topics show", "topics read", "token list"),
    }
)
"""Commands that only look, or whose work is journalled as runs are."""

ELSEWHERE = frozenset({"promote"})
"""Commands that leave no entry: `promote` stops the app of the database that it would be in."""

_HARMLESS = ("dry_run", "listed")  # with these nothing is changed


@dataclass(slots=True)
class _Given:
    """The command that is carried out. One of its apps gets the entry, the first that is opened."""

    path: str
    options: dict[str, Any]
    app: Aura | None = None
    number: int = 0


log = logging.getLogger("aura.cli")
_given: ContextVar[_Given | None] = ContextVar("aura_command", default=None)


class _Node(NamedTuple):
    path: tuple[str, ...]
    command: Any


def watched(command: Any) -> Any:
    """The command, with its parts, each of which says that it has begun."""
    waiting = [_Node((), command)]
    while waiting:
        path, node = waiting.pop()
        below = getattr(node, "commands", None)
        if below is not None:
            waiting += [_Node((*path, name), child) for name, child in below.items()]
        elif node.callback is not None:
            name = " ".join(path)
            added = name in CHANGES and not {one.name for one in node.params} & {"reason", "why"}
            if added:
                node.params.append(_reason())
            node.callback = _telling(name, node.callback, added)
    return command


_Why = Annotated[str, typer.Option(help="Why, for the audit log.", show_default=False)]


@cache
def _reason() -> Any:
    """The option that says why, for commands which have no other use of that."""
    one = typer.Typer()

    @one.command()
    def change(reason: _Why = "") -> None:  # noqa: ARG001  (only its option is wanted)
        return None

    return next(found for found in typer.main.get_command(one).params if found.name == "reason")


async def note_start(app: Aura) -> None:
    """Write what is about to be changed, when it is. Raises StoreUnavailable."""
    given = _given.get()
    if given is None or given.app is not None or given.path not in CHANGES:
        return
    if any(given.options.get(name) for name in _HARMLESS):
        return
    from aura.server import audit

    given.app = app
    given.number = await audit.record(app, change_of(given.path, given.options))


async def note_failure(app: Aura, error: Exception) -> None:
    """Write why what was noted was not done. Never raises: the command's own error is told."""
    given = _given.get()
    if given is None or given.app is not app or not given.number:
        return
    if isinstance(error, typer.Exit):
        return  # it is done, and ends with a code of its own
    if given.path == "run" and isinstance(error, RunError | ResultTimeout):
        return  # it was started, which is what is in the log
    from aura.server import audit
    from aura.server.problems import problem_of

    change = change_of(given.path, given.options)
    try:
        await audit.failed(app, change, given.number, problem_of(error).code)
    except (StoreError, OSError) as lost:
        log.warning("the audit log does not say that entry %d failed: %s", given.number, lost)


def change_of(path: str, options: dict[str, Any]) -> Change:
    """What a command changes, in the words of the audit log."""
    from aura.server.audit import Change

    told = {name: options.get(name) for name in CHANGES[path]}
    target = {name: _text(value) for name, value in told.items() if value not in (None, False, ())}
    who = str(options.get("by") or process.user() or "somebody")
    why = str(options.get("reason") or options.get("why") or "")
    return Change(path, who, "", "cli", platform.node(), why, target)


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _telling(path: str, callback: Callable[..., Any], added: bool) -> Callable[..., Any]:
    @wraps(callback)
    def told(*args: Any, **options: Any) -> Any:
        before = _given.set(_Given(path, dict(options)))
        if added:
            del options["reason"]  # it is for the log alone
        try:
            return callback(*args, **options)
        finally:
            _given.reset(before)

    return told
