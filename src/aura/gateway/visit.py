"""One request on its way: what the gateway decided about it. Pure but for fresh keys."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aura.delivery.observation import Observation
from aura.delivery.split import Split
from aura.gateway.client import BodyStream, Scope
from aura.gateway.config import Route
from aura.gateway.headers import Origin, for_target, length_of, value
from aura.gateway.http_target import IDEMPOTENT
from aura.gateway.targets import Request


@dataclass(slots=True)
class Visit:
    """Where a request was sent, and whether its observation was given.

    `seed` is the constant part of that observation; `mirror` is "" when no copy is wanted;
    `started` is on the monotonic clock.
    """

    route: Route
    baseline: str
    mirror: str
    seed: Observation
    request: Request
    started: float
    told: bool = False

    @property
    def arm(self) -> str:
        return self.seed.arm

    @property
    def candidate(self) -> bool:
        """Whether it was sent to another arm than the baseline."""
        return self.arm != self.baseline


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went: the arm's own error ("" for none), time, run and numbers, and what the user
    saw."""

    ok: bool
    error: str
    seconds: float
    run: str
    fallback: bool
    user_ok: bool
    metrics: Mapping[str, float] = field(default_factory=dict)

    def told_of(self, seed: Observation, at: float) -> Observation:
        """The observation, complete."""
        return replace(
            seed,
            at=at,
            ok=self.ok,
            latency=self.seconds,
            error=self.error,
            run=self.run,
            fallback=self.fallback,
            user_ok=self.user_ok,
            metrics=self.metrics,
        )


def assign(route: Route, split: Split | None, unit: str) -> tuple[Observation, str, str]:
    """(the constant part of the observation, baseline, mirror) under the split of now.

    Without a split all is the route's baseline's, at epoch 0.
    """
    if split is None:
        return _seed(route.split, 0, route.baseline, unit, 0.0), route.baseline, ""
    arm = split.assign(unit)
    mirror = split.mirror_for(unit)
    share = split.share(arm) if arm != split.baseline else 1.0 - split.share(arm)
    seed = _seed(split.name, split.epoch, arm, unit, share)
    return seed, split.baseline, "" if mirror == arm else mirror


def request_of(route: Route, scope: Scope, origin: Origin, body: bytes | BodyStream) -> Request:
    """The request as every target gets it.

    On a route with fallback, a method that is not idempotent gets an idempotency key. Sent to the
    same target twice is only what is idempotent, or what the client itself has given a key.
    """
    headers = for_target(scope["headers"], origin)
    key = value(headers, b"idempotency-key")
    method = scope["method"]
    repeatable = key is not None
    if key is None and route.fallback and method not in IDEMPOTENT:
        key = uuid.uuid4().hex.encode()
        headers.append((b"idempotency-key", key))
    query = scope.get("query_string", b"")
    path = scope.get("raw_path") or scope["path"].encode()
    return Request(
        route.path,
        method,
        path + b"?" + query if query else path,
        tuple(headers),
        body,
        key=(key or b"").decode("latin-1"),
        announced=value(scope["headers"], b"content-length") is not None,
        repeatable=repeatable,
    )


def origin_of(scope: Scope, *, trusted: bool) -> Origin:
    """Who connected, and whether to believe what it says about others."""
    client = scope.get("client")
    return Origin(client[0] if client else "unknown", scope.get("scheme", "http"), trusted)


def announced_length(scope: Scope) -> int | None:
    """The body's length in bytes: None for chunks, 0 when no field announces a body."""
    length = length_of(scope["headers"])
    if length is None and value(scope["headers"], b"transfer-encoding") is None:
        return 0
    return length


def _seed(split: str, epoch: int, arm: str, unit: str, share: float) -> Observation:
    return Observation(split, epoch, arm, unit, at=0.0, ok=True, latency=0.0, share=share)
