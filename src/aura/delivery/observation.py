"""An observation: what one request of one unit experienced on one arm."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aura.errors import CodecError


@dataclass(frozen=True, slots=True)
class Observation:
    """One request's outcome. Raises CodecError when a number is not finite.

    `split`, `epoch`   by which the unit was assigned
    `arm`, `unit`      who it was and where it was sent
    `at`               when it ended, epoch seconds
    `ok`, `latency`    the arm's own outcome and seconds, also when a fallback answered the user
    `share`            the candidate's share of traffic at assignment, 0.0 to 1.0
    `fallback`         the baseline answered in the candidate's place
    `user_ok`          what the user saw
    `error`            why it failed, short
    `shadow`           it was a copy: the user never saw it
    `differences`      the field paths in which a shadow's answer differed from the baseline's
    `run`              the id of the run behind it, when there was one
    `metrics`          numbers of its own by name, such as cost and tokens
    """

    split: str
    epoch: int
    arm: str
    unit: str
    at: float
    ok: bool
    latency: float
    share: float = 0.0
    fallback: bool = False
    user_ok: bool = True
    error: str = ""
    shadow: bool = False
    differences: tuple[str, ...] = ()
    run: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not math.isfinite(self.at):
            raise _wrong("at", self.at, "give finite epoch seconds")
        if not (math.isfinite(self.latency) and self.latency >= 0):
            raise _wrong("latency", self.latency, "give seconds, 0 or more")
        if not 0 <= self.share <= 1:
            raise _wrong("share", self.share, "give 0 to 1")
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                raise _wrong(f"metric {name}", value, "give a finite number")

    def to_json(self) -> bytes:
        """Compact JSON: what has its default is left out."""
        body: dict[str, Any] = {
            "split": self.split,
            "epoch": self.epoch,
            "arm": self.arm,
            "unit": self.unit,
            "at": self.at,
            "ok": self.ok,
            "latency": self.latency,
        }
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value != default:
                body[name] = value
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Observation:
        """Read what `to_json` wrote; unknown keys are ignored. Raises CodecError."""
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise CodecError(
                f"an observation is not JSON: {error}", hint="it was not written by Aura"
            ) from error
        if not isinstance(body, dict):
            raise CodecError(
                f"an observation is a JSON {type(body).__name__}", hint="it must be an object"
            )
        return cls(**{name: _field(body, name, kind) for name, kind in _KINDS.items()})


_DEFAULTS: dict[str, Any] = {
    "share": 0.0,
    "fallback": False,
    "user_ok": True,
    "error": "",
    "shadow": False,
    "differences": (),
    "run": "",
    "metrics": {},
}

_KINDS: dict[str, type] = {
    "split": str,
    "epoch": int,
    "arm": str,
    "unit": str,
    "at": float,
    "ok": bool,
    "latency": float,
    "share": float,
    "fallback": bool,
    "user_ok": bool,
    "error": str,
    "shadow": bool,
    "differences": tuple,
    "run": str,
    "metrics": dict,
}


def _field(body: dict[str, Any], name: str, kind: type) -> Any:
    if name not in body:
        if name in _DEFAULTS:
            return _DEFAULTS[name]
        raise CodecError(f"an observation has no {name}", hint="it was not written by Aura")
    value = body[name]
    if kind is float and type(value) is int:
        return _finite(name, value)
    if kind is dict and isinstance(value, dict):
        return {key: _field(value, key, float) for key in value}
    if kind is tuple and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if type(value) is not kind:
        raise _wrong(name, value, f"give a {'list of str' if kind is tuple else kind.__name__}")
    return value


def _finite(name: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise _wrong(name, value, "give a finite number") from error


def _wrong(name: str, value: object, hint: str) -> CodecError:
    return CodecError(f"an observation's {name} is {str(value)[:40]!r}", hint=hint)
