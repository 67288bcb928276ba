"""Times on the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from aura.errors import InvalidInput
from aura.yamlnodes import DURATION, SECONDS

Since = Annotated[
    str | None,
    typer.Option(help="Created from then on: a time, or an age (2d).", show_default=False),
]
Until = Annotated[str | None, typer.Option(help="Created before then.", show_default=False)]


def read_moment(text: str, now: float, option: str) -> float:
    """Epoch seconds of a time or an age. Raises InvalidInput."""
    age = DURATION.fullmatch(text)
    if age:
        return now - float(age[1]) * SECONDS[age[2]]
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"{option} is {text!r}", hint="Give a time (2026-05-01T12:00Z) or an age (90m, 2d)"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def maybe_moment(text: str | None, now: float, option: str) -> float | None:
    """The same, of an option that may be left out. Raises InvalidInput."""
    return None if text is None else read_moment(text, now, option)
