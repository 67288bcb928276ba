"""Runs that are under way on the candidate when a rollout is rolled back.

    in_flight: pin          they finish on the version that they began with (the default)
    in_flight: fork         they go on as the baseline's version, from the last point where both
                            versions agree; one that cannot is left pinned, and that is said
    in_flight: compensate   they are cancelled, so that their sagas take back what was done

It begins when the traffic is back already, as steps of the rollout's own run: a list, and then one
batch after the other. A batch may be repeated after a crash: asking a run to stop twice is asking
once, and the id of a fork follows from its original's. A run is asked to stop before it is forked,
because two runs must not go on with the same work; its sagas take back what they did, and the fork
does that anew.

Which runs: those of the candidate's workflow version that began since the rollout did. A run that
another one waits for is left to that one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from aura.clock import Clock
from aura.delivery.arms import Policy, version_of
from aura.delivery.status import InFlight, RolloutStatus
from aura.engine import Retry, Step, own_step
from aura.errors import EpochConflict
from aura.store.base import (
    SETTLED,
    PutDocument,
    RequestCancel,
    RunFilter,
    RunRecord,
    RunState,
    Store,
    Writer,
)

BATCH = 20
"""So many runs are dealt with between two entries of the journal."""

_PASSES = 3  # over the runs: some begin while a process has not heard of the rollback
_ROUNDS = 40  # looks of at most _LOOK seconds at a batch, until its runs have ended
_LOOK = 15.0
_TICK = 0.1
_SHOWN = 100  # runs that the status names one by one
_RETRY = Retry(attempts=20, first=0.1, longest=10.0)
_OPEN: tuple[RunState, ...] = ("pending", "running", "waiting")


class Forks(Protocol):
    """What the engine does for it: see `aura.engine.onto.Onto`."""

    def attach(self, store: Store, clock: Clock) -> None: ...

    async def back_up(self, path: Path) -> dict[str, Any]: ...

    async def unfit(self, run_id: str, version: str) -> str: ...

    async def fork(self, run_id: str, version: str, new_id: str) -> Any: ...


def fork_of(run_id: str, rollout: str) -> str:
    """The id of the fork that a rollout's rollback makes of a run."""
    return f"{run_id[:300]}~{rollout[-150:]}"


class InFlightRuns:
    """The steps that deal with them."""

    def __init__(self, forks: Forks | None) -> None:
        self._forks = forks
        self._list: Step[..., Any] = own_step(
            self._listed, name="in-flight", retry=_RETRY, idempotent=True
        )
        self._fit: Step[..., Any] = own_step(
            self._fitting, name="fit", retry=_RETRY, idempotent=True
        )
        self._ask: Step[..., Any] = own_step(self._asked, name="ask", retry=_RETRY)
        self._settle: Step[..., Any] = own_step(self._settled, name="settle", retry=_RETRY)
        self._report: Step[..., Any] = own_step(
            self._reported, name="report", retry=_RETRY, idempotent=True
        )

    def attach(self, store: Store, writer: Writer, clock: Clock) -> None:
        """Use this store from now on."""
        self._store = store
        self._writer = writer
        self._clock = clock

    async def deal(self, policy: Policy, arms: tuple[str, str], rollout: tuple[str, str]) -> None:
        """Workflow code: `arms` are baseline and candidate, `rollout` its name and its run."""
        if policy == "pin":
            return
        baseline, candidate = version_of(arms[0]), version_of(arms[1])
        name, run = rollout
        onto = baseline[1] if policy == "fork" and baseline else ""
        found: dict[str, str] = {}
        for _ in range(_PASSES):
            listed = await self._list(candidate, run, sorted(found))
            if not listed:
                break
            for at in range(0, len(listed), BATCH):
                batch = listed[at : at + BATCH]
                outcomes = dict(await self._fit(batch, onto))
                await self._ask([one for one in batch if outcomes[one] == "asked"])
                for _ in range(_ROUNDS):
                    left = [one for one in batch if outcomes[one] == "asked"]
                    if not left:
                        break
                    outcomes |= await self._settle(left, policy, onto, run)
                found |= {
                    one: "has been asked to stop and goes on" if what == "asked" else what
                    for one, what in outcomes.items()
                }
                await self._report(name, run, policy, found)
        if not found:
            await self._report(name, run, policy, found)

    async def _listed(
        self, version: tuple[str, str] | None, rollout: str, seen: list[str]
    ) -> list[str]:
        own = await self._store.run(rollout)
        if version is None or own is None:
            return []
        since = own.created_at
        known = set(seen)
        found: list[RunRecord] = []
        for state in _OPEN:
            before: tuple[float, str] | None = None
            while True:
                where = RunFilter(state, version[0], 500, before)
                page = await self._store.runs(where)
                found += [run for run in page if run.version == version[1]]
                if len(page) < where.limit or page[-1].created_at < since:
                    break
                before = (page[-1].created_at, page[-1].id)
        return sorted(
            {
                run.id
                for run in found
                if run.created_at >= since and run.id not in known and not _owned(run)
            }
        )

    async def _fitting(self, batch: list[str], onto: str) -> dict[str, str]:
        """Which runs are to be asked to stop, those that are to be forked only when they can be.

        It is in the journal before any of them is asked: afterwards nobody could tell them from
        those that have ended for other reasons.
        """
        outcomes = {}
        for run_id in batch:
            run = await self._store.run(run_id)
            if run is None or run.state in SETTLED:
                outcomes[run_id] = f"ended by itself: {run.state if run else 'deleted'}"
                continue
            if run.cancel_requested:
                outcomes[run_id] = "is being cancelled by others"
                continue
            unfit = await self._unfit(run_id, onto) if onto else ""
            outcomes[run_id] = f"pinned: {unfit}" if unfit else "asked"
        return outcomes

    async def _asked(self, batch: list[str]) -> None:
        """Ask runs to stop; harmless when they were asked before."""
        for run_id in batch:
            await self._writer.submit(RequestCancel(run_id))

    async def _unfit(self, run_id: str, version: str) -> str:
        if self._forks is None:
            return "this process cannot fork"
        return await self._forks.unfit(run_id, version)

    async def _settled(
        self, batch: list[str], policy: Policy, onto: str, rollout: str
    ) -> dict[str, str]:
        """What became of those that have ended, after a while in which they may."""
        give_up = self._clock.monotonic() + _LOOK
        outcomes: dict[str, str] = {}
        while True:
            for run_id in batch:
                if run_id not in outcomes:
                    outcome = await self._outcome(run_id, policy, onto, rollout)
                    outcomes |= {run_id: outcome} if outcome else {}
            if len(outcomes) == len(batch) or self._clock.monotonic() > give_up:
                return outcomes
            await self._clock.sleep(_TICK)

    async def _outcome(self, run_id: str, policy: Policy, onto: str, rollout: str) -> str:
        """ "" while the run has not ended."""
        run = await self._store.run(run_id)
        if run is None or run.state not in SETTLED:
            return "" if run is not None else "ended by itself: deleted"
        if run.state == "parked":
            return "parked: look at it with `aura runs show`"
        if run.state != "cancelled":
            return f"ended by itself: {run.state}"
        if policy == "compensate" or self._forks is None:
            return "compensated"
        made = await self._forks.fork(run_id, onto, fork_of(run_id, rollout))
        return f"forked: {made.id} keeps {made.kept} entries, {made.again} are made again"

    async def _reported(
        self, name: str, run: str, policy: Policy, outcomes: dict[str, str]
    ) -> None:
        """Into the rollout's status, as long as it is that run's."""
        counts = Counter(what.partition(":")[0] for what in outcomes.values())
        shown = tuple(sorted(outcomes.items()))[:_SHOWN]
        while True:
            document = await self._store.document("rollout", name)
            if document is None:
                return
            known = RolloutStatus.from_json(document.body)
            if known.run != run:
                return
            there = InFlight(policy, dict(sorted(counts.items())), shown)
            body = replace(known, in_flight=there).to_json()
            try:
                await self._writer.submit(PutDocument("rollout", name, body, document.epoch))
            except EpochConflict:
                continue
            return


def _owned(run: RunRecord) -> bool:
    return run.parent is not None and not run.detached
