"""How payloads are written on pages."""

from __future__ import annotations

import json

from aura.server.views import Payload

MOST = 160
"""Characters of a payload in a table."""


def whole(payload: Payload | None) -> str:
    """All of it as JSON in lines, or the beginning of what is too large."""
    if payload is None:
        return "(none)"
    if not payload.whole:
        return payload.preview
    return json.dumps(payload.value, ensure_ascii=False, indent=2)


def line(payload: Payload | None) -> str:
    """Its beginning in one line."""
    if payload is None:
        return ""
    text = json.dumps(payload.value, ensure_ascii=False) if payload.whole else payload.preview
    return text if len(text) <= MOST else text[: MOST - 1] + "…"
