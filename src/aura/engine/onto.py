"""A run onto another version of its workflow, as a fork at the last point that both agree on.

The recorded journal is rehearsed against the other version's code. What the code asks for in the
same way is kept; from the first entry on that it does not ask for, the fork goes its own way. Steps
that a saga has taken back are not kept either: they have to be done again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from aura.clock import Clock
from aura.engine.backup import back_up
from aura.engine.compensation import undo_key
from aura.engine.definition import Registry
from aura.engine.faults import unreadable
from aura.engine.fork import Fork, fork
from aura.engine.rehearsal import rehearse
from aura.engine.replaying import RunReplay
from aura.errors import AuraError, RunConflict, RunNotFound, UnknownWorkflow
from aura.store.base import Claimed, Entry, Store


class Carried(NamedTuple):
    """A run was forked as `id`, with `kept` entries of its journal and without `again`."""

    id: str
    kept: int
    again: int


class Onto:
    """Forks runs onto other versions, as far as their code is registered in this process."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def attach(self, store: Store, clock: Clock) -> None:
        """Use this store from now on."""
        self._store = store
        self._clock = clock

    async def back_up(self, path: Path) -> dict[str, Any]:
        """Copy the database into a file and read it back; see `back_up`."""
        return (await back_up(self._store, self._clock, path))._asdict()

    async def unfit(self, run_id: str, version: str) -> str:
        """Why the run cannot go on as that version, "" when it can."""
        try:
            replay = await self._rehearsed(await self._history(run_id), version)
        except AuraError as error:
            return str(error)
        raised = [one.message for one in replay.divergences if one.kind == "raises"]
        return raised[0] if raised else ""

    async def fork(self, run_id: str, version: str, new_id: str) -> Carried:
        """Fork a run that has ended; the same id again is the same fork.

        Raises RunNotFound, UnknownWorkflow, RunConflict when the id is another run's.
        """
        history = await self._history(run_id)
        replay = await self._rehearsed(history, version)
        journal = history.journal
        cut = _cut(journal, replay)
        at = None if cut == len(journal) else journal[cut].key
        what = Fork(run_id, new_id, at, version)
        try:
            await fork(self._store, what, self._clock.now())
        except RunConflict:
            there = await self._store.run(new_id)
            if there is None or not there.origin.startswith(f"fork of {run_id}"):
                raise
        return Carried(new_id, cut, len(journal) - cut)

    async def _history(self, run_id: str) -> Claimed:
        """As if nobody had asked it to stop: the fork is not asked either."""
        run = await self._store.run(run_id)
        if run is None:
            raise RunNotFound(f"there is no run {run_id}", hint="List runs with: aura runs list")
        return Claimed(
            run._replace(cancel_requested=False, state="running"),
            await self._store.journal(run_id),
        )

    async def _rehearsed(self, history: Claimed, version: str) -> RunReplay:
        run = history.run
        closed = unreadable(history)
        if closed is not None:
            raise closed
        try:
            workflow = self._registry.get(run.workflow, version)
        except UnknownWorkflow as error:
            raise UnknownWorkflow(
                f"the worker that drives the rollout has no {run.workflow} {version}",
                hint="Deploy both versions together while a rollout is under way",
            ) from error
        return await rehearse(workflow, history)


def _cut(journal: list[Entry], replay: RunReplay) -> int:
    """How many entries are kept. Pure."""
    apart = {one.recorded.key for one in replay.divergences if one.recorded is not None}
    keys = {entry.key for entry in journal}
    apart |= {entry.key for entry in journal if undo_key(entry.key) in keys}
    return next((at for at, entry in enumerate(journal) if entry.key in apart), len(journal))
