"""What people see of an experiment: a value that is published while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aura.delivery.analysis import Comparison, Counters, Findings, Ratio
from aura.delivery.conclude import ExperimentState, Status
from aura.delivery.experiment import Experiment
from aura.delivery.layers import Range
from aura.delivery.status import Event, GuardStatus, first_by
from aura.errors import CodecError


@dataclass(frozen=True, slots=True)
class ExperimentStatus:
    """An experiment at a moment.

    `weights` are the split's now, of the units that take part; `began` and `looked` are epoch
    seconds of the database. `comparisons` have the primary metric's first; `guards` are by
    candidate. `ranges` are its places in its layer, `holdout` the places that are in no
    experiment, both of 10,000. `opened` is the epoch with which it began, None until a worker has
    taken it up and when it was refused. `turn` turns were taken. `by` began it.
    """

    name: str
    run: str
    experiment: Experiment
    state: Status
    reason: str
    weights: Mapping[str, float]
    epoch: int
    began: float = 0.0
    looked: float = 0.0
    winner: str = ""
    dropped: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    guards: Mapping[str, tuple[GuardStatus, ...]] | None = None
    ratio: Ratio | None = None
    counters: Counters | None = None
    ranges: tuple[Range, ...] = ()
    holdout: int = 0
    history: tuple[Event, ...] = ()
    opened: int | None = None
    turn: int = 0
    by: str = ""

    @property
    def split(self) -> str:
        """The split whose units it assigns."""
        return self.experiment.split

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state not in ("running", "held")

    def begun_by(self, by: str) -> ExperimentStatus:
        """The same with who began it, also in the first line of its history."""
        return replace(self, by=by, history=first_by(self.history, by))

    def to_json(self) -> bytes:
        """Compact JSON; the same status gives the same bytes."""
        return _adapter().dump_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> ExperimentStatus:
        """Read what `to_json` wrote; unknown keys are ignored. Raises CodecError."""
        try:
            return _adapter().validate_json(data)
        except ValidationError as error:
            raise CodecError(
                f"a stored experiment cannot be read: {error}",
                hint="It was not written by this version of Aura; start the experiment again",
            ) from error

    def plain(self) -> dict[str, Any]:
        """As JSON values, for `--json` and the HTTP API."""
        found: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return found


@cache
def _adapter() -> TypeAdapter[ExperimentStatus]:
    return TypeAdapter(ExperimentStatus)


def evidence_of(findings: Findings) -> dict[str, Any]:
    """What a status shows of the findings, for `dataclasses.replace`."""
    return {
        "comparisons": findings.comparisons,
        "guards": {
            arm: tuple(
                GuardStatus(one.guard, one.verdict, one.evidence, one.limit, one.reason)
                for one in found
            )
            for arm, found in findings.judgements.items()
        },
        "ratio": findings.ratio,
        "counters": findings.counters,
    }


def weights_of(experiment: Experiment, state: ExperimentState) -> dict[str, float]:
    """The split's weights in that state, by arm. A rollout begins from the baseline."""
    if state.status == "won" and experiment.then is None:
        return {arm: float(arm == state.winner) for arm, _ in experiment.arms}
    if state.ended:
        return {arm: float(arm == experiment.baseline) for arm, _ in experiment.arms}
    gone = dict(state.dropped)
    weights = {arm: 0.0 if arm in gone else weight for arm, weight in experiment.arms}
    weights[experiment.baseline] += sum(experiment.weight(arm) for arm in gone)
    return weights
