"""What a process has folded of a rollout: only in memory, the feeds give it again."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from aura.delivery.curve import Curve
from aura.delivery.evidence import Tally
from aura.delivery.guard import Judgement
from aura.delivery.observation import Observation
from aura.delivery.odd import Odd
from aura.delivery.plan import Pair, Plan
from aura.delivery.status import RolloutStatus, Seen
from aura.delivery.turn import Leg
from aura.errors import CodecError
from aura.store.base import FeedItem, Store

log = logging.getLogger("aura.delivery")

PAGE = 1_000  # items of a feed that are folded at a time


def left_after(items: Sequence[FeedItem]) -> float:
    """Since when there may be more behind a page of a feed, in epoch seconds of the database;
    infinite when that was all."""
    return items[-1].at if len(items) == PAGE else math.inf


class Backlog:
    """How far one look reads: as far as the feeds went when it began. Observations may come faster
    than a busy process folds them, and that must not put off a decision for ever."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._began: float | None = None

    async def remains(self, left: float) -> bool:
        """Whether there is more to fold before the decision; `left` as in `left_after`."""
        if left == math.inf:
            return False
        if self._began is None:
            self._began = await self._store.moment()
        return left <= self._began


@dataclass(slots=True)
class Track:
    """One split. After a hold the evidence begins anew while the counts go on; until then both are
    one tally. `position` is the item of the feed that was folded last."""

    pair: Pair
    evidence: Tally
    counts: Tally
    position: int
    odd: Odd = field(default_factory=Odd)

    def take(self, items: Sequence[FeedItem]) -> None:
        """Fold these items of the feed; what cannot be read is counted and logged."""
        for item in items:
            self.position = item.seq
            try:
                observation = self.odd.judge(Observation.from_json(item.payload), item.at)
                self.counts.fold(observation)
                if self.evidence is not self.counts:
                    self.evidence.fold(observation)
            except (CodecError, ArithmeticError, ValueError) as error:
                self.odd.unreadable += 1
                name = self.pair.split
                log.warning("observation %d of %s is left out: %s", item.seq, name, error)


@dataclass(slots=True)
class Live:
    """One rollout. `since` as in its Leg; `shown` is what was published last, by epoch; `curve` is
    what was written of it over time (`aura.delivery.curve`)."""

    since: tuple[int, ...]
    tracks: tuple[Track, ...]
    looked: float = 0.0
    published: float = 0.0
    shown: tuple[int, RolloutStatus] | None = None
    curve: Curve | None = None

    @property
    def tripped(self) -> Judgement | None:
        """The judgement of the guard that tripped first, in any split."""
        trips = [trip for track in self.tracks if (trip := track.evidence.tripped) is not None]
        return min(trips, key=lambda trip: trip.at, default=None)

    def tallies(self) -> tuple[Tally, ...]:
        """The evidence of each split."""
        return tuple(track.evidence for track in self.tracks)

    def seen(self, epochs: tuple[int, ...]) -> tuple[Seen, ...]:
        """For a status, with the splits at these epochs."""
        return tuple(
            Seen(track.evidence, track.counts, epoch)
            for track, epoch in zip(self.tracks, epochs, strict=True)
        )

    def notes(self) -> tuple[str, ...]:
        """What is odd about the observations."""
        several = len(self.tracks) > 1
        return tuple(
            note
            for track in self.tracks
            for note in track.odd.notes(track.pair.split if several else "")
        )


def live_of(plan: Plan, leg: Leg) -> Live:
    """Nothing folded yet, at that leg."""
    tracks = []
    for at, pair in enumerate(plan.pairs):
        counts = Tally(plan, since=leg.opened[at], pair=pair)
        anew = leg.since[at] != leg.opened[at]
        evidence = Tally(plan, since=leg.since[at], pair=pair) if anew else counts
        tracks.append(Track(pair, evidence, counts, leg.mark.observations[at]))
    return Live(leg.since, tuple(tracks))
