"""Ids of runs."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from aura.errors import InvalidInput


def checked_id(run_id: Any) -> str:
    """An id that a caller has chosen. Raises InvalidInput."""
    if not isinstance(run_id, str) or not 0 < len(run_id) <= 500 or not run_id.isprintable():
        raise InvalidInput(
            f"a run cannot have the id {run_id!r:.80}", hint="Give 1 to 500 printable characters"
        )
    return run_id


def storable(text: str) -> bool:
    """Whether a database can hold this text at all: no NUL, no half characters."""
    try:
        return b"\x00" not in text.encode()
    except UnicodeEncodeError:
        return False


def asked_id(run_id: Any) -> str:
    """An id that somebody asks for, be there such a run or not. Raises InvalidInput for what would
    fail whatever is written together with it."""
    if not isinstance(run_id, str) or not storable(run_id):
        raise InvalidInput(f"{run_id!a:.80} is no id of a run", hint="List them: aura runs list")
    return run_id


def new_run_id(now: float) -> str:
    """A time-ordered unique id (UUID version 7) for an epoch time in seconds: new runs are
    neighbours in the database."""
    millis = int(now * 1000)
    value = (millis << 80) | secrets.randbits(80)
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return str(uuid.UUID(int=value))
