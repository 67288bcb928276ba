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


def new_run_id(now: float) -> str:
    """A time-ordered unique id (UUID version 7) for an epoch time in seconds: new runs are
    neighbours in the database."""
    millis = int(now * 1000)
    value = (millis << 80) | secrets.randbits(80)
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return str(uuid.UUID(int=value))
