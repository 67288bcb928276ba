"""Emergencies: everybody back to the baseline, until a person releases it.

    served by the rollout ──force──▶ forced: the baseline serves ──release──▶ the baseline serves
                                                                  ──release, restore──▶ as before

What forces a split is written into the split itself, so one epoch both moves everybody and keeps
whoever moves splits (rollouts, experiments) from moving them again. All splits, the rollouts that
moved them and the record of who did it and why are written in one transaction, by the process that
is asked: no worker is needed. Rollouts that were under way are over with that; the workflow of one
learns it from an order.

The baseline of a split is its first arm: what served before the last rollout began, also when that
rollout has completed. A baseline that was decommissioned cannot serve, so such a split is left as
it is, and that is said.

Where things are kept: the split's `forced`; documents `emergency/<split>`, with all that was done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from aura.clock import Clock
from aura.delivery.alerts import Alert, Alerts
from aura.delivery.channels import Channel, channels_from
from aura.delivery.retirement import retirements
from aura.delivery.split import Arm, Split
from aura.delivery.status import Event, RolloutStatus, given_up
from aura.delivery.turn import write_order
from aura.engine import no_order_of_a_shadow
from aura.errors import EpochConflict, RolloutError, UnknownRollout
from aura.store.base import AppendFeed, Document, Op, PutDocument, Store

_TRIES = 1_000  # times that others may be faster
_KEPT = 100  # things done to one split that its record keeps


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one split: `changed`, or why not (`note`); `ended` are the rollouts that it
    ended, `epoch` is the split's now."""

    split: str
    baseline: str
    epoch: int
    changed: bool
    ended: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Force:
    """One thing that is done to a split: "force" or "release", by whom, why and when."""

    what: str
    by: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a split's emergencies. `before` are the weights before the last one; `ended`
    the rollouts under way that it ended, `undone` one that had completed; `moving`: something that
    watches over the split (a rollout, an experiment, a learning run) was moving it then."""

    split: str
    before: dict[str, float]
    ended: tuple[str, ...]
    undone: str
    history: tuple[Force, ...]
    moving: bool = False

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Record:
        body: Any = json.loads(data)
        history = tuple(Force(**one) for one in body.pop("history"))
        return cls(**{**body, "ended": tuple(body["ended"]), "history": history})


@dataclass(frozen=True, slots=True)
class _Seen:
    """The database at one moment: documents by name, and statuses with the epoch of theirs."""

    splits: dict[str, Document]
    records: dict[str, Record]
    rollouts: tuple[tuple[int, RolloutStatus], ...]
    gone: frozenset[str]

    def split(self, name: str) -> Split | None:
        """The split, or one for a rollout that has not opened its own yet."""
        document = self.splits.get(name)
        if document is not None:
            return replace(Split.from_json(document.body), epoch=document.epoch)
        for _, status in self.rollouts:
            for split, baseline, candidate in _moved_by(status):
                if split == name and not status.ended:
                    arms = (Arm(baseline, 1.0), Arm(candidate, 0.0))
                    return Split(name, 0, f"{name}/none", arms)
        return None

    def names(self) -> list[str]:
        waiting = {
            split for _, status in self.rollouts if not status.ended for split in status.splits
        }
        return sorted({*self.splits, *waiting})

    def family(self, names: Sequence[str]) -> list[str]:
        """These splits, and those that rollouts under way move together with them."""
        found: dict[str, None] = {}
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = None
                for _, status in self.rollouts:
                    if not status.ended and name in status.splits:
                        waiting += status.splits
        return sorted(found)


class Emergencies:
    """Forces splits to their baselines and releases them."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts

    def attach(self, store: Store, clock: Clock) -> None:
        """Use this store from now on."""
        self._store = store
        self._clock = clock

    async def force(
        self,
        names: Sequence[str] | None,
        *,
        reason: str,
        by: str = "",
        channels: tuple[Channel, ...] = (),
    ) -> list[Done]:
        """Send everybody of these splits (None: of all) to their baselines until they are released;
        what became of each, durable when this returns.

        A name may be a rollout's. Raises RolloutError for a name that nothing has, or without a
        reason, StoreUnavailable.
        """
        if not reason.strip():
            raise RolloutError("an emergency has no reason", hint="Say why: --reason '...'")
        no_order_of_a_shadow("force splits to their baselines")
        now = self._clock.now()
        done = await self._each(names, lambda seen, name: self._forced(seen, name, reason, by, now))
        await self._tell("emergency", [one for one in done if one.changed], reason, by, channels)
        return done

    async def release(
        self,
        names: Sequence[str] | None,
        *,
        restore: bool = False,
        reason: str = "",
        by: str = "",
        channels: tuple[Channel, ...] = (),
    ) -> list[Done]:
        """Let these splits (None: all that are forced) be moved again; what became of each.

        They stay at their baselines. With `restore` those that nothing was moving serve what they
        served before: shares of a rollout, an experiment or a learning run are not put back, as
        nobody would watch over them. Raises RolloutError for a name that nothing has,
        StoreUnavailable.
        """
        no_order_of_a_shadow("release splits")
        now = self._clock.now()
        made = Force("release", by, reason, now)
        done = await self._each(names, lambda seen, name: self._released(seen, name, made, restore))
        if names is None:
            done = [one for one in done if one.changed or "forced" not in one.note]
        await self._tell("release", [one for one in done if one.changed], reason, by, channels)
        return done

    async def forced(self) -> list[tuple[Split, Record | None]]:
        """The splits that are forced, with what is recorded of it, by name."""
        seen = await self._look()
        found = [split for name in seen.names() if (split := seen.split(name)) and split.forced]
        return [(split, seen.records.get(split.name)) for split in found]

    # How it is done.

    async def _each(
        self, names: Sequence[str] | None, act: Callable[[_Seen, str], tuple[Done, list[Op]]]
    ) -> list[Done]:
        """Do it to all splits in one transaction; those that others changed meanwhile again."""
        finished: dict[str, Done] = {}
        partly: dict[str, Done] = {}  # the split is done, a rollout's status not yet
        waiting: list[str] | None = None
        for _ in range(_TRIES):
            seen = await self._look()
            if waiting is None:
                named = seen.names() if names is None else [_split(seen, one) for one in names]
                waiting = seen.family(named)
            todo = {name: act(seen, name) for name in dict.fromkeys(waiting)}
            ops = [op for _, some in todo.values() for op in some]
            outcomes = dict(zip(map(id, ops), await self._store.commit(ops), strict=True))
            waiting = []
            for name, (done, some) in todo.items():
                failed = [op for op in some if isinstance(outcomes[id(op)], EpochConflict)]
                if failed:
                    waiting.append(name)
                    if failed[0] is not some[0] and done.changed:
                        partly.setdefault(name, done)
                else:
                    finished[name] = partly.get(name, done)
            if not waiting:
                return [finished[name] for name in sorted(finished)]
        raise RolloutError(
            f"{', '.join(waiting or ())} was changed by others again and again",
            hint="Do it once more",
        )

    async def _look(self) -> _Seen:
        """Splits are read first: a rollout that begins after that conflicts with what follows."""
        splits = {one.name: one for one in await self._store.documents("split")}
        records = await self._store.documents("emergency")
        rollouts = await self._store.documents("rollout")
        return _Seen(
            splits,
            {one.name: Record.from_json(one.body) for one in records},
            tuple((one.epoch, RolloutStatus.from_json(one.body)) for one in rollouts),
            frozenset(one.target for one in await retirements(self._store) if one.gone),
        )

    def _forced(
        self, seen: _Seen, name: str, reason: str, by: str, now: float
    ) -> tuple[Done, list[Op]]:
        split = cast("Split", seen.split(name))
        ending = [(at, one) for at, one in seen.rollouts if name in one.splits and not one.ended]
        served = _completed(seen, split)
        if split.baseline in seen.gone:
            note = f"its baseline {split.baseline} was decommissioned; it is left as it is"
            return _nothing(split, note), []
        forced = split
        if not split.forced:
            forced = replace(
                split.at_baseline(), epoch=split.epoch + 1, moving=False, forced=reason, gate=None
            )
        made = Force("force", by, reason, now)
        known = seen.records.get(name)
        before = {arm.name: arm.weight for arm in split.arms}
        record = Record(
            name,
            before,
            tuple(one.name for _, one in ending),
            served[1].name if served else "",
            (*(known.history if known else ()), made)[-_KEPT:],
            split.moving,
        )
        ops: list[Op] = (
            []
            if split.forced
            else [
                PutDocument("split", name, forced.to_json(), split.epoch),
                PutDocument("emergency", name, record.to_json()),
            ]
        )
        for at, status in [*ending, *([served] if served else [])]:
            if name == next(one for one in status.splits if one in seen.names()):
                over = _ended(status, forced, made)
                ops.append(PutDocument("rollout", status.name, over.to_json(), at))
                if not status.ended and not split.forced:
                    order = write_order("rollback", by, f"emergency: {reason}", now)
                    ops.append(AppendFeed(f"orders/{status.run}", (order,)))
        if not ops:
            return _nothing(split, f"it is forced already: {split.forced}"), []
        return Done(name, split.baseline, forced.epoch, not split.forced, record.ended), ops

    def _released(
        self, seen: _Seen, name: str, made: Force, restore: bool
    ) -> tuple[Done, list[Op]]:
        split = cast("Split", seen.split(name))
        record = seen.records.get(name)
        if not split.forced or record is None:
            return _nothing(split, "it is not forced"), []
        free = replace(split, epoch=split.epoch + 1, forced="")
        history = (*record.history, made)[-_KEPT:]
        ops: list[Op] = []
        note = ""
        if restore and record.ended:
            note = f"its rollout was ended; start it again: {', '.join(record.ended)}"
        elif restore and record.moving:
            note = (
                f"the run {split.mover} was moving it, and it ends with that; the baseline serves "
                "until you start its experiment or learning again"
            )
        elif restore:
            arms = tuple(Arm(arm.name, record.before.get(arm.name, 0.0)) for arm in split.arms)
            free = replace(free, arms=arms)
            for at, status in seen.rollouts:
                if status.name == record.undone and status.state == "rolled-back":
                    back = _restored(status, free, made)
                    ops.append(PutDocument("rollout", status.name, back.to_json(), at))
        ops.append(PutDocument("split", name, free.to_json(), split.epoch))
        body = replace(record, history=history).to_json()
        ops.append(PutDocument("emergency", name, body))
        return Done(name, split.baseline, free.epoch, True, (), note), ops

    async def _tell(
        self,
        kind: str,
        done: list[Done],
        reason: str,
        by: str,
        channels: tuple[Channel, ...],
    ) -> None:
        now = self._clock.now()
        for one in done:
            alert = Alert(
                id=f"{kind}-{one.split}-{one.epoch}", kinds=(kind,), name=one.split, at=now,
                reason=reason or kind, by=by, split=one.split,
                rollout=one.ended[0] if one.ended else "",
                details={"baseline": one.baseline, "ended": list(one.ended)},
            )  # fmt: skip
            known = await self._store.document("alerts", one.split)
            there = channels_from(known.body) if known is not None else ()
            await self._alerts.tell(alert, tuple(dict.fromkeys((*there, *channels))))


def _split(seen: _Seen, given: str) -> str:
    """The split that a name stands for: its own, or its rollout's."""
    moved = {status.split for _, status in seen.rollouts if status.name == given}
    if given in seen.names():
        moved = {given, *(name for name in moved if name in seen.names())}
    if not moved:
        known = ", ".join(seen.names()) or "none"
        raise UnknownRollout(
            f"there is no split and no rollout {given}", hint=f"Splits that are there: {known}"
        )
    if len(moved) > 1:
        raise RolloutError(
            f"{given} is a split, and a rollout of another split ({', '.join(sorted(moved))})",
            hint="Name the other split, or use --all",
        )
    found = moved.pop()
    if seen.split(found) is None:
        raise RolloutError(f"split {found} was never moved", hint="Its baseline serves already")
    return found


def _completed(seen: _Seen, split: Split) -> tuple[int, RolloutStatus] | None:
    """The rollout that has brought the split where it is, when it has completed."""
    for at, status in seen.rollouts:
        if status.run == split.mover and status.state == "completed":
            return at, status
    return None


def _moved_by(status: RolloutStatus) -> list[tuple[str, str, str]]:
    """(split, baseline, candidate) of each split that a rollout moves."""
    others = [(one.split, one.baseline, one.candidate) for one in status.together]
    return [(status.split, status.baseline, status.candidate), *others]


def _ended(known: RolloutStatus, split: Split, made: Force) -> RolloutStatus:
    """The status of a rollout whose split was forced. Its turn counts, so that its workflow does
    not write one of its own."""
    over = given_up(known, f"emergency: {made.reason}", made.at)
    event = replace(over.history[-1], by=made.by)
    epoch = split.epoch if split.name == known.split else known.epoch
    return replace(over, epoch=epoch, history=(*over.history[:-1], event))


def _restored(known: RolloutStatus, split: Split, made: Force) -> RolloutStatus:
    """The status of a completed rollout whose candidate serves again."""
    reason = f"restored after an emergency{': ' if made.reason else ''}{made.reason}"
    return replace(
        known,
        state="completed",
        weights={arm.name: arm.weight for arm in split.arms},
        weight=split.share(known.candidate),
        epoch=split.epoch,
        reason=reason,
        history=(*known.history, Event(made.at, "restore", reason, made.by, made.at)),
        turn=known.turn + 1,
    )


def _nothing(split: Split, note: str) -> Done:
    return Done(split.name, split.baseline, split.epoch, False, note=note)
