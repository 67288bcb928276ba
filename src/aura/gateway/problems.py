"""Error answers as problem documents (RFC 9457), with a stable `code` for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from aura.errors import AuraError, BreakerOpen, RequestRefused, TargetFailed, TargetTimeout


@dataclass(frozen=True, slots=True)
class Problem:
    """One error answer. `field` names the part of the request that is wrong, `run` the run."""

    status: int
    code: str
    detail: str
    field: str = ""
    run: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self) -> bytes:
        """The document: type, title, status, detail, code and, where known, field and run."""
        document: dict[str, object] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.field:
            document["field"] = self.field
        if self.run:
            document["run"] = self.run
        return json.dumps(document).encode()


def refused(error: RequestRefused) -> Problem:
    """What a client reads whose request cannot be served as it is."""
    return Problem(error.status, error.code, str(error), field=error.field)


def failed(arm: str, error: TargetFailed) -> Problem:
    """502, 504 when the time was over, or 503 when it was not asked. The arm is named, its address
    is not."""
    status = 504 if isinstance(error, TargetTimeout) else 502
    if isinstance(error, BreakerOpen):
        wait = b"%d" % max(1, math.ceil(error.retry_after))
        said = f"{arm} is not asked for a while: {error}"
        return Problem(503, error.code, said, headers=((b"retry-after", wait),))
    return Problem(status, error.code, f"{arm} gave no answer: {error}", run=error.run)


def not_found(path: str) -> Problem:
    return Problem(404, "no-route", f"no route of this gateway serves {path[:200]}")


def wrong_method(method: str, allowed: Sequence[str]) -> Problem:
    allow = ", ".join(allowed)
    return Problem(
        405,
        "method-not-allowed",
        f"{method} is not served here; {allow} is",
        headers=((b"allow", allow.encode()),),
    )


def too_busy(limit: int) -> Problem:
    return Problem(
        503,
        "too-many-requests-at-once",
        f"{limit} requests are being served; try again in a second",
        headers=((b"retry-after", b"1"),),
    )


def no_upgrade(protocol: str) -> Problem:
    return Problem(
        501,
        "upgrade-not-supported",
        f"the gateway does not pass protocol upgrades on ({protocol[:100]}); use HTTP/1.1",
        headers=((b"connection", b"close"),),
    )


def internal(error: BaseException) -> Problem:
    """The gateway's own fault: the client learns the kind of error, the log the rest."""
    hint = str(error) if isinstance(error, AuraError) else type(error).__name__
    return Problem(500, "gateway-error", f"the gateway failed: {hint}")
