"""Attributes: words given at the start of a run, by which it is found among all others."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

from aura.errors import InvalidInput
from aura.store.search import Attributes

MOST = 16
"""A run has at most so many."""
LONGEST = 200
"""Characters of a value."""

WORDS = r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}:"
"""How an attribute begins that is searched for, as a pattern."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


def taken_attributes(arguments: MutableMapping[str, Any]) -> Attributes:
    """What `app.start` was given as `attributes`, which is none of the workflow's arguments: it is
    taken out of these. Raises InvalidInput."""
    return checked_attributes(arguments.pop("attributes", None))


def checked_attributes(given: object) -> Attributes:
    """Pairs in the order of their names. Raises InvalidInput."""
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise InvalidInput(
            f"attributes are a {type(given).__name__}", hint='Give a dict: {"customer": "x"}'
        )
    if len(given) > MOST:
        raise InvalidInput(f"{len(given)} attributes are too many", hint=f"Give at most {MOST}")
    for name, value in given.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{name!r:.80} is no name of an attribute",
                hint="Use up to 64 letters, digits, _, . and -, beginning with a letter",
            )
        if not isinstance(value, str) or not 0 < len(value) <= LONGEST or not value.isprintable():
            raise InvalidInput(
                f"attribute {name} has the value {value!r:.80}",
                hint=f"Values are texts of 1 to {LONGEST} printable characters",
            )
    return tuple(sorted(given.items()))


def read_attribute(text: str) -> tuple[str, str]:
    """`name:value`, as people write it who search for it; the value may be one that no run has.
    Raises InvalidInput."""
    if not re.match(WORDS, text):
        raise InvalidInput(
            f"{text!r:.80} is no attribute", hint="Write name:value, as in customer:x"
        )
    name, _, value = text.partition(":")
    return name, value
