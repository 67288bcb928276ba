"""Inputs and outputs as plain text, for those that are too large to be sent with a page."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import PlainTextResponse
from nicegui import app as pages_app

from aura.app import Aura
from aura.errors import AuraError, InvalidInput
from aura.server.access import Needs, admit, caller_of
from aura.server.outline import record_of, show_call
from aura.server.problems import Refused, problem_of
from aura.server.ui.parts import written
from aura.server.views import Payload, payload_view

HEADERS = {
    "content-security-policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
    "cache-control": "no-store",
}


def serve_raw(app: Aura) -> None:
    """Serve them at /raw/runs/ID?key=...&part=input, of the run itself without a key."""

    @pages_app.get("/raw/runs/{run_id:segment}", include_in_schema=False)
    async def raw(request: Request, run_id: str, key: str = "", part: str = "output") -> object:
        try:
            await admit(app, caller_of(request), Needs("viewer", "run"), "this", run_id)
            found = await _payload(app, run_id, key, part)
        except (AuraError, Refused) as error:
            said = problem_of(error)
            return PlainTextResponse(said.detail, said.status, HEADERS)
        return PlainTextResponse(written(found), headers=HEADERS)


async def _payload(app: Aura, run_id: str, key: str, part: str) -> Payload:
    if part not in ("input", "output"):
        raise InvalidInput(f"there is no part {part!r:.40}", hint="Parts: input, output")
    if key:
        call = await show_call(app, run_id, key, full=True)
        found = call.input if part == "input" else call.output
    else:
        record = await record_of(app, run_id)
        found = payload_view(record.input if part == "input" else record.output, full=True)
    if found is None:
        raise InvalidInput(f"it has no {part}", hint="It may have one later")
    return found
