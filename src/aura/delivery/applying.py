"""Carrying out what files want: look, and when nothing is refused, write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from aura.delivery.catalog import Catalog
from aura.delivery.gitops import Change, Desired, Known, refused
from aura.delivery.rollouts import Rollouts
from aura.errors import RolloutError
from aura.store.base import PutDocument, Store, Writer

PLANS = "plan"


@dataclass(frozen=True, slots=True)
class Applier:
    """What `look` and `carry_out` work with: an open app's catalog, rollouts, store and writer."""

    catalog: Catalog
    rollouts: Rollouts
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
        return [note for one in starts for note in await self._start(one, by)]

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
