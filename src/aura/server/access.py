"""Who may ask the HTTP API what.

`Gate` is in front of everything: it finds out who asks. Without tokens that is this machine only:
the peer's address must be loopback, and so must be the Host, so that a web page cannot read runs by
pointing a name of its own at 127.0.0.1. Once there is a token every request needs one.

`GuardedRoute` is every route of the API: it compares the caller with what the route says it needs
(`needs`) before anything of the request is read, and writes changes to the audit log before they
are tried. A route that says nothing is for admins without limits.

`Door`, `admit` and `carry_out` are what it does that with; the dashboard's pages use the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from urllib.parse import quote, unquote, unquote_to_bytes

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aura.app import Aura
from aura.errors import AuraError
from aura.gateway.problems import Problem
from aura.masking import shown_with
from aura.server import audit
from aura.server.audit import Change
from aura.server.hosts import host_of, is_loopback_name
from aura.server.limits import Guesses, Rates
from aura.server.operations import no_run, storable
from aura.server.problems import HEADERS, Refused, answer, problem_of
from aura.server.tokens import Keeper, Role, Token, ranks, read
from aura.server.traced import routed

T = TypeVar("T")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
ROOM = 1024 * 1024
"""Bytes that a request's body may have beyond the largest payload."""

About = Literal["run", "body", "all"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `workflows` is what they are limited to; empty: nothing."""

    name: str
    role: Role
    address: str
    workflows: tuple[str, ...] = ()

    def may_see(self, workflow: str) -> bool:
        return not self.workflows or workflow in self.workflows

    def require(self, workflow: str) -> None:
        """Raises Refused for a workflow that the caller's token is not for."""
        if not self.may_see(workflow):
            allowed = ", ".join(self.workflows)
            raise Refused(
                Problem(403, "workflow-not-allowed", f"this token is for the workflows {allowed}")
            )


@dataclass(frozen=True, slots=True)
class Needs:
    """What a route needs. `about`: "run", its `run_id` says which workflow it is about; "body", its
    code looks at the caller itself; "all", it is about everything, which limited tokens are not
    shown. `names` are the parts of the body, as in "plan.name", that say what is changed."""

    role: Role = "admin"
    about: About = "all"
    names: tuple[str, ...] = ()


def needs(role: Role, about: About = "all", names: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a route says (`openapi_extra`) about who may ask, and what the audit log tells."""
    told = {"x-aura-names": list(names)} if names else {}
    return {"x-aura-role": role, "x-aura-about": about, **told}


def caller_of(request: Request) -> Caller:
    """Who asks, as the gate has found out."""
    found = request.scope.get("aura.caller")
    if not isinstance(found, Caller):  # another application in front: nobody is let in
        raise Refused(Problem(401, "token-missing", "nobody has said who asks", headers=_BEARER))
    return found


_BEARER = ((b"www-authenticate", b"Bearer"),)
_JSON = "application/json"
_NAMING = (
    *("workflow", "version", "id", "action", "ids", "state", "cursor", "dry_run"),
    *("kind", "topic", "group", "since", "start", "end"),
)


@dataclass(slots=True)
class Door:
    """Who is let in: all faces of a process share one, so that guesses and requests are counted
    together."""

    app: Aura
    guesses: Guesses = field(default_factory=Guesses)
    rates: Rates = field(default_factory=Rates)
    keeper: Keeper = field(init=False)

    def __post_init__(self) -> None:
        self.keeper = Keeper(self.app)

    async def caller(self, scope: Scope) -> Caller:
        """Who sends a request: whom its token says, or without tokens whoever is on this machine.
        Raises Refused for whom nothing is shown, and StoreUnavailable."""
        scheme, _, given = header_of(scope, b"authorization").strip().partition(" ")
        text = given if scheme.lower() == "bearer" else ""
        tokens = await self.keeper.all(text)
        if not tokens:
            return local_caller(scope)
        if not scheme:
            raise _unauthorized("token-missing", "send a token: Authorization: Bearer aura_…")
        token, caller = self.holder(text, address_of(scope), tokens)
        self.pay(token)
        return caller

    def holder(self, text: str, address: str, tokens: Mapping[str, Token]) -> tuple[Token, Caller]:
        """Who holds the token of that text. Raises Refused: also when somebody guesses there."""
        now = self.app.clock.monotonic()
        pair = read(text.strip())
        named = pair[0] if pair else ""
        wait = self.guesses.locked(address, now, named)
        if wait:
            raise _too_many("locked-out", "too many wrong tokens came from your address", wait)
        token = tokens.get(named, _NOBODY)
        if not (pair and token.opens(pair[1])) or token is _NOBODY:
            self.guesses.wrong(address, now)
            raise _unauthorized("token-invalid", "this is no token of this server")
        caller = self.known(token, address)
        self.guesses.right(address, token.id)
        return token, caller

    def known(self, token: Token, address: str) -> Caller:
        """Who holds this token, which was shown before. Raises Refused when it no longer holds."""
        state = token.state(self.app.time.now())
        if state != "live":
            raise _unauthorized(f"token-{state}", f"this token is {state}; ask for a new one")
        return Caller(token.name, token.role, address, token.workflows)

    def pay(self, token: Token) -> None:
        """Count a request of a token. Raises Refused when it asks too often."""
        wait = self.rates.take(token.id, self.app.clock.monotonic())
        if wait:
            raise _too_many("rate-limited", "this token asks too often", wait)


@dataclass(slots=True)
class Gate:
    """The ASGI application around the API; see the module's docstring. `public` are the paths that
    everybody may have."""

    inner: ASGIApp
    door: Door
    public: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        scope = {**scope, "path": routed_path(scope)}
        try:
            if scope["path"] not in self.public:
                scope["aura.caller"] = await self.door.caller(scope)
            most = self.door.app.config.max_payload + ROOM
            _check_length(scope, most)
        except (AuraError, Refused) as error:
            await answer(problem_of(error))(scope, receive, send)
            return
        caller = scope.get("aura.caller")
        with shown_with(self.door.app.config.masking.mask(caller.role if caller else "")):
            await self.inner(scope, _bounded(receive, most), _with_headers(send))


def local_caller(scope: Scope) -> Caller:
    """Who asks while there are no tokens. Raises Refused for others than this machine."""
    address = address_of(scope)
    if not is_loopback_name(host_of(header_of(scope, b"host"))) or not _is_here(address):
        raise Refused(
            Problem(
                403,
                "host-not-allowed",
                "without tokens the API answers requests of this machine to localhost only; "
                "make one with: aura token create",
            )
        )
    _check_origin(scope)
    return Caller("local", "admin", address)


_NOBODY = Token("", "", "viewer", (), "0" * 64, 0.0)


class GuardedRoute(APIRoute):
    """See the module's docstring."""

    @property
    def needs(self) -> Needs:
        told = self.openapi_extra or {}
        names = tuple(told.get("x-aura-names", ()))
        return Needs(told.get("x-aura-role", "admin"), told.get("x-aura-about", "all"), names)

    @property
    def asked(self) -> frozenset[str]:
        """The names of what may stand in the query."""
        return frozenset(one.alias for one in self.dependant.query_params)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        go_on = super().get_route_handler()

        async def handle(request: Request) -> Response:
            routed(request.scope, self.path_format)
            caller = caller_of(request)
            app: Aura = request.app.state.aura
            asked = f"{request.method} {request.url.path[:200]}"
            await admit(app, caller, self.needs, asked, request.path_params.get("run_id"))
            _require_known(request, self.asked)
            if request.method in SAFE:
                return await go_on(request)
            _require_json(request)
            body = await _told(request, self.needs)
            change = Change(
                self.name.format_map(request.path_params)[:60], caller.name, caller.role, "http",
                caller.address, reason_of(request, body), _target(request, self.needs, body),
            )  # fmt: skip
            return await carry_out(app, change, lambda: go_on(request))

        return handle


async def admit(
    app: Aura, caller: Caller, needed: Needs, asked: str, run_id: str | None = None
) -> None:
    """Raises Refused for a caller who may not have what is `asked` for (a few words), and
    RunNotFound for a run that is not theirs to know of."""
    if not ranks(caller.role, needed.role):
        detail = f"{asked} needs the role {needed.role}"
        raise Refused(Problem(403, "role-too-low", f"{detail}; this token is {caller.role}"))
    if not caller.workflows or needed.about == "body":
        return
    if needed.about == "all":
        raise Refused(
            Problem(403, "token-limited", "this token is limited to runs of its workflows")
        )
    run = await app.store.run(run_id) if run_id and storable(run_id) else None
    if run is None or not caller.may_see(run.workflow):
        raise no_run(str(run_id))


async def carry_out(app: Aura, change: Change, do: Callable[[], Awaitable[T]]) -> T:
    """Do what was admitted: the audit log has it before, and why it failed. Raises what it raises,
    and StoreUnavailable when the log cannot be written: then nothing is done."""
    number = await audit.record(app, change)
    try:
        return await do()
    except Exception as error:
        await audit.failed(app, change, number, problem_of(error).code)
        raise


class _Segment(Convertor[str]):
    """One part of a path, which may have any characters, also `/`, when they are encoded."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote(value)

    def to_string(self, value: str) -> str:
        return quote(value, safe="")


register_url_convertor("segment", _Segment())


def routed_path(scope: Scope) -> str:
    """The path as it was sent, each segment encoded in one way, so that `a%2Fstate` is an id and
    `a/state` is not."""
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    parts = raw.split(b"?")[0].split(b"/")
    return "/".join(quote(unquote_to_bytes(part), safe="") for part in parts)


def address_of(scope: Scope) -> str:
    """The peer's address; "" for a socket of this machine."""
    return str((scope.get("client") or ("",))[0])


def header_of(scope: Scope, name: bytes) -> str:
    """The first header of that name (in lower case), or ""."""
    found = (value for key, value in scope["headers"] if key == name)
    return next(found, b"").decode("latin-1")


def _is_here(address: str) -> bool:
    return not address or is_loopback_name(address)  # none: a socket of this machine


def _check_origin(scope: Scope) -> None:
    """Without tokens a browser on this machine may do everything: pages of others must not use it.
    Raises Refused."""
    origin = header_of(scope, b"origin")
    if not origin or scope.get("method") in SAFE:
        return
    if not is_loopback_name(host_of(origin.rpartition("//")[2])):
        detail = "pages of other origins may not change anything"
        raise Refused(Problem(403, "origin-not-allowed", detail))


def _require_known(request: Request, known: frozenset[str]) -> None:
    """A filter that is misspelt must not show everything. Raises Refused."""
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        shown = unknown[0][:60].encode("utf-8", "backslashreplace").decode()
        told = f"it may have {', '.join(sorted(known))}" if known else "it takes none"
        detail = f"the query has {shown!r}; {told}"
        raise Refused(Problem(422, "invalid-input", detail, field=shown))


def _require_json(request: Request) -> None:
    """Also when there is nothing to say (`{}`): web pages cannot send it without being asked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _JSON:
        detail = f"send JSON (content-type: {_JSON}), {{}} for nothing"
        raise Refused(Problem(415, "unsupported-media-type", detail))


async def _told(request: Request, needed: Needs) -> dict[str, Any]:
    """The body of a request that says there what it is to change; else nothing."""
    if needed.about == "run":
        return {}
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        return {}  # the route says what is wrong with it
    return body if isinstance(body, dict) else {}


def _target(request: Request, needed: Needs, body: Mapping[str, Any]) -> dict[str, str]:
    """What is to be changed, as the audit log names it: never payloads."""
    target = {name: str(value) for name, value in request.path_params.items()}
    for name in needed.names or _NAMING:
        value: Any = body
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value not in (None, False, "", []):
            target[name.rpartition(".")[2]] = _short(value)
    return target


def _short(value: object) -> str:
    found = value if isinstance(value, str) else json.dumps(value)
    return found[: audit.LONGEST]


def reason_of(request: Request, body: Mapping[str, Any] | None = None) -> str:
    """Why, in the words of who changes something: the header's, or else those of the body."""
    header = unquote(request.headers.get("aura-reason", ""))
    given = (body or {}).get("reason", "")
    return (header or (given if isinstance(given, str) else ""))[: audit.LONGEST]


def _check_length(scope: Scope, most: int) -> None:
    length = header_of(scope, b"content-length")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > most):
        raise _too_large(most)


def _bounded(receive: Receive, most: int) -> Receive:
    """Bodies that do not say how long they are stop where they become too long."""
    got = 0

    async def bounded() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > most:
            raise _too_large(most)
        return message

    return bounded


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message.get("headers", ())}
            missing = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
            kept = list(message.get("headers", ()))
            message["headers"] = kept + [one for one in missing if one[0] not in there]
        await send(message)

    return sending


def _too_large(most: int) -> Refused:
    return Refused(Problem(413, "payload-too-large", f"the body has more than {most} bytes"))


def _unauthorized(code: str, detail: str) -> Refused:
    return Refused(Problem(401, code, detail, headers=_BEARER))


def _too_many(code: str, detail: str, wait: float) -> Refused:
    seconds = str(max(1, math.ceil(wait)))
    headers = ((b"retry-after", seconds.encode()),)
    return Refused(Problem(429, code, f"{detail}; try again in {seconds} s", headers=headers))
