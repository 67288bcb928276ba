"""What the faces of Aura have in common about experiments: forecast, start, look, end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from aura.app import Aura
from aura.delivery.conclude import Order
from aura.delivery.experiment import Experiment, parse_experiment
from aura.delivery.experiment_status import ExperimentStatus
from aura.delivery.forecast import Forecast, Traffic
from aura.delivery.layers import Layer, size_of
from aura.errors import PlanError, UnknownExperiment
from aura.server.drivers import is_driven
from aura.server.given import read_given
from aura.server.operations import storable
from aura.stats.hashing import BUCKETS


@dataclass(frozen=True, slots=True)
class LayerView:
    """A layer: the share of it that is free, 0.0 to 1.0, and the experiments in it."""

    name: str
    free: float
    experiments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExperimentList:
    """All experiments by name, the layers, and the share of units that is in no experiment."""

    experiments: tuple[ExperimentStatus, ...]
    layers: tuple[LayerView, ...]
    holdout: float


@dataclass(frozen=True, slots=True)
class ExperimentStarted:
    """An experiment that was started, None in a dry run, and how long it is going to take. Without
    `driven` no worker is there to watch it."""

    experiment: ExperimentStatus | None
    forecast: Forecast
    driven: bool


@dataclass(frozen=True, slots=True)
class ExperimentOrder:
    """An order that is recorded, and the experiment as it was then."""

    order: str
    experiment: ExperimentStatus
    driven: bool


async def read_experiment(experiment: dict[str, Any], rollout: dict[str, Any] | None) -> Experiment:
    """An experiment that was sent, and the rollout that follows it. Raises PlanError."""
    if rollout is not None and "alerts" in rollout:
        raise PlanError(
            "rollout.alerts: a plan that is sent has no alerts of its own",
            hint="Leave them out, or start the experiment with `aura experiment start FILE`",
        )
    sections = {"experiment": experiment} | ({} if rollout is None else {"rollout": rollout})
    return await read_given(sections, parse_experiment)


async def list_experiments(app: Aura) -> ExperimentList:
    """All of them."""
    layers, holdout = await app.experiments.layers()
    return ExperimentList(
        tuple(map(_shown, await app.experiments.all())),
        tuple(map(_layer, layers)),
        holdout / BUCKETS,
    )


async def show_experiment(app: Aura, name: str) -> ExperimentStatus:
    """One of them, with the confidence sequence of each comparison over time (`points`). Raises
    UnknownExperiment."""
    return _shown(await app.experiments.status(_known(name)))


async def forecast_of(
    app: Aura, experiment: Experiment, traffic: Traffic | None = None
) -> ExperimentStarted:
    """How long it would take and what it could find; nothing is started."""
    found = await app.experiments.plan(experiment, traffic)
    return ExperimentStarted(None, found, await is_driven(app, app.experiments.engine.workflow))


async def start_experiment(app: Aura, experiment: Experiment, *, by: str) -> ExperimentStatus:
    """Begin; the experiment once a worker has taken it up. Raises ExperimentError, LayerError."""
    return _shown(await app.experiments.start(experiment, by=by))


async def order_experiment(
    app: Aura, name: str, order: Order, *, by: str, reason: str = "", arm: str = ""
) -> ExperimentOrder:
    """Tell it to stop, or to end with an arm as the winner (`promote`). Raises UnknownExperiment,
    ExperimentError."""
    found = await app.experiments.order(_known(name), order, arm=arm, reason=reason, by=by)
    driven = await is_driven(app, app.experiments.engine.workflow)
    return ExperimentOrder(order, _shown(found), driven)


async def reward_unit(app: Aura, name: str, reward: tuple[str, str, float], id: str = "") -> None:
    """Tell what a unit turned out to be worth: (unit, metric, value). Raises UnknownExperiment,
    CodecError."""
    unit, metric, value = reward
    await app.reward(_known(name), unit, value, metric=metric, id=id)


def _shown(status: ExperimentStatus) -> ExperimentStatus:
    """Without the alerts of the rollout that follows: their addresses may be secrets."""
    then = status.experiment.then
    if then is None or not then.alerts:
        return status
    return replace(status, experiment=replace(status.experiment, then=replace(then, alerts=())))


def _layer(layer: Layer) -> LayerView:
    names = tuple(tenant.experiment for tenant in layer.tenants)
    return LayerView(layer.name, size_of(layer.free) / BUCKETS, names)


def _known(name: str) -> str:
    if not storable(name):
        raise UnknownExperiment("there is no experiment of that name", hint="Use other characters")
    return name
