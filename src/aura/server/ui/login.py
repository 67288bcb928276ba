"""Logging in and out: two plain pages, without scripts."""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qs, quote

from starlette.responses import HTMLResponse, Response
from starlette.types import Receive

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
LONGEST = 4096
"""Bytes of a form."""


def login_page(
    app_name: str, target: str, *, wrong: str = "", status: int = 200, headers: dict[str, str]
) -> Response:
    """The form for a token; `wrong` says why the one before was not taken."""
    said = f'<p class="problem" role="alert">{escape(wrong)}</p>' if wrong else ""
    action = escape(f"/login?next={quote(target, safe='')}")
    return _page(
        "Log in",
        f"""<main class="login card"><div class="brand"><img src="/_aura/favicon.svg" alt="" \
width="32" height="32"><span class="brand-text"><strong>Aura</strong>\
<span class="muted">{escape(app_name)}</span></span></div>
<h1>Log in</h1>{said}
<form method="post" action="{action}">
<label class="field"><span>Token</span><input class="input" type="password" name="token" \
required autofocus autocomplete="current-password" spellcheck="false" maxlength="200" \
placeholder="aura_…"></label>
<button class="button primary" type="submit">Log in</button></form>
<p class="muted">Whoever runs this server makes tokens with</p>
<pre class="code command" tabindex="0">aura token create --name you --role operator</pre></main>""",
        status,
        headers,
    )


def again_page(target: str, headers: dict[str, str]) -> Response:
    """Sends a browser here once more: it does not show strict cookies to who comes from another
    site's link, but to who comes from here."""
    there = escape(target)
    body = (
        f'<main class="login card"><p><a class="link" href="{there}">Go on to Aura</a></p></main>'
    )
    head = f'<meta http-equiv="refresh" content="0; url={there}">'
    return _page("Aura", body, 200, headers, head)


def _page(title: str, body: str, status: int, headers: dict[str, str], head: str = "") -> Response:
    return HTMLResponse(
        f"""<!doctype html><html lang="en"><head><meta charset="utf-8">\
<title>{escape(title)} · Aura</title>{head}
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="/_aura/favicon.svg"><link rel="stylesheet" href="/_aura/aura.css"></head>
<body class="aura">{body}</body></html>""",
        status,
        {"content-security-policy": POLICY, **headers},
    )


async def form_of(receive: Receive) -> dict[str, str] | None:
    """The fields of a form; None when it is too long or none."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LONGEST or message["type"] == "http.disconnect":
            return None
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=10)
    except (ValueError, UnicodeDecodeError):
        return None
    return {name: values[-1] for name, values in fields.items()}


def inside(target: str) -> str:
    """Where to go after the login: a path of this server, or the first page."""
    fine = target.startswith("/") and not target.startswith(("//", "/\\", "/login", "/logout"))
    return target if fine and target.isprintable() else "/"
