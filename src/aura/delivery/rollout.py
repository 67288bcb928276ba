"""The rollout as a durable workflow: watch, decide, shift the traffic, until it has ended.

    begin ──▶ open ──▶ watch ──▶ shift ──▶ watch ──▶ shift ──▶ ... ──▶ the plan has ended
       │        │        │ │      ▲ │
       │        │        │ └▶ hear┘ │              an approval has arrived
       └────────┴────────┴──────────┴──▶ leave     a step gave up, or the run is cancelled

`watch` folds the observations as they arrive and returns when `decide` wants a change or an order
came; it changes nothing, so it may be repeated after a crash. `open` and `shift` are the effects:
they replace the split by compare-and-set and do nothing when an earlier try has done it. Whatever
process dies at whatever point, another worker goes on with the same plan at the same stage. Of
several splits that are moved together each is replaced by itself, with an epoch of its own, so a
shift that was interrupted between two of them goes on with the second one.

An approval is a signal to the run. `watch` only tells that one has come; the workflow receives it,
so that it is in the journal, and `answer` says what it leads to.

Where things are kept: documents `split/<split>` (what gateways obey) and `rollout/<name>` (what
people see), `rollout-past/<run>` (the last status of a run whose name another one has taken);
feeds `observations/<split>` and `orders/<run>`.

Invariants: (1) the n-th turn moves the split from the epoch in its `Leg` to the next one or not at
all, so a process that wakes up late cannot bring an older stage's weights back; (2) a status is
replaced by compare-and-set and only by one of the same or the next turn, so each turn is in the
history once; (3) a split is moved by the run that its seed names, and no other run takes it over
while that one is under way; (4) a rollout that can be watched no longer (its run is cancelled, a
step gives up) takes the traffic back to the baseline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

from aura.clock import Clock
from aura.delivery import decide as rules
from aura.delivery.aftermath import Aftermath
from aura.delivery.approval import SIGNAL, Said, read_said
from aura.delivery.curves import Pen
from aura.delivery.decide import Continue, RolloutState, layout
from aura.delivery.hashed import hashing_for
from aura.delivery.live import PAGE, Backlog, Live, Track, left_after, live_of
from aura.delivery.plan import Pair, Plan
from aura.delivery.split import Arm, Split
from aura.delivery.status import (
    Event,
    RolloutStatus,
    evidence_of,
    given_up,
    nothing_seen,
    status_of,
)
from aura.delivery.turn import (
    Given,
    Leg,
    Mark,
    Turn,
    heard,
    judged_by_a_person,
    read_order,
    reason_of,
    taken,
)
from aura.engine import Retry, Step, Workflow, own_step, receive
from aura.errors import (
    CodecError,
    EpochConflict,
    RolloutError,
    SignalTimeout,
    SplitError,
    StoreUnavailable,
)
from aura.store.base import SETTLED, AppendFeed, PutDocument, Store, Writer

log = logging.getLogger("aura.delivery")

WORKFLOW, VERSION = "aura.rollout", "1.0.0"
_TICK = 0.25  # seconds between looks when nothing is heard, and between published states
_IDLE = 1.0, 0.01  # when only the words change: seconds, or this part of the stage's time
_HEARD = 600.0  # seconds, over crashes, for a signal that is there to be handed over
_RETRY = Retry(attempts=10, first=0.1, longest=5.0, never=(RolloutError, SplitError))


class Engine:
    """The rollout workflow and its steps, over a store. One per app; it registers `workflow`."""

    def __init__(self, aftermath: Aftermath) -> None:
        self._aftermath = aftermath
        self.workflow: Workflow[..., Any] = Workflow(WORKFLOW, VERSION, self._rollout)
        self._begin: Step[..., Any] = own_step(
            self._mark, name="begin", retry=_RETRY, idempotent=True
        )
        self._open: Step[..., Any] = own_step(self._open_split, name="open", retry=_RETRY)
        self._watch: Step[..., Any] = own_step(
            self._watch_stage, name="watch", retry=_RETRY, idempotent=True
        )
        self._shift: Step[..., Any] = own_step(self._shift_split, name="shift", retry=_RETRY)
        self._leave: Step[..., Any] = own_step(self._leave_split, name="leave", retry=_RETRY)
        self._live: dict[str, Live] = {}

    def attach(self, store: Store, writer: Writer, clock: Clock) -> None:
        """Use this store from now on."""
        self.store = store
        self.writer = writer
        self.clock = clock
        self._pen = Pen(store, writer)
        self._live = {}

    async def _rollout(self, plan: Plan, run: str) -> str:
        try:
            return await self._follow_plan(plan, run)
        except Exception as error:
            await self._leave(plan, run, f"given up: {reason_of(error)}")
            await self._aftermath.given_up(plan, run, reason_of(error))
            raise
        except asyncio.CancelledError:
            if await self.is_cancelled(run):  # not handed over to another worker
                await self._leave(plan, run, "its run was cancelled")
            raise
        finally:
            self._live.pop(run, None)

    async def _follow_plan(self, plan: Plan, run: str) -> str:
        mark = await self._begin(plan)
        epochs = await self._open(plan, run, mark)
        leg = Leg(mark, epochs, epochs, epochs, rules.start(mark.at))
        while not leg.state.ended:
            turn = await self._watch(plan, run, leg)
            if turn.kind == "hear":
                turn = await self._hear(plan, leg, turn)
            leg = leg.onward(turn, await self._shift(plan, run, leg, turn))
            await self._aftermath.tell(plan, run, leg.turn, turn)
        if leg.state.status == "rolled-back":
            await self._aftermath.over(plan, run)
        return leg.state.status

    async def _hear(self, plan: Plan, leg: Leg, turn: Turn) -> Turn:
        """Receive the approval that the turn tells of; the turn that it leads to."""
        try:
            said = read_said(await receive(SIGNAL, timeout=_HEARD))
        except (SignalTimeout, CodecError) as error:
            said = Said(flaw=f"an approval that cannot be received: {error}")
        return heard(rules.answer(plan, leg.state, said), said, turn)

    async def is_cancelled(self, run: str) -> bool:
        """Whether a run that is interrupted was cancelled, and not handed over to another worker;
        False when the database cannot tell."""
        try:
            record = await self.store.run(run)
        except StoreUnavailable:
            log.exception("run %s is stopped, and nobody knows why", run)
            return False
        return record is not None and record.cancel_requested

    # The steps.

    async def _mark(self, plan: Plan) -> Mark:
        """Where its observations begin: an empty append tells the end of a feed."""
        feeds = [f"observations/{pair.split}" for pair in plan.pairs]
        ends = await asyncio.gather(*(self.writer.submit(AppendFeed(one, ())) for one in feeds))
        return Mark(self.clock.now(), tuple(cast("int", end) for end in ends))

    async def _open_split(self, plan: Plan, run: str, mark: Mark) -> tuple[int, ...]:
        """Make the splits stand at the first stage; their epochs.

        Raises RolloutError when another rollout moves one of them; that is in the status too.
        """
        state = rules.start(mark.at)
        try:
            epochs = await self._claim(plan, run)
        except RolloutError as error:
            state = replace(state, status="rolled-back")
            refused = Event(self.clock.now(), "refuse", str(error), "")
            status = status_of(plan, run, state, nothing_seen(plan), str(error), (refused,))
            await self._introduce(replace(status, weights={}))
            raise
        moves = ", ".join(f"from {pair.baseline} to {pair.candidate}" for pair in plan.pairs)
        began = Event(mark.at, "start", moves, "")
        status = status_of(plan, run, state, nothing_seen(plan, epochs), "begun", (began,))
        status = replace(status, opened=(epochs[0], mark.at, mark.observations[0]))
        begun = zip(plan.pairs, epochs, mark.observations, strict=True)
        await self._introduce(
            replace(status, begun={pair.split: (epoch, at) for pair, epoch, at in begun})
        )
        return epochs

    async def _watch_stage(self, plan: Plan, run: str, leg: Leg) -> Turn:
        """Return when something must change."""
        live = self._live_of(plan, run, leg)
        feeds = [f"feed:observations/{pair.split}" for pair in plan.pairs]
        async with self.news(*feeds, f"feed:orders/{run}", f"signal:{run}") as news:
            while True:
                news.clear()
                try:
                    turn = await self._look(plan, run, leg, live)
                except StoreUnavailable as error:
                    log.warning("rollout %s waits, the database is away: %s", plan.name, error)
                    turn = None
                if turn is not None:
                    return turn
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TICK):
                        await news.wait()

    async def _shift_split(self, plan: Plan, run: str, leg: Leg, turn: Turn) -> tuple[int, ...]:
        """Make the splits and the status fit the state after the turn; the splits' epochs.

        Raises RolloutError when somebody else has changed one of the splits.
        """
        moved = [await self._move(plan, at, run, leg, turn) for at in range(len(plan.pairs))]
        epochs = tuple(moved)
        await self._record(plan, run, leg, turn, epochs)
        return epochs

    async def _leave_split(self, plan: Plan, run: str, reason: str) -> None:
        """The end of a rollout that nobody can watch: all traffic back to the baseline."""
        split = None
        for pair in reversed(plan.pairs):
            split = await self._take_back(plan, pair, run)
        while (shown := await self.shown(plan.name)) and shown[1].run == run:
            at, known = shown
            status = given_up(known, reason, self.clock.now())
            status = replace(status, epoch=split.epoch if split else known.epoch)
            if known.ended or await self.put("rollout", plan.name, status.to_json(), at):
                break

    # What the steps are made of: the splits.

    async def _take_back(self, plan: Plan, pair: Pair, run: str) -> Split | None:
        """Everybody to the pair's baseline; the split, None when it is another run's."""
        weights, _, _ = layout(plan, RolloutState(0, "rolled-back", 0.0), pair)
        while (split := await self.own_split(pair, run)) is not None:
            if split.forced:
                break  # everybody is on the baseline
            back = split.with_weights(weights, moving=False)
            if _way(back) == _way(split):
                break
            if await self.put("split", pair.split, back.to_json(), split.epoch):
                return back
        return split

    async def _claim(self, plan: Plan, run: str) -> tuple[int, ...]:
        """Take all splits, or none: whoever is refused at a later one leaves those before."""
        await self._refuse_while_named(plan, run)
        for pair in plan.pairs:
            document = await self.store.document("split", pair.split)
            if document is not None:
                await self._refuse_taken(pair, Split.from_json(document.body), run)
        claimed = [await self._claim_split(plan, pair, run) for pair in plan.pairs]
        return tuple(claimed)

    async def _claim_split(self, plan: Plan, pair: Pair, run: str) -> int:
        weights, mirror, sample = layout(plan, rules.start(0.0), pair)
        arms = tuple(Arm(name, weights[name]) for name in (pair.baseline, pair.candidate))
        seed = f"{pair.split}/{run}"
        while True:
            document = await self.store.document("split", pair.split)
            before = document.epoch if document else 0
            if document is not None:
                there = Split.from_json(document.body)
                if there.seed == seed:
                    return before  # a try before this one
                await self._refuse_taken(pair, there, run)
            hashing = hashing_for(pair.split, plan.hashing)
            split = Split(
                pair.split, before + 1, seed, arms, mirror, sample, moving=True, hashing=hashing
            )
            if await self.put("split", pair.split, split.to_json(), before):
                return before + 1

    async def _refuse_taken(self, pair: Pair, there: Split, run: str) -> None:
        """Raises RolloutError while another run moves the split, or it is forced."""
        mover = there.seed.removeprefix(f"{pair.split}/")
        if mover != run:
            refuse_forced(there)
            if there.moving:  # else the run of its last mover is about to end
                await self._refuse_while_moved(pair, mover)

    async def _refuse_while_named(self, plan: Plan, run: str) -> None:
        """Raises RolloutError while another run has the plan's name."""
        shown = await self.shown(plan.name)
        if shown is not None and shown[1].run != run and await self.under_way(shown[1]):
            raise moved_already(shown[1])

    async def _refuse_while_moved(self, pair: Pair, mover: str) -> None:
        """Raises RolloutError while the rollout of the run `mover` is under way."""
        if not await self.is_alive(mover):
            return
        for status in await self.statuses():
            if status.run == mover:
                if status.ended:
                    return  # its run is about to end
                raise moved_already(status)
        raise RolloutError(
            f"split {pair.split} is moved by another rollout (run {mover})",
            hint="Let it end, or roll it back first",
        )

    async def _move(self, plan: Plan, at: int, run: str, leg: Leg, turn: Turn) -> int:
        """Make the plan's split of that index fit the state after the turn; its epoch."""
        pair, epoch = plan.pairs[at], leg.epochs[at]
        state = leg.after(turn)
        weights, mirror, sample = layout(plan, state, pair)
        while True:
            old = await self.own_split(pair, run)
            if old is None:
                raise RolloutError(
                    f"split {pair.split} was taken over by another rollout",
                    hint="Look at it with: aura rollout status",
                )
            if old.forced and state.status == "rolled-back":
                return old.epoch  # everybody is on the baseline
            refuse_forced(old)
            new = old.with_weights(weights, mirror=mirror, sample=sample, moving=not state.ended)
            same = _way(new) == _way(old)
            if old.epoch == epoch:
                if same and not leg.renews(turn):
                    return epoch
                if await self.put("split", pair.split, new.to_json(), epoch):
                    return epoch + 1
            elif old.epoch == epoch + 1 and same:
                return old.epoch  # a try before this one
            else:
                raise RolloutError(
                    f"split {pair.split} was changed by someone else: it is at epoch {old.epoch}, "
                    f"not {epoch}",
                    hint="Start the rollout again",
                )

    async def own_split(self, pair: Pair, run: str) -> Split | None:
        """The split with the epoch of its document, unless it is another run's."""
        document = await self.store.document("split", pair.split)
        if document is None:
            return None
        split = replace(Split.from_json(document.body), epoch=document.epoch)
        return split if split.seed == f"{pair.split}/{run}" else None

    # What the steps are made of: evidence.

    def _live_of(self, plan: Plan, run: str, leg: Leg) -> Live:
        """What is folded already. A lost run that came back may have new evidence since then."""
        live = self._live.get(run)
        if live is None or live.since != leg.since:
            live = self._live[run] = live_of(plan, leg)
        return live

    async def _fold(self, live: Live) -> float:
        """Take in the next observations of all splits; what is left as in `left_after`."""
        return min([await self._fold_track(track) for track in live.tracks])

    async def _fold_track(self, track: Track) -> float:
        after = track.position
        items = await self.store.feed(f"observations/{track.pair.split}", after, PAGE)
        if track.position == after:  # nobody else has folded these meanwhile
            track.take(items)
        return left_after(items)

    async def _look(self, plan: Plan, run: str, leg: Leg, live: Live) -> Turn | None:
        """One look at what is new: the turn to take, or None."""
        backlog = Backlog(self.store)
        given = await self._next_order(run, leg.orders)
        while given.order != "rollback":
            left = await self._fold(live)
            given = await self._next_order(run, leg.orders)  # there may be much to catch up with
            if not await backlog.remains(left):
                break
        now = self.clock.now()
        evidence = evidence_of(plan, leg.state, live.tallies())
        if judged_by_a_person(plan, leg.state, given.order):
            parts = [replace(one, judgements=()) for one in evidence.others]
            evidence = replace(evidence, judgements=(), others=tuple(parts))
        state = replace(leg.state, order=given.order, target=given.to)
        decision = rules.decide(plan, state, evidence, now)
        if given.seq > leg.orders or not isinstance(decision, Continue):
            return taken(decision, given, live.tripped, now)
        if signal := await self._next_approval(run, leg.signals):
            return Turn("hear", "an approval has arrived", now, leg.orders, signal=signal)
        await self._refresh(plan, run, leg, live, decision.reason)
        return None

    async def _next_approval(self, run: str, after: int) -> int:
        """The number of the next signal that is one, 0 when there is none. The workflow receives
        one for each; which one is first is for their priorities to say."""
        signals = await self.store.signals([(run, after)])
        return next((signal.seq for signal in signals if signal.name == SIGNAL), 0)

    async def _next_order(self, run: str, after: int) -> Given:
        items = await self.store.feed(f"orders/{run}", after, 1)
        return read_order(items[0].seq, items[0].payload) if items else Given(after)

    # What the steps are made of: the status.

    async def _refresh(self, plan: Plan, run: str, leg: Leg, live: Live, reason: str) -> None:
        """Publish the counts and the evidence as they are now, if they have changed."""
        now = self.clock.monotonic()
        if now - live.looked < _TICK:
            return
        live.looked = now
        shown = live.shown or await self.shown(plan.name)
        if shown is None or shown[1].run != run or shown[1].turn != leg.turn:
            return  # another worker is further
        epoch, known = shown
        why = known.reason if leg.state.status == "held" else reason  # not that it waits, but why
        status = status_of(plan, run, leg.state, live.seen(leg.epochs), why, known.history)
        status = replace(_carried(status, known), turn=known.turn, notes=live.notes())
        idle = max(_IDLE[0], _IDLE[1] * (self.clock.now() - leg.state.entered_at))
        slow = replace(status, reason=known.reason) == known and now - live.published < idle
        if status == known or slow:
            live.shown = shown
            return
        live.published = now
        fits = await self._publish(plan, status, live, epoch)
        live.shown = (epoch + 1, status) if fits else None

    async def _record(
        self, plan: Plan, run: str, leg: Leg, turn: Turn, epochs: tuple[int, ...]
    ) -> None:
        """Write the turn into the published history, once."""
        state = leg.after(turn)
        live = self._live_of(plan, run, leg)
        backlog = Backlog(self.store)
        while await backlog.remains(await self._fold(live)):
            pass
        seen = live.seen(epochs)
        if leg.renews(turn):
            new = nothing_seen(plan, epochs)
            seen = tuple(
                replace(one, counts=old.counts) for one, old in zip(new, seen, strict=True)
            )
        event = turn.event(self.clock.now(), leg.orders)
        while (shown := await self.shown(plan.name)) and shown[1].run == run:
            at, known = shown
            if known.turn >= leg.turn + 1:
                break
            history = (*known.history, event)
            status = status_of(plan, run, state, seen, turn.reason, history)
            status = replace(_carried(status, known), turn=leg.turn + 1, notes=live.notes())
            status = replace(status, guard=turn.guard)
            if await self._publish(plan, status, live, at):
                log.info("rollout %s: %s: %s", plan.name, turn.kind, turn.reason)
                break
        live.shown = None
        if state.ended:
            await self._note_late_orders(plan, run, turn.orders)

    async def _publish(self, plan: Plan, status: RolloutStatus, live: Live, expected: int) -> bool:
        try:
            await self._pen.put(plan, status, live, self.clock.now(), expected)
        except EpochConflict:
            return False
        return True

    async def _note_late_orders(self, plan: Plan, run: str, read: int) -> None:
        """Orders that came when the end was decided are not carried out, but are in the history."""
        late = [read_order(i.seq, i.payload) for i in await self.store.feed(f"orders/{run}", read)]
        while late and (shown := await self.shown(plan.name)) and shown[1].run == run:
            epoch, known = shown
            if not known.ended:
                return  # another worker goes on with it
            new = [one for one in late if not one.is_in(known.history)]
            events = [one.too_late(self.clock.now()) for one in new]
            status = replace(known, history=(*known.history, *events))
            if not events or await self.put("rollout", plan.name, status.to_json(), epoch):
                return

    async def _introduce(self, status: RolloutStatus) -> None:
        """Publish the first status of a run that has begun or was refused, once."""
        while True:
            shown = await self.shown(status.name)
            epoch, known = shown or (0, None)
            if known is not None:
                begun = known.opened is not None or known.ended
                other = known.run != status.run
                if (begun and not other) or (other and await self.under_way(known)):
                    return
                if not other:
                    status = status.begun_by(known.by)
            if await self.put("rollout", status.name, status.to_json(), epoch):
                return

    async def shown(self, name: str) -> tuple[int, RolloutStatus] | None:
        """The published status and its document's epoch."""
        document = await self.store.document("rollout", name)
        return document and (document.epoch, RolloutStatus.from_json(document.body))

    # What the desk needs too.

    async def announce(self, plan: Plan, by: str = "") -> str:
        """Take the rollout's name for a new run that `by` begins; the id for that run.

        Raises RolloutError while a rollout of that name is under way.
        """
        while True:
            epoch, known = await self.shown(plan.name) or (0, None)
            if known is not None and await self.under_way(known):
                raise moved_already(known)
            run = await self._free_run(plan.name, known)
            if known is not None and known.run != run:  # its history is kept
                await self.put("rollout-past", known.run, known.to_json(), 0)
            state = rules.start(self.clock.now())
            status = status_of(plan, run, state, nothing_seen(plan), "waits for a worker", ())
            status = replace(status, by=by)
            if await self.put("rollout", plan.name, status.to_json(), epoch):
                return run

    async def _free_run(self, name: str, known: RolloutStatus | None) -> str:
        """The first run id of this name that is not used up."""
        number = 1 if known is None else int(known.run.rpartition("-")[2]) + known.ended
        while True:
            run = f"rollout-{name}-{number}"
            record = await self.store.run(run)
            if record is None or record.state not in SETTLED:
                return run
            number += 1

    async def statuses(self) -> list[RolloutStatus]:
        """What is published of all rollouts, by name; one that cannot be read is logged."""
        found = []
        for document in await self.store.documents("rollout"):
            try:
                found.append(RolloutStatus.from_json(document.body))
            except CodecError:
                log.exception("rollout %s is left out", document.name)
        return found

    async def under_way(self, status: RolloutStatus) -> bool:
        """Whether the rollout has not ended and there is a run that moves it."""
        return not status.ended and await self.is_alive(status.run)

    async def refuse_forced(self, plan: Plan) -> None:
        """Raises RolloutError while a split of the plan is forced to its baseline."""
        for pair in plan.pairs:
            document = await self.store.document("split", pair.split)
            if document is not None:
                refuse_forced(Split.from_json(document.body))

    async def is_alive(self, run: str) -> bool:
        """Whether the run exists and has not ended, and is not parked."""
        record = await self.store.run(run)
        return record is not None and record.state not in SETTLED

    @contextlib.asynccontextmanager
    async def news(self, *topics: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set by each of these topics."""
        event = asyncio.Event()
        stop = self.store.listen(lambda topic: event.set() if topic in topics else None)
        try:
            yield event
        finally:
            stop()

    async def put(self, kind: str, name: str, body: bytes, expected: int) -> bool:
        """Replace a document; False when it does not have that epoch any more."""
        try:
            await self.writer.submit(PutDocument(kind, name, body, expected))
        except EpochConflict:
            return False
        return True


def moved_already(status: RolloutStatus) -> RolloutError:
    """Why another rollout of that split, or of that name, cannot begin."""
    return RolloutError(
        f"rollout {status.name} of split {status.split} is {status.state} in stage {status.stage}",
        hint="Let it end, or roll it back first",
    )


def refuse_forced(split: Split) -> None:
    """Raises RolloutError while the split is forced to its baseline."""
    if split.forced:
        raise RolloutError(
            f"split {split.name} is forced to its baseline: {split.forced}",
            hint=f"Release it first: aura rollback {split.name} --release",
        )


def _carried(status: RolloutStatus, known: RolloutStatus) -> RolloutStatus:
    """With what stays from one status to the next."""
    return replace(status, opened=known.opened, begun=known.begun, by=known.by)


def _way(split: Split) -> tuple[object, ...]:
    """Where a split sends its units, without the epoch."""
    return tuple(arm.buckets for arm in split.arms[1:]), split.mirror, split.sample, split.moving
