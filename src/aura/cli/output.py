"""What commands print: JSON for programs, tables and sentences for people, errors as a paragraph.

Whatever comes from a database or a plan is data: it is printed without terminal control characters
and never as markup. Passwords in URLs are masked everywhere.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from aura.errors import AuraError, RunFailed
from aura.masking import redact as redact

if TYPE_CHECKING:
    from aura.server.views import ErrorView, Payload

WIDE = 200
"""Columns of a table that goes to a file or a pipe."""

STYLES = {
    "completed": "green",
    "done": "green",
    "pass": "green",
    "ok": "green",
    "running": "cyan",
    "waiting": "blue",
    "pending": "blue",
    "retrying": "yellow",
    "note": "yellow",
    "held": "yellow",
    "won": "green",
    "better": "green",
    "worse": "bold red",
    "harmed": "bold red",
    "invalid": "bold red",
    "not-enough": "yellow",
    "active": "green",
    "paused": "yellow",
    "descending": "bold yellow",
    "parked": "bold yellow",
    "failed": "red",
    "trip": "bold red",
    "problem": "bold red",
    "rolled-back": "bold red",
    "cancelled": "dim",
    "moved": "dim",
}

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """The text with control characters made visible, so that a terminal only shows it."""
    shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", shown)


def one_line(text: str, width: int) -> str:
    """At most `width` characters of the text, on one line."""
    flat = " ".join(clean(text).split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def styled(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STYLES.get(state, ""))


def console() -> Console:
    """Where people's output goes: as wide as the terminal, or wide enough for a file."""
    width = None if sys.stdout.isatty() else WIDE
    return Console(file=sys.stdout, width=width, markup=False, emoji=False, highlight=False)


def show(*parts: RenderableType) -> None:
    """Print to stdout."""
    out = console()
    for part in parts:
        out.print(part)


def note(text: str) -> None:
    """Say something beside the result, on stderr."""
    print(clean(redact(text)), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """A value as JSON on stdout."""
    sys.stdout.buffer.write(to_json(value, indent=2, inf_nan_mode="null") + b"\n")
    sys.stdout.flush()


def print_json_line(value: Any) -> None:
    """A value as JSON on one line of stdout, for commands that go on after it."""
    sys.stdout.buffer.write(to_json(value) + b"\n")
    sys.stdout.flush()


def print_value(value: Any) -> None:
    """A plain JSON value for people: indented in a terminal, on one line in a pipe."""
    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"), flush=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[RenderableType]]) -> Table:
    """A table without lines between rows. A column whose name begins with > is to the right (a
    number), one with = is to be copied; neither is ever broken over lines."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        made.add_column(
            name.lstrip(">="),
            min_width=len(name.lstrip(">=")),
            justify="right" if name.startswith(">") else "left",
            overflow="fold",
            no_wrap=name.startswith(("=", ">")),
        )
    for row in rows:
        made.add_row(*row)
    return made


def complain(error: BaseException, *, as_json: bool = False) -> None:
    """One paragraph on stderr that says what was wrong and what to do; `as_json` also a line on
    stdout: `{"error": {"type", "message", "hint", "run"}}`."""
    if os.environ.get("AURA_DEBUG") == "1":
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
    if as_json:
        message = error.message if isinstance(error, AuraError) else str(error)
        hint = error.hint if isinstance(error, AuraError) else ""
        _print_error(type(error).__name__, message, hint, getattr(error, "run_id", None))
    note(paragraph(error))


def _print_error(kind: str, message: str, hint: str, run: str | None) -> None:
    said = {"type": kind, "message": redact(message), "hint": redact(hint), "run": run}
    text = json.dumps({"error": said})  # in ASCII: also what is no text goes through
    print(text, flush=True)


def paragraph(error: BaseException) -> str:
    """The error as one readable paragraph."""
    if isinstance(error, AuraError):
        text = str(error)
    else:
        text = (
            f"unexpected {type(error).__name__}: {error}. "
            "This is a fault of Aura; AURA_DEBUG=1 shows where it happened"
        )
    flat = " ".join(text.split())
    told = "Error: " + (flat if flat.endswith((".", "!", "?", ")", "…")) else f"{flat}.")
    return f"{told} See: aura runs show {error.run_id}" if isinstance(error, RunFailed) else told


def usage(message: str, command: str, *, as_json: bool = False) -> None:
    """How a command line should have been, on stderr; `as_json` as an error of the type UsageError
    on stdout, too."""
    if as_json:
        _print_error("UsageError", message, f"See: {command} --help", None)
    note(f"Error: {' '.join(message.split()).rstrip('.')}. See: {command} --help")


# -- values for people -------------------------------------------------------------------------


def moment(at: datetime | None) -> str:
    """A time in UTC, to the second; – for none."""
    return "–" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def payload(found: Payload | None, width: int) -> str:
    """An input or output: whole when it is short, else its beginning and its size."""
    if found is None:
        return ""
    if found.encrypted:
        return one_line(found.preview, width)
    if not found.whole:
        return f"{one_line(found.preview, width)} ({found.bytes:,} bytes; --full shows all)"
    return one_line(json.dumps(found.value, ensure_ascii=False), width)


def whole(found: Payload) -> str:
    """An input or output over as many lines as it needs."""
    return clean(json.dumps(found.value, ensure_ascii=False, indent=2))


def error_line(error: ErrorView, width: int = 300) -> str:
    """Type and message of an error."""
    return one_line(f"{error.type}: {error.message}" if error.type else error.message, width)


def indented(text: str, by: str = "    ") -> str:
    """A text over several lines, moved to the right."""
    return textwrap.indent(clean(text.rstrip()), by)
