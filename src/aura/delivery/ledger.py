"""What has been learnt about the arms of a choice: a fold of its log. Pure.

The log (a feed) has a line for each choice, reward, outcome, trip and release. Folding the same
lines gives the same ledger in every process.

    choice  ──reward──▶ counted              its arm's belief changes
       │ pending
       └──horizon over──▶ counted as `overdue`, or left out; what comes later changes nothing

An arm that fails more often than is allowed is *tripped*: the evidence is the Beta-binomial
e-process against the allowed rate (`aura.stats.eprocess`), so one may look after every outcome. It
stays tripped until it is released; then its failures count anew.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from aura.errors import CodecError
from aura.stats.bandit import Beta, Normal
from aura.stats.eprocess import as_evidence, log_evidence
from aura.stats.linear import Regression

Kind = Literal["choice", "reward", "outcome", "trip", "release"]
MOST_PENDING = 100_000
"""Choices that may wait for a reward; beyond it the oldest one's time is over."""
_MOST_UNTOLD = 10_000  # choices whose time is over and that may still tell how their path ended


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log.

    `id` names the choice ("" in a reward: all pending choices of `run`), `value` is the reward (0
    to 1), the probability of a choice, or 1.0 (0.0) for a good (failed) outcome. `until` is when
    the choice's time is over, `overdue` what it counts as then (None: not at all). `tells` says of
    a choice that an outcome with its id will follow, which counts once however often it is told.
    """

    kind: Kind
    at: float
    arm: str = ""
    id: str = ""
    run: str = ""
    value: float = 0.0
    until: float = math.inf
    overdue: float | None = None
    context: Mapping[str, float] = field(default_factory=dict)
    by: str = ""
    tells: bool = False

    def to_json(self) -> bytes:
        """Compact JSON; what says nothing is left out."""
        body = {name: value for name, value in asdict(self).items() if value not in ("", None, {})}
        if self.until == math.inf:
            del body["until"]
        if not self.tells:
            del body["tells"]
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes, at: float) -> Line:
        """Read what `to_json` wrote; `at` is when the database wrote it. That is its time from now
        on, and `until` moves with it: processes whose clocks differ mean the same. Raises
        CodecError."""
        try:
            line = cls(**{"at": at, **json.loads(data)})
            float(line.value)
            line = replace(line, at=at, until=line.until + at - line.at)
        except (ValueError, TypeError, RecursionError) as error:
            raise CodecError(
                f"a line of a choice's log cannot be read: {error}",
                hint="It was not written by Aura",
            ) from error
        return line


@dataclass(slots=True)
class Arm:
    """`rewarded` of the `choices` have a reward; `total` is the sum of those. `failed` and `good`
    count outcomes since the arm was last released."""

    choices: int = 0
    rewarded: int = 0
    total: float = 0.0
    overdue: int = 0
    failed: int = 0
    good: int = 0
    tripped: str = ""
    regression: Regression | None = None

    @property
    def mean(self) -> float:
        """The mean reward; 0.0 before the first one."""
        return self.total / self.rewarded if self.rewarded else 0.0

    def belief(self, context: Mapping[str, float] | None) -> Beta | Normal:
        """What is believed of its reward, in this context if there is one."""
        if context is None:
            return Beta(1 + self.total, 1 + self.rewarded - self.total)
        return (self.regression or Regression()).belief(context)

    def evidence(self, allowed: float) -> float:
        """The e-value against "it fails in at most this share of its choices"."""
        return as_evidence(log_evidence(self.failed, self.good, allowed))

    def add(self, reward: float, context: Mapping[str, float]) -> None:
        """One more reward."""
        self.rewarded += 1
        self.total += reward
        if context:
            self.regression = self.regression or Regression()
            self.regression.add(context, reward)


class Ledger:
    """`ignored` counts rewards without a pending choice, and lines that could not be used."""

    def __init__(self) -> None:
        self.arms: dict[str, Arm] = {}
        self.ignored = 0
        self._pending: dict[str, Line] = {}
        self._told: set[str] = set()  # of the pending ones
        self._untold: dict[str, None] = {}  # of those that are over
        self._of_run: dict[str, list[str]] = {}
        self._due: list[tuple[float, str]] = []

    @property
    def pending(self) -> int:
        """How many choices wait for their reward."""
        return len(self._pending)

    def __contains__(self, id: str) -> bool:
        """Whether the choice of that id waits for its reward."""
        return id in self._pending

    def arm(self, name: str) -> Arm:
        """What is known of an arm; a new one knows nothing."""
        return self.arms.setdefault(name, Arm())

    def fold(self, line: Line) -> None:
        """Take in one line, in the log's order."""
        self._expire(line.at)
        if line.kind == "choice":
            self._chosen(line)
        elif line.kind == "reward":
            self._rewarded(line)
        elif line.kind == "outcome":
            self._ended(line)
        elif line.kind == "trip":
            self.arm(line.arm).tripped = line.by or "tripped"
        else:
            arm = self.arm(line.arm)
            arm.tripped, arm.failed, arm.good = "", 0, 0

    def _ended(self, line: Line) -> None:
        """How a path ended: told again by whoever died between the log and the journal."""
        if line.id in self._pending and line.id not in self._told:
            self._told.add(line.id)
        elif line.id in self._untold:
            del self._untold[line.id]
        elif line.id:
            self.ignored += 1
            return
        arm = self.arm(line.arm)
        arm.good += line.value > 0
        arm.failed += line.value <= 0

    def _chosen(self, line: Line) -> None:
        before = self._drop(line.id)  # a worker died between the log and the journal
        if before is not None:
            self.arm(before.arm).choices -= 1
        self.arm(line.arm).choices += 1
        self._wait(line)
        if len(self._pending) > MOST_PENDING:
            self._count(next(iter(self._pending.values())), None)

    def _wait(self, line: Line) -> None:
        self._pending[line.id] = line
        self._of_run.setdefault(line.run, []).append(line.id)
        if line.until < math.inf:
            heapq.heappush(self._due, (line.until, line.id))

    def _rewarded(self, line: Line) -> None:
        ids = [line.id] if line.id else list(self._of_run.get(line.run, ()))
        found = [self._pending[one] for one in ids if one in self._pending]
        if not found:
            self.ignored += 1
        for choice in found:
            self._count(choice, line.value)

    def _expire(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            until, id = heapq.heappop(self._due)
            choice = self._pending.get(id)
            if choice is not None and choice.until == until:
                self._count(choice, None)

    def _count(self, choice: Line, reward: float | None) -> None:
        if choice.tells and choice.id not in self._told:
            self._untold[choice.id] = None
            if len(self._untold) > _MOST_UNTOLD:
                del self._untold[next(iter(self._untold))]
        self._drop(choice.id)
        arm = self.arm(choice.arm)
        if reward is None:
            arm.overdue += 1
            reward = choice.overdue
        if reward is None:
            return
        try:
            arm.add(reward, choice.context)
        except ValueError:  # a feature too many
            self.ignored += 1

    def _drop(self, id: str) -> Line | None:
        choice = self._pending.pop(id, None)
        self._told.discard(id)
        if choice is not None:
            left = [one for one in self._of_run[choice.run] if one != id]
            if left:
                self._of_run[choice.run] = left
            else:
                del self._of_run[choice.run]
        return choice

    def to_dict(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        arms = {}
        for name, arm in self.arms.items():
            arms[name] = {one: getattr(arm, one) for one in _COUNTS}
            if arm.regression is not None:
                arms[name]["regression"] = arm.regression.to_dict()
        pending = [json.loads(line.to_json()) for line in self._pending.values()]
        told = {"told": sorted(self._told), "untold": list(self._untold)}
        return {"arms": arms, "pending": pending, "ignored": self.ignored, **told}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ledger:
        """Read what `to_dict` gave. Raises ValueError, KeyError or TypeError."""
        new = cls()
        for name, body in data["arms"].items():
            arm = new.arm(name)
            for one in _COUNTS:
                setattr(arm, one, body[one])
            if "regression" in body:
                arm.regression = Regression.from_dict(body["regression"])
        for body in data["pending"]:
            new._wait(Line(**body))
        new.ignored = int(data["ignored"])
        new._told = set(data["told"])
        new._untold = dict.fromkeys(data["untold"])
        return new


_COUNTS = ("choices", "rewarded", "total", "overdue", "failed", "good", "tripped")


def folded(lines: Iterable[Line], ledger: Ledger | None = None) -> Ledger:
    """The ledger of these lines, on top of another one if there is one."""
    ledger = ledger or Ledger()
    for line in lines:
        ledger.fold(line)
    return ledger
