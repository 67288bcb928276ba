"""A late reward: what a unit turned out to be worth, told after its requests."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from aura.errors import CodecError


@dataclass(frozen=True, slots=True)
class Reward:
    """One reward; two of the same `id` are one. Raises CodecError for what is not finite."""

    unit: str
    metric: str
    value: float
    id: str

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise _wrong("value", self.value, "give a number")
        if not math.isfinite(self.value):
            raise _wrong("value", self.value, "give a finite number")
        for name in ("unit", "metric", "id"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text:
                raise _wrong(name, text, "give text that is not empty")

    def to_json(self) -> bytes:
        """Compact JSON."""
        body = {"unit": self.unit, "metric": self.metric, "value": self.value, "id": self.id}
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Reward:
        """Read what `to_json` wrote. Raises CodecError."""
        try:
            body: Any = json.loads(data)
            return cls(body["unit"], body["metric"], float(body["value"]), body["id"])
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            raise CodecError(
                f"a reward cannot be read: {type(error).__name__}: {error}",
                hint="it was not written by Aura",
            ) from error


def _wrong(name: str, value: object, hint: str) -> CodecError:
    return CodecError(f"a reward's {name} is {str(value)[:40]!r}", hint=hint)
