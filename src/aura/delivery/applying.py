"""Carrying out what files want: look, and when nothing is refused, write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from aura.delivery.catalog import Catalog
from aura.delivery.decommission import Decommission
from aura.delivery.experiments import Experiments
from aura.delivery.gitops import Change, Desired, Known, refused
from aura.delivery.launches import KIND, Launched, Underway, WantedLaunch, to_launch
from aura.delivery.rollouts import Rollouts
from aura.errors import ExperimentError, RolloutError
from aura.store.base import PutDocument, Store, Writer

PLANS = "plan"


@dataclass(frozen=True, slots=True)
class Applier:
    """What `look` and `carry_out` work with: an open app's catalog, rollouts, experiments, store
    and writer."""

    catalog: Catalog
    rollouts: Rollouts
    experiments: Experiments
    store: Store
    writer: Writer

    async def look(self) -> Known:
        """What there is."""
        desired = {
            document.name: Desired.from_json(document.body)
            for document in await self.store.documents(PLANS)
        }
        rollouts = {status.name: status for status in await self.rollouts.all()}
        moving = {
            split: status.name
            for status in rollouts.values()
            if await self.rollouts.engine.under_way(status)
            for split in status.splits
        }
        return Known(
            await self.catalog.versions(), await self.catalog.cells(), desired, rollouts, moving
        )

    async def look_at_launches(self, moving: Mapping[str, str]) -> Underway:
        """What there is of what files begin; `moving` is that of `look`."""
        launched = {
            (kind, name): Launched.from_json(document.body)
            for document in await self.store.documents(KIND)
            for kind, _, name in [document.name.partition("/")]
        }
        under_way = {
            status.name: status.split
            for status in await self.experiments.all()
            if await self.experiments.engine.under_way(status)
        }
        retiring = {
            one.target: "archived" if one.gone else "being decommissioned"
            for one in await self.rollouts.decommissions.all()
            if one.gone or not one.ended
        }
        return Underway(launched, under_way, moving, retiring)

    async def carry_out(self, found: Sequence[Change], by: str = "") -> list[str]:
        """Make the changes, the catalog's first; what should be known about it. `by` says so.

        A process that dies on the way leaves the first of them: applying the same files again makes
        the rest. Raises ApplyRefused before the first write when one of them is refused.
        """
        error = refused(found)
        if error is not None:
            raise error
        todo = [one for one in found if one.action != "unchanged"]
        for change in todo:
            if change.version is not None:
                await self.catalog.apply(change.version)
        for change in todo:
            if change.desired is not None:
                await self._keep(change.desired)
        starts = [one for one in todo if one.action == "start"]
        notes = [note for one in starts for note in await self._start(one, by)]
        for launch in to_launch(todo):
            notes += await self._launch(launch, by)
        return notes

    async def _launch(self, wanted: WantedLaunch, by: str) -> Iterable[str]:
        notes: tuple[str, ...] = ()
        if isinstance(wanted.value, Decommission):
            run = (await self.rollouts.decommissions.start(wanted.value, by=by)).run
        else:
            try:
                run = (await self.experiments.start(wanted.value, by=by)).run
            except ExperimentError as error:
                begun = await self.experiments.status(wanted.name)
                if not await self.experiments.engine.under_way(begun):
                    raise
                run, notes = begun.run, (str(error),)  # it begins as soon as there is a worker
        body = Launched(wanted.said, run).to_json()
        await self.writer.submit(PutDocument(KIND, f"{wanted.kind}/{wanted.name}", body))
        return notes

    async def _keep(self, desired: Desired) -> None:
        await self.writer.submit(PutDocument(PLANS, desired.plan.name, desired.to_json()))

    async def _start(self, change: Change, by: str) -> Iterable[str]:
        desired = change.desired
        if desired is None:
            return ()
        notes: tuple[str, ...] = ()
        try:
            status = await self.rollouts.start(
                desired.pinned, incompatible=desired.incompatible, by=by
            )
        except RolloutError as error:
            known = {status.name: status for status in await self.rollouts.all()}
            begun = known.get(desired.plan.name)
            if begun is None or not await self.rollouts.engine.under_way(begun):
                raise
            status, notes = begun, (str(error),)  # it begins as soon as there is a worker
        await self._keep(replace(desired, started=status.run))
        return notes
