"""docs/api.md, made from the OpenAPI document: `python -m tests.server.reference > docs/api.md`."""

from __future__ import annotations

import json
from typing import Any

from aura.server.api import openapi_of
from aura.server.problems import CODES
from aura.server.serving import build
from tests.server.kit import make_app

HEAD = """# The HTTP API

`aura serve` answers at `/api/v1`. This page is made from its own description, which every server
has at `/api/v1/openapi.json`; a test compares them.

- **Tokens.** From the first `aura token create` on every request carries
  `Authorization: Bearer aura_...`; `/healthz` and `/readyz` need none. See [security](security.md).
- **Ids** stand in a path as one segment: the run `doc/17` is `/api/v1/runs/doc%2F17`.
- **Changes** carry `content-type: application/json`, also when there is nothing to say: `{}`. The
  header `Aura-Reason` (percent-encoded) says why, for the audit log.
- **Starting once.** The same `id`, or the same `Idempotency-Key`, with the same input is the same
  run; with another input it is refused (`run-conflict`).
- **Search.** `GET /runs?attribute=customer:x` finds the runs that were started with
  `"attributes": {"customer": "x"}`; several `attribute` mean all of them. What a route does not
  know in a query is refused, so that a misspelt filter does not show everything.
- **Live.** `GET /changes` tells as server-sent events what changes: runs that begin and end,
  workers, schedules, topics, rollouts ... `kind=runs` chooses, `run=doc-17` follows one run. Each
  event says what is different; a client that lost its connection sends `Last-Event-ID` (or
  `since`) and hears what it missed, or `reset`: then it reads everything again.
- **Pages.** Lists give `next`; hand it back as `cursor`, unchanged, for the page after it.
- **Streams** with `follow=true` are server-sent events; a client that lost its connection sends
  `Last-Event-ID` and goes on after it.
- **Errors** are problem documents (RFC 9457): programs look at `code`, people at `detail`.

```bash
curl -s http://127.0.0.1:8080/api/v1/runs -H "Authorization: Bearer $TOKEN" \\
  -H 'content-type: application/json' -H 'Idempotency-Key: order-17' \\
  -d '{"workflow": "research", "input": {"text": "durable"}}'
```
"""


def text() -> str:
    """The whole page."""
    document = openapi_of(build(make_app()).api)
    parts = [HEAD, "## Routes\n"]
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            parts.append(_route(f"{method.upper()} {path}", told))
    parts.append("## Bodies\n")
    schemas = document["components"]["schemas"]
    parts += [_body(name, told) for name, told in schemas.items() if "examples" in told]
    parts.append("## Codes\n")
    parts.append(_codes())
    return "\n".join(parts)


def _route(title: str, told: dict[str, Any]) -> str:
    role = told.get("x-aura-role")
    about = {"run": ", within the token's workflows", "body": ", within the token's workflows"}
    limits = about.get(told.get("x-aura-about", ""), "")
    lines = [f"### `{title}`\n", f"{' '.join(told['description'].split())}\n"]
    lines.append(f"Who: {role}{limits}.\n" if role else "Who: everybody.\n")
    for one in told.get("parameters", ()):
        need = "needed" if one["required"] else "optional"
        lines.append(f"- `{one['name']}` ({one['in']}, {need})")
    body = told.get("requestBody", {}).get("content", {}).get("application/json", {})
    if body:
        name = body["schema"]["$ref"].rpartition("/")[2]
        lines.append(f"- body: `{name}`")
    return "\n".join(lines) + "\n"


def _body(name: str, told: dict[str, Any]) -> str:
    fields = ", ".join(f"`{one}`" for one in told.get("properties", {})) or "none"
    example = json.dumps(told["examples"][0])
    about = " ".join(told["description"].split())
    return f"### `{name}`\n\n{about}\n\nFields: {fields}.\n\n    {example}\n"


def _codes() -> str:
    seen: dict[str, int] = {code: status for status, code in CODES.values()}
    gate = {
        "token-missing": 401, "token-invalid": 401, "token-expired": 401, "token-revoked": 401,
        "role-too-low": 403, "token-limited": 403, "workflow-not-allowed": 403,
        "host-not-allowed": 403, "origin-not-allowed": 403, "not-found": 404,
        "method-not-allowed": 405, "unsupported-media-type": 415, "locked-out": 429,
        "rate-limited": 429, "bad-request": 400, "head-too-slow": 408, "head-too-large": 431,
        "too-many-connections": 503,
    }  # fmt: skip
    rows = sorted({**seen, **gate}.items(), key=lambda pair: (pair[1], pair[0]))
    return "| status | code |\n| --- | --- |\n" + "".join(f"| {s} | `{c}` |\n" for c, s in rows)


if __name__ == "__main__":
    print(text(), end="")
