"""Which header fields pass a gateway, and what it adds. Pure; names are lower case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aura.errors import RequestRefused

Pairs = Sequence[tuple[bytes, bytes]]
PairList = list[tuple[bytes, bytes]]

OWN = b"x-aura-"
_TOKEN = re.compile(rb"\baura_[0-9a-f]{12}_")
_SESSION = re.compile(rb"[ \t]*(__Host-)?aura_session[ \t]*(=.*)?", re.DOTALL)  # the dashboard's
VIA = (b"via", b"1.1 aura")

HOP_BY_HOP = frozenset(  # RFC 9110 7.6.1, and the proxy's own authentication (11.7)
    [
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    ]
)
REWRITTEN = frozenset([b"host", b"content-length", b"expect"])
FORWARDED = frozenset([b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"])
NO_BODY = frozenset([204, 304])
MOST_FIELDS = 200
LARGEST_HEAD = 64 * 1024  # bytes
FRAMED = frozenset(["POST", "PUT", "PATCH"])  # an empty body is announced, RFC 9110 8.6


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from. `trusted`: its own X-Forwarded-* are to be believed."""

    address: str
    scheme: str
    trusted: bool = False


def value(headers: Pairs, name: bytes) -> bytes | None:
    """The first value of a field, None when it is absent."""
    for key, content in headers:
        if key == name:
            return content
    return None


def tokens(headers: Pairs, name: bytes) -> set[bytes]:
    """The comma-separated members of every field line of that name, in lower case."""
    return {
        token.strip().lower()
        for key, content in headers
        if key == name
        for token in content.split(b",")
        if token.strip()
    }


def end_to_end(headers: Pairs) -> PairList:
    """Without hop-by-hop fields, those that Connection names, and Aura's own."""
    named = tokens(headers, b"connection")
    return [
        (name, content)
        for name, content in headers
        if name not in HOP_BY_HOP and name not in named and not name.startswith(OWN)
    ]


def _is_ours(name: bytes, content: bytes) -> bool:
    """Whether it is a token of Aura's own API, which is no target's business."""
    return name == b"authorization" and _TOKEN.search(content) is not None


def _without_session(headers: Pairs) -> PairList:
    """Without the cookie of Aura's dashboard, which browsers send to whatever its host serves."""
    result: PairList = []
    for name, content in headers:
        if name == b"cookie" and b"aura_session" in content:
            kept = [one for one in content.split(b";") if not _SESSION.fullmatch(one)]
            content = b";".join(kept).strip()
            if not content:
                continue
        result.append((name, content))
    return result


def for_target(headers: Pairs, origin: Origin) -> PairList:
    """A client's fields as they go on to any target; Host and the length are the target's part."""
    kept = _without_session(end_to_end(headers))
    result = [
        (name, content)
        for name, content in kept
        if name not in REWRITTEN and name not in FORWARDED and not _is_ours(name, content)
    ]
    host = value(headers, b"host") or b""
    trail = origin.address.encode("latin-1", "replace")
    proto = origin.scheme.encode("latin-1", "replace")
    if origin.trusted:
        came = [content for name, content in kept if name == b"x-forwarded-for"]
        trail = b", ".join([*came, trail])
        host = value(kept, b"x-forwarded-host") or host
        proto = value(kept, b"x-forwarded-proto") or proto
        result += [(name, content) for name, content in kept if name == b"forwarded"]
    result += [
        (b"x-forwarded-for", trail),
        (b"x-forwarded-proto", proto),
        (b"x-forwarded-host", host),
        VIA,
    ]
    return result


def client_address(headers: Pairs, origin: Origin) -> str:
    """Who the client is: who connected, or whom a trusted proxy says that it served."""
    if origin.trusted:
        came = [content for name, content in headers if name == b"x-forwarded-for"]
        last = came[-1].rpartition(b",")[2].strip() if came else b""
        return last.decode("latin-1") or origin.address
    return origin.address


def framing(method: str, length: int | None, *, announced: bool) -> PairList:
    """Content-Length for a body of known length; no field means chunks, or no body at all."""
    if length is None or (length == 0 and not announced and method not in FRAMED):
        return []
    return [(b"content-length", b"%d" % length)]


def for_client(headers: Pairs, status: int) -> PairList:
    """A target's fields as they go back to the client."""
    result = [
        (name, content)
        for name, content in end_to_end(headers)
        if status not in NO_BODY or name != b"content-length"
    ]
    result.append(VIA)
    return result


def length_of(headers: Pairs) -> int | None:
    """Content-Length as a number of bytes, None when it is absent or not a number."""
    content = value(headers, b"content-length")
    return int(content) if content is not None and content.isdigit() else None


def refuse_large(headers: Pairs) -> None:
    """Raise RequestRefused for more fields, or more bytes of them, than any client needs."""
    size = sum(len(name) + len(content) for name, content in headers)
    if len(headers) > MOST_FIELDS or size > LARGEST_HEAD:
        raise RequestRefused(
            f"more than {MOST_FIELDS} header fields, or {LARGEST_HEAD} bytes of them",
            status=431,
            code="head-too-large",
        )


def refuse_version(version: str, headers: Pairs) -> None:
    """Raise RequestRefused for other versions than 1.0 and 1.1, and for an HTTP/1.1 request that
    does not have exactly one Host (RFC 9112 3.2)."""
    if version not in ("1.0", "1.1"):
        raise RequestRefused(
            f"HTTP/{version} is not spoken here", status=400, code="http-version", hint="Use 1.1"
        )
    if version == "1.1" and sum(name == b"host" for name, _ in headers) != 1:
        raise RequestRefused("one Host field is needed", status=400, code="bad-host", field="host")


def wants_upgrade(headers: Pairs) -> str:
    """The protocol that a request insists to switch to, "" for none.

    An offer of h2c is none: who makes it is ready to go on in HTTP/1.1 (RFC 9110 7.8), and
    common clients make it on every first request.
    """
    if b"upgrade" not in tokens(headers, b"connection"):
        return ""
    asked = tokens(headers, b"upgrade") - {b"h2c"}
    return b", ".join(sorted(asked)).decode("latin-1")
