"""Tokens of the HTTP API: who holds one may do what its role allows.

    aura_<id>_<secret>     id: 12 hexadecimal digits, public; secret: 256 random bits

The database has the SHA-256 of the secret and nothing else of it. A slow hash would add nothing:
2^256 values cannot be tried. Tokens are documents, which are never deleted: once there was one, the
API never again answers without.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal, cast, get_args

from aura.app import Aura
from aura.errors import ConfigError, StoreUnavailable, TokenError
from aura.server.hosts import is_loopback_name
from aura.server.views import time_of
from aura.store.base import Document, PutDocument

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
KIND = "token"
FRESH = 1.0
"""Seconds for which a process believes the tokens that it has read; a revocation holds after it."""

_TEXT = re.compile(r"aura_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[\w.@:-]{1,100}")


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept. `digest` is the SHA-256 of its secret in hexadecimal, `workflows` what
    it is limited to (empty: everything); times are epoch seconds, None for never."""

    id: str
    name: str
    role: Role
    workflows: tuple[str, ...]
    digest: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def state(self, now: float) -> Literal["live", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        return "live" if self.expires_at is None or now < self.expires_at else "expired"

    def opens(self, secret: str) -> bool:
        """Whether this is its secret; takes as long whatever the answer is."""
        return hmac.compare_digest(_digest(secret), self.digest)


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token as it is shown: nothing of its secret."""

    id: str
    name: str
    role: Role
    workflows: tuple[str, ...]
    state: str
    created_at: datetime
    expires_at: datetime | None


def view(token: Token, now: float) -> TokenView:
    """A token as it is shown at a time (epoch seconds)."""
    until = None if token.expires_at is None else time_of(token.expires_at)
    made = time_of(token.created_at)
    return TokenView(
        token.id, token.name, token.role, token.workflows, token.state(now), made, until
    )


def read(text: str) -> tuple[str, str] | None:
    """The id and the secret in a token's text; None when it is none."""
    found = _TEXT.fullmatch(text)
    return (found[1], found[2]) if found else None


def ranks(role: str, needed: str) -> bool:
    """Whether a role may do what `needed` may."""
    return ROLES.index(cast("Role", role)) >= ROLES.index(cast("Role", needed))


async def create(
    app: Aura,
    name: str,
    role: str,
    *,
    workflows: tuple[str, ...] = (),
    seconds: float | None = None,
) -> tuple[Token, str]:
    """Make a token that is valid for so many seconds (None: until it is revoked), and its text,
    which nobody can get again. Raises TokenError."""
    if role not in ROLES:
        raise TokenError(f"there is no role {role!r:.80}", hint=f"Roles: {', '.join(ROLES)}")
    if not _NAME.fullmatch(name):
        raise TokenError(
            "that is no name for a token",
            hint="Up to 100 letters, digits and . _ - : @, as in ci or ann@laptop",
        )
    if workflows and role == "admin":
        raise TokenError(
            "an admin is not limited to workflows", hint="Use the role operator or viewer"
        )
    now = app.time.now()
    if any(one.name == name and one.state(now) == "live" for one in (await load(app)).values()):
        raise TokenError(
            f"there is a token {name} already", hint=f"Revoke it (aura token revoke {name}) first"
        )
    secret = secrets.token_urlsafe(32)
    until = None if seconds is None else now + seconds
    made = Token(secrets.token_hex(6), name, role, workflows, _digest(secret), now, until)
    await _put(app, made, 0)
    return made, f"aura_{made.id}_{secret}"


async def revoke(app: Aura, named: str) -> Token:
    """End a token by its name or id, for good. Raises TokenError when there is none."""
    now = app.time.now()
    known = (await load(app)).values()
    for one in known:
        if named in (one.id, one.name) and one.state(now) == "live":
            ended = replace(one, revoked_at=now)
            await _put(app, ended, None)
            return ended
    shown = named if _NAME.fullmatch(named) and read(named) is None else "of that name"
    raise TokenError(f"there is no live token {shown}", hint="See: aura token list")


async def load(app: Aura) -> dict[str, Token]:
    """All tokens that there ever were, by id."""
    return {one.name: _token(one) for one in await app.store.documents(KIND)}


async def require_token(app: Aura, host: str) -> None:
    """Raises ConfigError for a host on which others can reach a server that has no live token."""
    if is_loopback_name(host):
        return
    now = app.time.now()
    if not any(one.state(now) == "live" for one in (await load(app)).values()):
        raise ConfigError(
            f"the host {host!r} is not this machine's loopback, and there is no token yet",
            hint="Make one first: aura token create --name NAME --role admin",
        )


_NEW = 0.05  # seconds: guesses read the database no more often


class Keeper:
    """The tokens as this process knows them. They are read again when that was `FRESH` seconds
    ago, and sooner for one that is not known: it may be new. While the database is away the last
    ones hold: what can be had without it is little."""

    def __init__(self, app: Aura) -> None:
        self._app = app
        self._known: Mapping[str, Token] | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def all(self, text: str = "") -> Mapping[str, Token]:
        """With that of this text, if there is one. Raises StoreUnavailable when they have never
        been read."""
        pair = read(text.strip())
        async with self._reading:
            now = self._app.clock.monotonic()
            new = self._known is not None and pair is not None and pair[0] not in self._known
            if self._known is None or not 0 <= now - self._read_at < (_NEW if new else FRESH):
                try:
                    self._known = await load(self._app)
                except StoreUnavailable:
                    if self._known is None:
                        raise
                self._read_at = now
            return self._known


async def _put(app: Aura, token: Token, expected: int | None) -> None:
    body = json.dumps(asdict(token)).encode()
    await app.committer.submit(PutDocument(KIND, token.id, body, expected))


def _token(document: Document) -> Token:
    found: dict[str, Any] = json.loads(document.body)
    return Token(**{**found, "workflows": tuple(found["workflows"])})


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
