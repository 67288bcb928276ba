"""What is odd about observations: clocks that are wrong, requests without a unit, copies that could
not be compared or that differ, things that cannot be read. Nothing of it is dropped in silence: it
is counted, and said in the status.

An observation's time is that of the gateway that made it; the feed's item has the time of the
database that wrote it. One that lies in the future (the gateway's clock is ahead) counts as made
when it was written: with its own time it would push everybody else's out of the guards' windows.
One from the past may have waited while the database was away, or the clock is behind; it counts
with its own time. Neither changes which stage it belongs to: that is told by its share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from aura.delivery.observation import Observation

AHEAD = 2.0
"""Seconds by which a time may be ahead of the database's before it is corrected."""

BEHIND = 60.0
"""Seconds by which it may be behind before that is said."""

UNCOMPARED = "not compared: "
"""What the error of a copy begins with whose answer could not be compared, before the reason."""

MOST = 100
"""Fields and reasons that are told apart."""

ADDRESS = "address:"
"""What the unit of a request begins with that named none: its address stands in."""


@dataclass(slots=True)
class Odd:
    """Counts since the rollout began; times in seconds."""

    seen: int = 0
    ahead: int = 0
    behind: int = 0
    most_ahead: float = 0.0
    most_behind: float = 0.0
    nameless: int = 0
    unreadable: int = 0
    split: str = ""
    copies: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    uncompared: Counter[str] = field(default_factory=Counter)

    def judge(self, observation: Observation, written: float) -> Observation:
        """Count it, and give it with the time that it counts with. `written` is when the database
        wrote it, 0.0 when nobody knows."""
        self.seen += 1
        self.nameless += observation.unit.startswith(ADDRESS)
        if observation.shadow:
            self._copy(observation)
        skew = observation.at - written
        if written and skew > AHEAD:
            self.ahead += 1
            self.most_ahead = max(self.most_ahead, skew)
            return replace(observation, at=written)
        if written and skew < -BEHIND:
            self.behind += 1
            self.most_behind = max(self.most_behind, -skew)
        return observation

    def _copy(self, copy: Observation) -> None:
        self.split = copy.split
        self.copies += 1
        if copy.error.startswith(UNCOMPARED):
            _count(self.uncompared, copy.error.removeprefix(UNCOMPARED))
        for name in copy.differences:
            _count(self.fields, name)

    def _of_copies(self) -> Iterator[str]:
        see = f"See: aura shadow report {self.split}"
        if self.uncompared:
            count = self.uncompared.total()
            yield (
                f"{count:,} of {self.copies:,} copies could not be compared "
                f"({_most(self.uncompared)}). {see}"
            )
        if self.fields:
            yield f"copies differ in {_most(self.fields)}. {see}"

    def notes(self, split: str = "") -> tuple[str, ...]:
        """Sentences for people; with the split's name where there are several."""
        found: list[str] = []
        if self.unreadable:
            found.append(f"{self.unreadable:,} observations cannot be read and do not count")
        if self.ahead:
            found.append(
                f"{self.ahead:,} of {self.seen:,} observations came from the future, up to "
                f"{self.most_ahead:,.0f} s: a gateway's clock is ahead; they count as made when "
                "they were written"
            )
        if self.behind:
            found.append(
                f"{self.behind:,} of {self.seen:,} observations were written late, up to "
                f"{self.most_behind:,.0f} s: the database was away, or a gateway's clock is behind"
            )
        if self.nameless:
            found.append(
                f"{self.nameless:,} of {self.seen:,} observations are of requests that named no "
                "unit: their addresses stand in, so who shares one shares an arm"
            )
        found += self._of_copies()
        return tuple(f"{split}: {text}" if split else text for text in found)


def _count(counts: Counter[str], name: str) -> None:
    if name in counts or len(counts) < MOST:
        counts[name] += 1


def _most(counts: Counter[str]) -> str:
    """The three most frequent ones, and how many more there are."""
    told = ", ".join(f"{name}: {count:,}" for name, count in counts.most_common(3))
    more = len(counts) - 3
    return f"{told} and {more:,} more" if more > 0 else told
