"""When to try a step again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from aura.errors import CodecError, NonRetryable, TransactionError


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff with equal jitter.

    `attempts` is how often to try again after the first time; `first` and `longest` are seconds;
    `never` are exception types that are not tried again. Source of the jitter: Brooker,
    "Exponential Backoff And Jitter" (2015).
    """

    attempts: int = 0
    first: float = 0.2
    factor: float = 2.0
    longest: float = 60.0
    never: tuple[type[BaseException], ...] = ()

    def delay(self, attempt: int, random: float) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1); `random` in [0, 1)."""
        exponent = min(attempt - 1, 64)
        return min(self.longest, self.first * self.factor**exponent) * (0.5 + random / 2)

    def again(self, attempt: int, error: BaseException) -> bool:
        """Whether attempt number `attempt` (from 1) that failed so is followed by another."""
        if isinstance(error, (NonRetryable, CodecError, TransactionError, *self.never)):
            return False
        return attempt <= self.attempts
