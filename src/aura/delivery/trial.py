"""The experiment as a durable workflow: watch, conclude, change the split, until it has ended.

    begin ──▶ open ──▶ watch ──▶ shift ──▶ watch ──▶ ... ──▶ the experiment has ended
       │        │        │         │
       └────────┴────────┴─────────┴──▶ leave      a step gave up, or the run is cancelled

As in a rollout (`aura.delivery.rollout`) `watch` only looks, so it may be repeated after a crash,
and `open` and `shift` replace the split by compare-and-set and do nothing when an earlier try has
done it. An experiment owns its split like a rollout does: the split's seed names the run.

Where things are kept: documents `split/<split>` (what gateways obey), `experiment/<name>` (what
people see), `layer/<layer>` (who has which places of it) and `holdout/global`; feeds
`observations/<split>`, `rewards/<split>` and `orders/<run>`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from dataclasses import dataclass, replace
from typing import Any, cast

from aura.clock import Clock
from aura.delivery.analysis import Analysis, Findings
from aura.delivery.conclude import End, ExperimentState, Given, after, conclude
from aura.delivery.decide import Continue
from aura.delivery.enrolment import Enrolment
from aura.delivery.experiment import Experiment
from aura.delivery.experiment_status import ExperimentStatus, evidence_of, weights_of
from aura.delivery.hashed import hashing_for
from aura.delivery.live import PAGE, Backlog, left_after
from aura.delivery.observation import Observation
from aura.delivery.pre_period import read_before
from aura.delivery.reward import Reward
from aura.delivery.rollouts import Rollouts
from aura.delivery.split import Arm, Split
from aura.delivery.status import Event
from aura.delivery.trial_turn import Leg, Mark, Turn, read_order, taken
from aura.delivery.turn import reason_of
from aura.engine import Retry, Step, Workflow, own_step
from aura.errors import (
    CodecError,
    EpochConflict,
    ExperimentError,
    LayerError,
    RolloutError,
    SplitError,
    StoreUnavailable,
)
from aura.store.base import SETTLED, AppendFeed, PutDocument, Store, Writer

log = logging.getLogger("aura.delivery")

WORKFLOW, VERSION = "aura.experiment", "1.0.0"
OVER = "/over"
"""What the seed of a split ends with that an experiment has left for a rollout to take."""

_TICK = 0.25  # seconds between looks when nothing is heard
_LAG = 1.0  # seconds after which all that was written before can be read
_PUBLISH = 1.0, 0.01, 30.0  # at least every so many seconds, or this part of its time, at most
_RETRY = Retry(attempts=10, first=0.1, longest=5.0, never=(ExperimentError, LayerError, SplitError))


@dataclass(slots=True)
class _Live:
    """What this process has folded of one experiment, and what it has published."""

    analysis: Analysis
    observations: int
    rewards: int
    published: float = 0.0
    shown: tuple[int, ExperimentStatus] | None = None


class Trials:
    """The experiment workflow and its steps, over a store. One per app; it registers `workflow`."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._desk = rollouts
        self.rollouts = rollouts.engine
        self.workflow: Workflow[..., Any] = Workflow(WORKFLOW, VERSION, self._experiment)
        self._begin: Step[..., Any] = own_step(
            self._mark, name="begin", retry=_RETRY, idempotent=True
        )
        self._open: Step[..., Any] = own_step(self._open_split, name="open", retry=_RETRY)
        self._watch: Step[..., Any] = own_step(
            self._watch_feeds, name="watch", retry=_RETRY, idempotent=True
        )
        self._shift: Step[..., Any] = own_step(self._shift_split, name="shift", retry=_RETRY)
        self._hand_over: Step[..., Any] = own_step(
            self._start_rollout, name="hand-over", retry=_RETRY
        )
        self._leave: Step[..., Any] = own_step(self._leave_split, name="leave", retry=_RETRY)
        self._live: dict[str, _Live] = {}

    def attach(self, store: Store, writer: Writer, clock: Clock) -> None:
        """Use this store from now on."""
        self.store = store
        self.writer = writer
        self.clock = clock
        self.enrolment = Enrolment(store, self._put)
        self._live = {}

    async def _experiment(self, experiment: Experiment, run: str) -> str:
        try:
            mark = await self._begin(experiment)
            split = await self._open(experiment, run, mark)
            state = ExperimentState("running", mark.at)
            leg = Leg(mark, split, Split.from_json(split.encode()).epoch, state)
            while not leg.state.ended:
                turn = await self._watch(experiment, run, leg)
                leg = leg.onward(turn, await self._shift(experiment, run, leg, turn))
            if leg.state.status == "won" and experiment.then is not None:
                await self._hand_over(experiment, run, leg.state.winner)
        except Exception as error:
            await self._leave(experiment, run, f"given up: {reason_of(error)}")
            raise
        except asyncio.CancelledError:
            if await self.rollouts.is_cancelled(run):  # not handed over to another worker
                await self._leave(experiment, run, "its run was cancelled")
            raise
        else:
            return leg.state.status
        finally:
            self._live.pop(run, None)

    # The steps.

    async def _mark(self, experiment: Experiment) -> Mark:
        """Where its feeds begin: an empty append tells the end of one."""
        ends = [
            cast("int", await self.writer.submit(AppendFeed(f"{kind}/{experiment.split}", ())))
            for kind in ("observations", "rewards")
        ]
        return Mark(await self.store.moment(), *ends)

    async def _open_split(self, experiment: Experiment, run: str, mark: Mark) -> str:
        """Make the split stand with the experiment's weights; the split as JSON.

        Raises ExperimentError or LayerError when it cannot; that is in the status too.
        """
        try:
            split = await self._claim(experiment, run)
        except (ExperimentError, LayerError) as error:
            await self.enrolment.release(experiment, run)
            refused = Event(self.clock.now(), "refuse", str(error), "")
            state = ExperimentState("stopped", mark.at)
            status = _status(experiment, run, state, str(error), (refused,))
            await self._introduce(replace(status, weights={}))
            raise
        began = Event(mark.at, "start", _words(experiment), "")
        state = ExperimentState("running", mark.at)
        status = _status(experiment, run, state, "begun", (began,))
        gate = split.gate
        await self._introduce(
            replace(
                status,
                opened=split.epoch,
                epoch=split.epoch,
                ranges=gate.ranges if gate else (),
                holdout=gate.holdout if gate else 0,
            )
        )
        return split.to_json().decode()

    async def _watch_feeds(self, experiment: Experiment, run: str, leg: Leg) -> Turn:
        """Return when something must change."""
        live = await self._live_of(experiment, run, leg)
        feeds = (f"observations/{experiment.split}", f"rewards/{experiment.split}", f"orders/{run}")
        topics = (*(f"feed:{feed}" for feed in feeds), f"doc:split/{experiment.split}")
        async with self.rollouts.news(*topics) as news:
            while True:
                news.clear()
                try:
                    turn = await self._look(experiment, run, leg, live)
                except StoreUnavailable as error:
                    log.warning("experiment %s waits: %s", experiment.name, error)
                    turn = None
                if turn is not None:
                    return turn
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TICK):
                        await news.wait()

    async def _shift_split(self, experiment: Experiment, run: str, leg: Leg, turn: Turn) -> int:
        """Make the split, the layer and the status fit the state after the turn; the split's
        epoch. Raises ExperimentError when somebody else has changed the split."""
        epoch = await self._move(experiment, run, leg, turn)
        state = after(leg.state, turn.decision(), epoch)
        if state.ended:
            await self.enrolment.release(experiment, run)
        await self._record(experiment, run, leg, turn, epoch)
        return epoch

    async def _start_rollout(self, experiment: Experiment, run: str, arm: str) -> None:
        """Begin the rollout of the winner; that it did, or why not, is in the history."""
        if experiment.then is None:
            return
        plan = replace(experiment.then, candidate=arm)
        try:
            began = await self._desk.start(plan, again=True)
            said = f"rollout {plan.name} of {arm} begins (run {began.run})"
        except RolloutError as error:
            known = {one.name: one for one in await self.rollouts.statuses()}.get(plan.name)
            if known is None or known.ended or known.candidate != arm:
                said = f"rollout {plan.name} of {arm} does not begin: {error}"
            else:
                said = f"rollout {plan.name} of {arm} begins (run {known.run})"
        while (shown := await self.shown(experiment.name)) and shown[1].run == run:
            at, known_one = shown
            if known_one.history[-1].what == "rollout":
                break
            now = self.clock.now()
            history = (*known_one.history, Event(now, "rollout", said, "", now))
            status = replace(known_one, history=history)
            if await self._put("experiment", experiment.name, status.to_json(), at):
                break

    async def _leave_split(self, experiment: Experiment, run: str, reason: str) -> None:
        """The end of an experiment that nobody can watch: everybody to the baseline."""
        end = ExperimentState("stopped", 0.0)
        while (old := await self._own_split(experiment, run)) is not None and not old.forced:
            new = _next(old, weights_of(experiment, end), end)
            if _way(new) == _way(old) or await self._put(
                "split", old.name, new.to_json(), old.epoch
            ):
                break
        await self.enrolment.release(experiment, run)
        now = self.clock.now()
        while (shown := await self.shown(experiment.name)) and shown[1].run == run:
            at, known = shown
            event = Event(now, "stop", reason, "", now)
            status = replace(
                known,
                state="stopped",
                reason=reason,
                weights=weights_of(experiment, end),
                history=(*known.history, event),
                turn=known.turn + 1,
            )
            if known.ended or await self._put("experiment", known.name, status.to_json(), at):
                break

    # What the steps are made of: the split and the layer.

    async def _claim(self, experiment: Experiment, run: str) -> Split:
        await self._refuse_while_named(experiment, run)
        seed = f"{experiment.split}/{run}"
        arms = tuple(Arm(name, weight) for name, weight in experiment.arms)
        while True:
            document = await self.store.document("split", experiment.split)
            before = document.epoch if document else 0
            if document is not None:
                there = replace(Split.from_json(document.body), epoch=before)
                if there.seed == seed:
                    return there  # a try before this one
                if there.forced:
                    raise ExperimentError(
                        f"split {there.name} is forced to its baseline: {there.forced}",
                        hint=f"Release it first: aura rollback {there.name} --release",
                    )
                await self._refuse_while_moved(there)
            gate = await self.enrolment.gate(experiment, run, await self._others(experiment))
            hashing = hashing_for(experiment.split, experiment.hashing)
            split = Split(
                experiment.split, before + 1, seed, arms, gate=gate, moving=True, hashing=hashing
            )
            if await self._put("split", experiment.split, split.to_json(), before):
                return split

    async def _refuse_while_named(self, experiment: Experiment, run: str) -> None:
        shown = await self.shown(experiment.name)
        if shown is not None and shown[1].run != run and await self.under_way(shown[1]):
            raise under_way_already(shown[1])

    async def _refuse_while_moved(self, split: Split) -> None:
        mover = split.seed.removeprefix(f"{split.name}/")
        if not (split.moving and await self.rollouts.is_alive(mover)):
            return
        rollouts = {one.run: one.ended for one in await self.rollouts.statuses()}
        experiments = {one.run: one.ended for one in await self.statuses()}
        if (rollouts | experiments).get(mover):
            return  # its run is about to end
        raise ExperimentError(
            f"split {split.name} is moved by the run {mover}",
            hint="Let that rollout or experiment end, or stop it first",
        )

    async def _move(self, experiment: Experiment, run: str, leg: Leg, turn: Turn) -> int:
        state = after(leg.state, turn.decision(), leg.epoch)
        while True:
            old = await self._own_split(experiment, run)
            if old is None or old.forced:
                if state.status == "won":
                    raise ExperimentError(
                        f"split {experiment.split} was taken over, so {state.winner} cannot serve",
                        hint="Look at it with: aura rollout status",
                    )
                return leg.epoch
            new = _next(old, weights_of(experiment, state), state)
            if state.status == "won" and experiment.then is not None:
                new = replace(new, seed=f"{experiment.split}/{run}{OVER}")
            if _way(new) == _way(old):
                return old.epoch
            if old.epoch != leg.epoch:
                raise ExperimentError(
                    f"split {experiment.split} was changed by someone else: it is at epoch "
                    f"{old.epoch}, not {leg.epoch}",
                    hint="Start the experiment again",
                )
            if await self._put("split", experiment.split, new.to_json(), leg.epoch):
                return leg.epoch + 1

    async def _others(self, experiment: Experiment) -> list[str]:
        """The names of the other experiments that are under way."""
        return [
            status.name
            for status in await self.statuses()
            if status.name != experiment.name and await self.under_way(status)
        ]

    async def _own_split(self, experiment: Experiment, run: str) -> Split | None:
        """The split with the epoch of its document, unless it is another run's."""
        document = await self.store.document("split", experiment.split)
        if document is None:
            return None
        split = replace(Split.from_json(document.body), epoch=document.epoch)
        return split if split.seed.removesuffix(OVER) == f"{experiment.split}/{run}" else None

    # What the steps are made of: evidence.

    async def _live_of(self, experiment: Experiment, run: str, leg: Leg) -> _Live:
        """What is folded already, with what is from before the start."""
        live = self._live.get(run)
        if live is None:
            split = Split.from_json(leg.split.encode())
            analysis = Analysis(experiment, split)
            for item in await read_before(self.store, experiment, leg.mark):
                analysis.fold_before(item)
            live = _Live(analysis, leg.mark.observations, leg.mark.rewards)
            self._live[run] = live
        live.analysis.dropped = dict(leg.state.dropped)
        live.analysis.last = leg.epoch
        return live

    async def _fold(self, experiment: Experiment, live: _Live) -> float:
        """Take in the next items of both feeds; what is left as in `left_after`."""
        analysis, seen = live.analysis, (live.observations, live.rewards)
        observations = await self.store.feed(f"observations/{experiment.split}", seen[0], PAGE)
        rewards = await self.store.feed(f"rewards/{experiment.split}", seen[1], PAGE)
        if (live.observations, live.rewards) != seen:
            return -math.inf  # somebody else has folded these meanwhile
        for item in observations:
            live.observations = item.seq
            try:
                analysis.fold(item.at, Observation.from_json(item.payload))
            except (CodecError, ArithmeticError, ValueError) as error:
                analysis.refuse()
                log.warning("observation %d of %s: %s", item.seq, experiment.split, error)
        for item in rewards:
            live.rewards = item.seq
            try:
                analysis.reward(item.at, Reward.from_json(item.payload))
            except CodecError as error:
                analysis.refuse()
                log.warning("reward %d of %s: %s", item.seq, experiment.split, error)
        return min(left_after(observations), left_after(rewards))

    async def _look(self, experiment: Experiment, run: str, leg: Leg, live: _Live) -> Turn | None:
        """One look at what is new: the turn to take, or None."""
        now = await self.store.moment()
        backlog = Backlog(self.store)
        given = await self._next_order(run, leg.orders)
        while given.order != "stop":
            left = await self._fold(experiment, live)
            given = await self._next_order(run, leg.orders)  # there may be much to catch up with
            if not await backlog.remains(left):
                break
            await asyncio.sleep(0)
        live.analysis.settle(now - _LAG)
        findings = live.analysis.findings()
        lost = await self._lost(experiment, run, leg)
        decision = (
            End("stopped", lost) if lost else conclude(experiment, leg.state, findings, now, given)
        )
        if given.seq > leg.orders or not isinstance(decision, Continue):
            return taken(decision, given, now)
        await self._refresh(experiment, run, leg, live, findings, (decision.reason, now))
        return None

    async def _lost(self, experiment: Experiment, run: str, leg: Leg) -> str:
        """Why the split is not the experiment's any more, "" while it is."""
        split = await self._own_split(experiment, run)
        if split is None:
            return f"split {experiment.split} was taken over by another run"
        if split.forced:
            return f"split {experiment.split} was forced to its baseline: {split.forced}"
        return "" if split.epoch == leg.epoch else f"split {split.name} was changed by someone else"

    async def _next_order(self, run: str, seen: int) -> Given:
        items = await self.store.feed(f"orders/{run}", seen, 1)
        return read_order(items[0].seq, items[0].payload) if items else Given(seen)

    # What the steps are made of: the status.

    async def _refresh(
        self,
        experiment: Experiment,
        run: str,
        leg: Leg,
        live: _Live,
        findings: Findings,
        why: tuple[str, float],
    ) -> None:
        """Publish the evidence as it is now, if it has changed and was not published lately."""
        reason, now = why
        least, part, most = _PUBLISH
        pause = min(max(least, part * (now - leg.state.began)), most)
        if live.published and self.clock.monotonic() - live.published < pause:
            return
        shown = live.shown or await self.shown(experiment.name)
        if shown is None or shown[1].run != run or shown[1].turn != leg.turn:
            return  # another worker is further
        live.published = self.clock.monotonic()
        epoch, known = shown
        reason = known.reason if leg.state.status == "held" else reason
        status = replace(known, reason=reason, **evidence_of(findings))
        if status == known:
            live.shown = shown
            return
        status = replace(status, looked=now)
        fits = await self._put("experiment", experiment.name, status.to_json(), epoch)
        live.shown = (epoch + 1, status) if fits else None

    async def _record(
        self, experiment: Experiment, run: str, leg: Leg, turn: Turn, epoch: int
    ) -> None:
        """Write the turn into the published history, once."""
        live = await self._live_of(experiment, run, leg)
        state = after(leg.state, turn.decision(), epoch)
        live.analysis.last = leg.epoch if state.ended else epoch
        live.analysis.dropped = dict(state.dropped)
        backlog = Backlog(self.store)
        while await backlog.remains(await self._fold(experiment, live)):
            pass
        live.analysis.settle(turn.at - _LAG)
        findings = live.analysis.findings()
        what = turn.status if turn.kind == "end" else turn.order or turn.kind
        seq = turn.orders if turn.orders > leg.orders else 0
        event = Event(turn.at, what, turn.reason, turn.by, self.clock.now(), 0.0, seq)
        while (shown := await self.shown(experiment.name)) and shown[1].run == run:
            at, known = shown
            if known.turn >= leg.turn + 1:
                break
            status = replace(
                known,
                state=state.status,
                reason=turn.reason,
                weights=weights_of(experiment, state),
                winner=state.winner,
                dropped=tuple(arm for arm, _ in state.dropped),
                epoch=epoch,
                looked=turn.at,
                history=(*known.history, event),
                turn=leg.turn + 1,
                **evidence_of(findings),
            )
            if await self._put("experiment", experiment.name, status.to_json(), at):
                log.info("experiment %s: %s: %s", experiment.name, what, turn.reason)
                break
        live.shown = None

    async def _introduce(self, status: ExperimentStatus) -> None:
        """Publish the first status of a run that has begun or was refused, once."""
        while True:
            epoch, known = await self.shown(status.name) or (0, None)
            if known is not None:
                begun = known.opened is not None or known.ended
                other = known.run != status.run
                if (begun and not other) or (other and await self.under_way(known)):
                    return
                if not other:
                    status = status.begun_by(known.by)
            if await self._put("experiment", status.name, status.to_json(), epoch):
                return

    # What the desk needs too.

    async def announce(self, experiment: Experiment, by: str = "") -> str:
        """Take the experiment's name for a new run that `by` begins; the id for that run.

        Raises ExperimentError while an experiment of that name is under way.
        """
        while True:
            epoch, known = await self.shown(experiment.name) or (0, None)
            if known is not None and await self.under_way(known):
                raise under_way_already(known)
            run = await self._free_run(experiment.name, known)
            state = ExperimentState("running", self.clock.now())
            status = _status(experiment, run, state, "waits for a worker", ())
            status = replace(status, by=by)
            if await self._put("experiment", experiment.name, status.to_json(), epoch):
                return run

    async def _free_run(self, name: str, known: ExperimentStatus | None) -> str:
        """The first run id of this name that is not used up."""
        number = 1 if known is None else int(known.run.rpartition("-")[2]) + known.ended
        while True:
            run = f"experiment-{name}-{number}"
            record = await self.store.run(run)
            if record is None or record.state not in SETTLED:
                return run
            number += 1

    async def shown(self, name: str) -> tuple[int, ExperimentStatus] | None:
        """The published status and its document's epoch."""
        document = await self.store.document("experiment", name)
        return document and (document.epoch, ExperimentStatus.from_json(document.body))

    async def statuses(self) -> list[ExperimentStatus]:
        """What is published of all experiments, by name; one that cannot be read is logged."""
        found = []
        for document in await self.store.documents("experiment"):
            try:
                found.append(ExperimentStatus.from_json(document.body))
            except CodecError:
                log.exception("experiment %s is left out", document.name)
        return found

    async def under_way(self, status: ExperimentStatus) -> bool:
        """Whether the experiment has not ended and there is a run that watches it."""
        return not status.ended and await self.rollouts.is_alive(status.run)

    async def _put(self, kind: str, name: str, body: bytes, expected: int) -> bool:
        try:
            await self.writer.submit(PutDocument(kind, name, body, expected))
        except EpochConflict:
            return False
        return True


def under_way_already(status: ExperimentStatus) -> ExperimentError:
    """Why another experiment of that name, or on that split, cannot begin."""
    return ExperimentError(
        f"experiment {status.name} of split {status.split} is {status.state}",
        hint=f"Let it end, or stop it first: aura experiment stop {status.name}",
    )


def _status(
    experiment: Experiment,
    run: str,
    state: ExperimentState,
    reason: str,
    history: tuple[Event, ...],
) -> ExperimentStatus:
    return ExperimentStatus(
        name=experiment.name,
        run=run,
        experiment=experiment,
        state=state.status,
        reason=reason,
        weights=weights_of(experiment, state),
        epoch=0,
        began=state.began,
        history=history,
    )


def _words(experiment: Experiment) -> str:
    arms = ", ".join(f"{name} {weight * 100:g} %" for name, weight in experiment.arms)
    return f"{arms} of split {experiment.split}"


def _next(old: Split, weights: dict[str, float], state: ExperimentState) -> Split:
    """The split in that state, at the next epoch; once it has ended, everybody is let through."""
    new = old.with_weights(weights, moving=not state.ended)
    return replace(new, gate=None) if state.ended else new


def _way(split: Split) -> tuple[object, ...]:
    """Where a split sends its units, without the epoch."""
    return tuple(arm.buckets for arm in split.arms[1:]), split.gate, split.moving, split.seed
