"""In front of the pages: who may come in, and what browsers are told about it.

Without tokens the dashboard is open on this machine, by the API's rule (`Door`). With tokens there
is a login. Either way a page is bound to who opened it: its connection must come from the same
origin and session, says things for this page only, and is asked again with everything that is said
on it whether its session is still good.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote

from nicegui import Client
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aura.errors import AuraError
from aura.gateway.problems import Problem
from aura.server.access import (
    Caller,
    Door,
    address_of,
    header_of,
    local_caller,
    routed_path,
)  # fmt: skip
from aura.server.problems import Refused, problem_of
from aura.server.ui import SOCKET
from aura.server.ui.login import again_page, form_of, inside, login_page
from aura.server.ui.sessions import Sessions, cookie, digest, read_cookie

log = logging.getLogger("aura.server")

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""What pages may load. Why it is not stricter: docs/decisions.md."""

OPEN = ("/_aura/", "/favicon.ico")
"""The look of the login page; everybody may have it."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Who has opened something: a session, or without tokens this machine. `key` names which."""

    scope: Scope
    door: Door
    sessions: Sessions
    key: str

    async def caller(self) -> Caller:
        """Raises Refused when the session is over, and StoreUnavailable."""
        tokens = await self.door.keeper.all()
        if not tokens:
            return local_caller(self.scope)
        named = self.sessions.token(self.key, self.door.app.clock.monotonic())
        token = tokens.get(named or "")
        if token is None:
            raise Refused(Problem(401, "session-over", "nobody is logged in here, or no longer"))
        return self.door.known(token, address_of(self.scope))

    async def pay(self) -> None:
        """Count a page against its token's rate. Raises Refused."""
        tokens = await self.door.keeper.all()
        token = tokens.get(self.sessions.token(self.key, self.door.app.clock.monotonic()) or "")
        if token is not None:
            self.door.pay(token)


class Front:
    """The ASGI application around the pages; see the module's docstring."""

    def __init__(self, pages: ASGIApp, door: Door) -> None:
        self._pages = GZipMiddleware(_WithPolicy(pages), minimum_size=1000)
        self._door = door
        self._sessions = Sessions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        secure = _is_secure(scope)
        secret = read_cookie(header_of(scope, b"cookie"), secure=secure)
        opened = Opened(scope, self._door, self._sessions, digest(secret) if secret else "")
        own = {
            **scope,
            "path": scope["path"] if scope["path"].startswith("/_") else routed_path(scope),
            "headers": [one for one in scope["headers"] if one[0] != b"x-forwarded-prefix"],
            "aura.session": opened,
        }
        if scope["type"] == "websocket":
            await self._connect(opened, own, receive, send)
            return
        answer = await self._answer(opened, own, receive)
        inner: ASGIApp = self._pages if answer is None else answer
        await inner(own, receive, _with_headers(send))

    async def _answer(self, opened: Opened, scope: Scope, receive: Receive) -> Response | None:
        """What is said in the pages' place; None when they may speak."""
        path, method = scope["path"], scope["method"]
        if method not in ("GET", "HEAD"):
            if method != "POST" or path not in ("/login", "/logout"):
                return PlainTextResponse("nothing takes this here", 405, {"allow": "GET, HEAD"})
            if not is_own(scope):
                return PlainTextResponse("pages of other origins may not log in or out", 403)
            if path == "/logout":
                return self._logout(opened, scope)
            return await self._login(opened, scope, receive)
        if path.startswith(SOCKET):
            return PlainTextResponse("this is a WebSocket", 426, {"upgrade": "websocket"})
        if path.startswith(OPEN):
            return None
        try:
            scope["aura.caller"] = await opened.caller()
            if not path.startswith("/_"):
                await opened.pay()
        except (AuraError, Refused) as error:
            return self._refusal(opened, scope, error)
        return RedirectResponse(_target(scope), 303) if path == "/login" else None

    def _refusal(self, opened: Opened, scope: Scope, error: BaseException) -> Response:
        """What who is not let in is shown: the login page, where that helps."""
        said = problem_of(error)
        if scope["path"] == "/login" and said.status == 401:
            return self._form(scope)
        if said.status != 401 or not _is_navigation(scope):
            return PlainTextResponse(said.detail, said.status)
        here = _here(scope)
        if not opened.key and header_of(scope, b"sec-fetch-site") == "cross-site":
            return again_page(here, _FRESH)
        return RedirectResponse(f"/login?next={quote(here, safe='')}", 303, _FRESH)

    async def _login(self, opened: Opened, scope: Scope, receive: Receive) -> Response:
        form = await form_of(receive)
        if form is None:
            return PlainTextResponse("this is no form with a token", 413)
        address = address_of(scope)
        try:
            text = form.get("token", "")
            tokens = await self._door.keeper.all(text)
            if not tokens:
                local_caller(scope)
                return RedirectResponse(_target(scope), 303)
            token, caller = self._door.holder(text, address, tokens)
        except (AuraError, Refused) as error:
            said = problem_of(error)
            return self._form(scope, wrong=said.detail, status=said.status)
        self._sessions.end(opened.key)
        secret = self._sessions.begin(token.id, self._door.app.clock.monotonic())
        log.info("%s has logged in to the dashboard from %s", caller.name, address or "a socket")
        given = {"set-cookie": cookie(secret, secure=_is_secure(scope)), **_FRESH}
        return RedirectResponse(_target(scope), 303, given)

    def _logout(self, opened: Opened, scope: Scope) -> Response:
        self._sessions.end(opened.key)
        taken = {"set-cookie": cookie("", secure=_is_secure(scope)), **_FRESH}
        return RedirectResponse("/login", 303, taken)

    def _form(self, scope: Scope, *, wrong: str = "", status: int = 200) -> Response:
        name = self._door.app.name
        return login_page(name, _target(scope), wrong=wrong, status=status, headers=_FRESH)

    async def _connect(self, opened: Opened, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a page keep its connection."""
        client = _client_of(scope)
        try:
            await opened.caller()
            mine = client is not None and is_own(scope) and _opened_by(client).key == opened.key
        except (AuraError, Refused):
            mine = False
        known = scope["path"].startswith(f"{SOCKET}socket.io/")  # nothing else is there
        if client is None or not mine or not known:
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._pages(scope, _heard(opened, client.id, receive), send)


class _WithPolicy:
    """Names the scripts that belong to a page: nothing else runs in it. All data in a page is
    escaped where it is written (`<` is `&lt;`), so what says `<script` is the template's."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        nonce = secrets.token_urlsafe(16)
        start: MutableMapping[str, Any] = {}
        body = b""

        async def sending(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                if not _is_page(message):
                    await send(message)
            elif not _is_page(start):
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await _send_page(send, start, body, nonce)

        await self._inner(scope, receive, sending)


async def _send_page(send: Send, start: MutableMapping[str, Any], body: bytes, nonce: str) -> None:
    body = _SCRIPT.sub(b'<script nonce="%s"' % nonce.encode(), body)
    dropped = (b"content-length", b"content-security-policy")
    kept = [one for one in start["headers"] if one[0] not in dropped]
    policy = POLICY.format(nonce=nonce).encode()
    kept += [(b"content-length", b"%d" % len(body)), (b"content-security-policy", policy)]
    await send({**start, "headers": kept})
    await send({"type": "http.response.body", "body": body})


_SCRIPT = re.compile(rb"<script(?=[\s>])")
_FRESH = {"cache-control": "no-store"}


def _is_page(start: MutableMapping[str, Any]) -> bool:
    kinds = (value for name, value in start.get("headers", ()) if name == b"content-type")
    return next(kinds, b"").startswith(b"text/html")


def _heard(opened: Opened, client: str, receive: Receive) -> Receive:
    """What is said on a page's connection, as long as its session is good; what is said for other
    pages ends it."""

    async def hearing() -> Message:
        while True:
            message = await receive()
            if message["type"] != "websocket.receive":
                return message
            text = message.get("text")
            if text is None or not is_for(text, client):
                return {"type": "websocket.disconnect", "code": 1008}
            if not text.startswith("42"):
                return message  # that it is still there
            try:
                await opened.caller()
            except (AuraError, Refused):
                continue  # the page itself finds out, and leads to the login
            return message

    return hearing


def is_for(text: str, client: str) -> bool:
    """Whether a packet of Socket.IO says nothing for another page than this one."""
    if not text.startswith("4"):
        return True  # Engine.IO's own: ping and pong
    if text[1:2] in ("0", "1"):
        return len(text) < 1000  # connect and disconnect
    found = _EVENT.match(text)
    if found is None:
        return False
    try:
        _, *told = json.loads(text[found.end() - 1 :])
    except (ValueError, RecursionError):
        return False
    return all(isinstance(one, dict) and one.get("client_id") == client for one in told)


_EVENT = re.compile(r"42\d{0,9}\[")


def is_own(scope: Scope) -> bool:
    """Whether a page of this very server sends it: browsers always say it."""
    origin = header_of(scope, b"origin")
    site = header_of(scope, b"sec-fetch-site")
    _, _, host = origin.partition("://")
    return bool(host) and host == header_of(scope, b"host") and site in ("", "same-origin")


def _client_of(scope: Scope) -> Client | None:
    named = parse_qs(scope["query_string"].decode("latin-1")).get("client_id", [""])
    return Client.instances.get(named[0])


def _opened_by(client: Client) -> Opened:
    found = client.request.scope["aura.session"]
    assert isinstance(found, Opened)  # noqa: S101  (every request of a page has one)
    return found


def _is_secure(scope: Scope) -> bool:
    """Whether the browser speaks TLS, to us or to the proxy before us. Who claims it and does not
    gets a cookie that does not work for them."""
    told = header_of(scope, b"x-forwarded-proto").lower()
    return scope["scheme"] in ("https", "wss") or told == "https"


def _is_navigation(scope: Scope) -> bool:
    mode = header_of(scope, b"sec-fetch-mode")
    return mode == "navigate" or (not mode and "text/html" in header_of(scope, b"accept"))


def _here(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return inside(scope["path"] + (f"?{query}" if query else ""))


def _target(scope: Scope) -> str:
    told = parse_qs(scope["query_string"].decode("latin-1")).get("next", ["/"])
    return inside(told[0])


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name for name, _ in message.get("headers", ())}
            more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in there]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sending
