"""What a process knows of a split, and what it therefore obeys.

    epoch 5, confirmed ──no look succeeds for `freshness`──▶ epoch 5, lapsed: the baseline serves
            ▲                                                        │
            ╰───────────── a look finds epoch 5 (or a newer one) ────╯

Only a split that is being moved lapses: its candidate is on trial, and a rollback that this
process cannot hear of may have happened. One whose rollout has ended is obeyed as it is.

Invariants: (1) the epoch that is obeyed never goes back, so a unit never gets the bad arm here
after it has seen a newer epoch; (2) a look counts from when it began, so an answer that was long
on its way, or a process that was stopped meanwhile, confirms nothing that may be over.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from aura.clock import Clock
from aura.delivery.split import Split

log = logging.getLogger("aura.delivery")

FRESHNESS = 2.0
"""Seconds for which a split that is being moved is obeyed without a confirmation."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a process says of a split: `age` is how many seconds ago it was confirmed (None: never),
    `lapsed` that its baseline serves because that is too long."""

    split: str
    epoch: int
    baseline: str
    weights: dict[str, float]
    moving: bool
    forced: str
    age: float | None
    lapsed: bool


class SplitHolder:
    """A cell with the newest split heard of; requests read it, the app replaces it.

    Without a clock nothing lapses. `lapses` counts how often the baseline had to serve because
    nobody could confirm the split.
    """

    __slots__ = ("_clock", "_confirmed", "_current", "_fallen", "_freshness", "_lapsed", "lapses")

    def __init__(
        self,
        split: Split | None = None,
        *,
        clock: Clock | None = None,
        freshness: float = FRESHNESS,
    ) -> None:
        self._current = split
        self._fallen = split and split.at_baseline()
        self._clock = clock
        self._freshness = freshness
        self._confirmed: float | None = None
        self._lapsed = False
        self.lapses = 0

    @property
    def current(self) -> Split | None:
        """What is to be obeyed now, None while there is no split."""
        if self._current is None or not self._current.moving or self._fresh():
            return self._current
        self._fall()
        return self._fallen

    @property
    def lapsed(self) -> bool:
        """Whether the baseline serves because nobody confirms the split."""
        return self._current is not None and self._current.moving and not self._fresh()

    def offer(self, split: Split) -> bool:
        """Obey this split from the next request on; False when it is not newer than the one
        that is obeyed: news may arrive late and in any order, and never take effect then."""
        if self._current is not None and split.epoch <= self._current.epoch:
            return False
        self._current = split
        self._fallen = split.at_baseline()
        return True

    def confirm(self, epoch: int, moment: float) -> None:
        """A look that began then (on the monotonic clock) has found this to be the newest epoch.

        One that is older than what is obeyed confirms nothing.
        """
        if self._current is None or epoch != self._current.epoch:
            return
        self._confirmed = moment if self._confirmed is None else max(moment, self._confirmed)
        if self._lapsed and self._fresh():
            self._lapsed = False
            log.warning("split %s is confirmed again: epoch %d", self._current.name, epoch)

    def known(self) -> Known | None:
        """What is known now; None while there is no split."""
        split = self._current
        if split is None:
            return None
        age = None
        if self._clock is not None and self._confirmed is not None:
            age = round(self._clock.monotonic() - self._confirmed, 3)
        obeyed = self._fallen if self.lapsed and self._fallen else split
        weights = {arm.name: arm.weight for arm in obeyed.arms}
        return Known(
            split.name, split.epoch, split.baseline, weights, split.moving, split.forced, age,
            self.lapsed,
        )  # fmt: skip

    def _fresh(self) -> bool:
        if self._clock is None:
            return True
        if self._confirmed is None:
            return False
        return self._clock.monotonic() - self._confirmed <= self._freshness

    def _fall(self) -> None:
        if not self._lapsed and self._current is not None:
            self._lapsed = True
            self.lapses += 1
            log.warning(
                "split %s was not confirmed for %g s (is the database away?); until it is, "
                "%s serves everybody",
                self._current.name, self._freshness, self._current.baseline,
            )  # fmt: skip
