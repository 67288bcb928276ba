"""Plans and the like that are sent as JSON: they are read by the same rules as files.

    {"plan": {"name": "replace-legacy", "baseline": "legacy", ...}}

is the file `rollout: {name: replace-legacy, ...}`. Errors name the place in what was sent, such as
`rollout.stages[2]`, where those about files name the line.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from aura.errors import AuraError, InvalidInput, PayloadTooLarge, PlanError

T = TypeVar("T")

MOST = 64 * 1024
"""Characters of a plan that is sent; files may be longer."""

_SOURCE = "plan"
_PLACE = re.compile(rf"{_SOURCE}:(\d+): ")
_BREAKS = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}


async def read_given(sections: Mapping[str, Any], parse: Callable[[str, str], T]) -> T:
    """What `parse` makes of the sections as the text of a file, and of its name. It is called in a
    thread: it must be pure.

    Raises PlanError with the place in what was sent, PayloadTooLarge.
    """
    try:
        text = json.dumps(sections, indent=1, ensure_ascii=False)
    except RecursionError as error:
        raise InvalidInput("it is nested too deeply", hint="No plan needs that") from error
    if len(text) > MOST:
        raise PayloadTooLarge(
            f"what was sent has {len(text):,} characters", hint=f"Send at most {MOST:,}"
        )
    for character, escaped in _BREAKS.items():
        text = text.replace(character, escaped)
    try:
        return await asyncio.to_thread(parse, text, _SOURCE)
    except AuraError as error:
        places = list(_places(sections, ""))
        told = _PLACE.sub(lambda found: f"{_place(places, int(found[1]))}: ", error.message)
        raise PlanError(told, hint=error.hint) from error


def _place(places: list[str], line: int) -> str:
    """The place of that line, counted from 1."""
    return (places[line - 1] if line <= len(places) else "") or "(all of it)"


def _places(value: Any, path: str) -> Iterator[str]:
    """For each line of `json.dumps(value, indent=1)` where it is."""
    yield path
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from _places(each, f"{path}.{name}" if path else str(name))
        yield path
    elif isinstance(value, list) and value:
        for index, each in enumerate(value):
            yield from _places(each, f"{path}[{index}]")
        yield path
