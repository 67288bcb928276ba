"""Sessions of the dashboard: who has shown a token has a cookie in its place.

They live in the memory of their process, as hashes: a restart or another process asks for the token
again, and neither a database nor a core file has anything to log in with. A session is over
with its token, `LIFETIME` after it began, and `IDLE` after it was used last.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

LIFETIME = 12 * 3600.0
IDLE = 2 * 3600.0
MOST = 10_000
"""So many at once; then the one that was used longest ago is over."""

NAME = "aura_session"


@dataclass(slots=True)
class _Session:
    token: str
    began: float
    used: float


class Sessions:
    """All sessions of a process; times are seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def begin(self, token: str, now: float) -> str:
        """A session for who has shown the token of that id; the cookie's secret."""
        secret = secrets.token_urlsafe(32)
        self._known[digest(secret)] = _Session(token, now, now)
        while len(self._known) > MOST:
            self._known.popitem(last=False)
        return secret

    def token(self, key: str, now: float) -> str | None:
        """The id of the token behind a session (by the digest of its secret), which is thereby
        used; None when there is none any more."""
        one = self._known.get(key)
        if one is None:
            return None
        if not (now - one.began < LIFETIME and now - one.used < IDLE):
            del self._known[key]
            return None
        one.used = now
        self._known.move_to_end(key)
        return one.token

    def end(self, key: str) -> None:
        """It is over."""
        self._known.pop(key, None)


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def cookie(secret: str, *, secure: bool) -> str:
    """The header that gives a browser its session; with "" the one that takes it away. `secure`
    says that the browser speaks TLS: then no other host of the domain can set it either."""
    name = f"__Host-{NAME}" if secure else NAME
    age = round(LIFETIME) if secret else 0
    also = "; Secure" if secure else ""
    return f"{name}={secret}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{also}"


def read_cookie(header: str, *, secure: bool) -> str:
    """The session's secret in a Cookie header, or ""."""
    try:
        found = SimpleCookie(header)
    except CookieError:
        return ""
    one = found.get(f"__Host-{NAME}" if secure else NAME)
    return one.value if one is not None else ""
