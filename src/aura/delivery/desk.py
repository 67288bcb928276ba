"""What an app has for changing what runs: `app.rollouts`, `app.experiments`, and the short ways to
tell what units experienced."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from aura.clock import Clock
from aura.delivery.admission import admit
from aura.delivery.catalog import Catalog
from aura.delivery.experiments import Assignment, Experiments
from aura.delivery.flow import Flows
from aura.delivery.inflight import Forks
from aura.delivery.learning import Learning
from aura.delivery.rollouts import Rollouts
from aura.engine import Registry
from aura.store.base import Store, Sweep, Writer


class Desk:
    """The part of an app that is about delivery; it is open while the app is."""

    rollouts: Rollouts
    experiments: Experiments
    catalog: Catalog
    flows: Flows
    learning: Learning

    def observe(
        self,
        assignment: Assignment,
        *,
        ok: bool = True,
        latency: float = 0.0,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Hand in what one request of a unit experienced: whether it went well, its seconds, and
        numbers by name. Never blocks; written within a moment.

        `assignment` is what `app.experiments.assign(split, unit)` gave. Raises CodecError for
        numbers that are not finite.
        """
        self.experiments.observe(assignment, ok=ok, latency=latency, metrics=metrics)

    async def reward(
        self, name: str, unit: str, value: float, *, metric: str, id: str = ""
    ) -> None:
        """Tell what a unit of an experiment, or of a split, turned out to be worth, be it days
        later; durable when this returns. Two rewards of the same `id` are one.

        Raises CodecError for a value that is not finite, and ExperimentError when there is neither
        an experiment nor a split of that name.
        """
        await self.experiments.reward(name, unit, value, metric=metric, id=id)

    def _set_desk(self, forks: Forks, registry: Registry) -> None:
        self.rollouts = rollouts = Rollouts(forks)
        self.experiments = Experiments(rollouts)
        self.catalog = Catalog(registry)
        self.flows = Flows()
        registry.lent[Flows] = self.flows
        registry.starting = self.catalog.started
        self.learning = Learning(rollouts)
        own = (self.experiments.engine.workflow, self.learning.workflow)
        for workflow in (*rollouts.workflows, *own):
            registry.add(workflow)

    def _open_desk(self, store: Store, writer: Writer, clock: Clock, start: Any, run: Any) -> None:
        self.catalog.open(store, writer, clock)
        self.rollouts.admit = partial(admit, self.catalog, clock)
        self.rollouts.open(store, writer, clock, start, run)
        self.experiments.open(store, writer, clock, start)
        self.flows.open(store, writer, clock)
        self.learning.open(store, writer, clock, start, run)

    def _watch_desk(self) -> None:
        """In a process with a worker."""
        self.rollouts.watch()

    async def _close_desk(self) -> None:
        self.experiments.close()
        await self.catalog.close()
        await self.rollouts.close()

    async def _sweep_desk(self, age: float) -> Sweep:
        plan = await self.experiments.sweep_plan(await self.rollouts.sweep_plan(age))
        return await self.flows.sweep_plan(plan)
