"""A split that learns: the policies of `aura.choose` for targets behind a gateway.

    learning:
      name: model-route
      split: chat
      arms: [small, large]      # the first one is the baseline
      policy: thompson          # or ucb
      reward: outcome           # good and within the SLA; or {metric: score, horizon: 1d}
      sla: 800ms
      floor: 5%
      every: 30s
      max_failures: 10%

A durable workflow looks `every` so often at what units experienced, and gives each arm the share
with which it is believed to be the best one. Units stay on their arm as long as its range allows.

    open ──▶ look ──▶ look ──▶ ... ──▶ end      ordered, or the run is cancelled

`open`, `look` and `end` replace the split and the document `learning/<name>` by compare-and-set.
What was learnt is in that document with the positions in the feeds up to which it was folded, so
whoever takes over goes on from there, and nothing is folded twice.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, cast

from aura.clock import Clock
from aura.delivery.ledger import Ledger, Line
from aura.delivery.observation import Observation
from aura.delivery.policy import DAY, Policy, probabilities, tripping
from aura.delivery.reward import Reward
from aura.delivery.rollouts import Rollouts
from aura.delivery.split import Arm, Split
from aura.delivery.turn import reason_of
from aura.engine import (
    Retry,
    Step,
    Workflow,
    continue_as_new,
    no_order_of_a_shadow,
    own_step,
    receive,
)
from aura.errors import CodecError, FlowError, PlanError, SignalTimeout, UnknownFlow
from aura.stats.hashing import BUCKETS
from aura.store.base import AppendFeed, FeedItem, PutDocument, Store, Writer
from aura.yamlnodes import Node, load, read

log = logging.getLogger("aura.delivery")

WORKFLOW, VERSION = "aura.learning", "1.0.0"
OUTCOME = "outcome"
_LOOKS = 500  # after which the workflow begins anew
_PAGE, _HISTORY = 1_000, 50
_PATIENCE = 5.0  # seconds for a worker to take it up
_LEAST_CHANGE = 0.005  # of a share; below it nobody is moved
_LAG = 1.0  # seconds by which an observation may be written behind a reward for it
_RETRY = Retry(attempts=10, first=0.1, longest=5.0, never=(FlowError,))


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningPlan:
    """`arms` are names of targets, the first is the baseline. `metric` is "outcome", or what is
    read from observations (numbers from 0 to 1) and from late rewards. Times are in seconds. Raises
    FlowError for settings that make no sense."""

    name: str
    split: str
    arms: tuple[str, ...]
    policy: Policy = field(default_factory=lambda: Policy(floor=0.05))
    metric: str = OUTCOME
    sla: float | None = None
    every: float = 30.0

    def __post_init__(self) -> None:
        if len(self.arms) < 2 or len(set(self.arms)) < len(self.arms):
            raise FlowError(
                f"learning {self.name} has the arms {', '.join(self.arms) or '(none)'}",
                hint="Name at least two different targets, the baseline first",
            )
        if self.policy.rule == "weights":
            raise FlowError("fixed weights learn nothing", hint="Use thompson or ucb")
        if self.policy.floor * len(self.arms) > 1:
            raise FlowError(
                f"{len(self.arms)} arms cannot have at least {self.policy.floor:.0%} each",
                hint="Lower the floor",
            )
        if not self.every >= 0.1:
            raise FlowError(f"every is {self.every} s", hint="Look at most ten times a second")


def load_learning(path: str | Path) -> LearningPlan:
    """The `learning:` section of a file. Raises ConfigError with file, line and what to do."""
    return parse_learning(read(Path(path), kind="learning", error=PlanError), str(path))


def parse_learning(text: str, source: str = "learning") -> LearningPlan:
    """The same of a file's text; `source` names it in errors. Raises PlanError."""
    root = load(text, file=source, kind="learning", begin="learning:", error=PlanError)
    members = root.members()
    if "learning" not in members:
        root.fail("there is no `learning:`", "begin it as in docs/how-to/flows.md")
    known = {"name", "split", "arms", "policy", "reward", "sla", "floor", "every", "max_failures"}
    part = members["learning"].fields(known, required=("name", "arms"))
    reward = _reward(part.get("reward"))
    try:
        return LearningPlan(
            name=part["name"].text(),
            split=(part.get("split") or part["name"]).text(),
            arms=tuple(one.text() for one in part["arms"].items()),
            metric=reward[0],
            sla=part["sla"].seconds(positive=True) if "sla" in part else None,
            every=part["every"].seconds(positive=True) if "every" in part else 30.0,
            policy=Policy(
                cast("Any", _rule(part)),
                floor=part["floor"].percent() if "floor" in part else 0.05,
                horizon=reward[1],
                max_failures=part["max_failures"].percent() if "max_failures" in part else None,
            ),
        )
    except FlowError as error:
        members["learning"].fail(str(error))


def _rule(part: Mapping[str, Node]) -> str:
    return part["policy"].choice("thompson", "ucb") if "policy" in part else "thompson"


def _reward(node: Node | None) -> tuple[str, float]:
    """The metric, and for how many seconds it is waited for."""
    if node is None or node.scalar:
        return (OUTCOME if node is None else node.text()), DAY
    part = node.fields({"metric", "horizon"}, required=("metric",))
    horizon = part["horizon"].seconds(positive=True) if "horizon" in part else DAY
    return part["metric"].text(), horizon


@dataclass(frozen=True, slots=True)
class LearningStatus:
    """What people see, and what whoever takes over goes on with. `weights` by arm, positions of the
    feeds up to which was folded; `history` says who did what, when (epoch seconds) and why."""

    name: str
    split: str
    run: str
    state: Literal["running", "stopped"]
    arms: tuple[str, ...]
    weights: Mapping[str, float]
    epoch: int
    observations: int
    rewards: int
    ledger: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]

    def to_json(self) -> bytes:
        """Compact JSON."""
        return json.dumps({one: getattr(self, one) for one in _FIELDS}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> LearningStatus:
        """Read what `to_json` wrote. Raises CodecError."""
        try:
            body = json.loads(data)
            body |= {"arms": tuple(body["arms"]), "history": tuple(body["history"])}
            return cls(**body)
        except (ValueError, TypeError, KeyError) as error:
            raise CodecError(
                f"what a split has learnt cannot be read: {error}",
                hint="It was not written by Aura",
            ) from error

    def noted(self, what: str, reason: str, by: str, at: float) -> LearningStatus:
        """With one more line of history."""
        line = {"at": at, "what": what, "reason": reason, "by": by}
        return replace(self, history=(*self.history, line)[-_HISTORY:])


_FIELDS = tuple(LearningStatus.__dataclass_fields__)


def take(plan: LearningPlan, ledger: Ledger, observations: Iterable[Observation]) -> None:
    """Fold what units experienced. What comes by late rewards is one choice per unit and arm."""
    for one in observations:
        if one.arm not in plan.arms or one.shadow:
            continue
        late = plan.sla is not None and one.latency > plan.sla
        good = one.ok and not late
        ledger.fold(Line("outcome", one.at, one.arm, value=float(good)))
        id = f"{one.unit}/{one.arm}"
        value = float(good) if plan.metric == OUTCOME else one.metrics.get(plan.metric)
        if value is None and id in ledger:
            continue
        choice = Line(
            "choice", one.at, one.arm, id, one.unit, one.share,
            one.at + plan.policy.horizon + _LAG, plan.policy.overdue,
        )  # fmt: skip
        ledger.fold(choice)
        if value is not None:
            ledger.fold(Line("reward", one.at, id=id, value=min(1.0, max(0.0, value))))


def fold(
    plan: LearningPlan,
    ledger: Ledger,
    observations: Iterable[FeedItem],
    rewards: Iterable[FeedItem],
) -> None:
    """Fold both feeds in the order of the database's time, so that a worker that was away for
    longer than the horizon gives each reward to its choice. A reward follows what it is for."""
    order = [(item.at, 0, item) for item in observations]
    order += [(item.at + _LAG, 1, item) for item in rewards]
    for _, late, item in sorted(order, key=lambda one: one[:2]):
        try:
            if late:
                reward = Reward.from_json(item.payload)
                if reward.metric == plan.metric:
                    value = min(1.0, max(0.0, reward.value))
                    ledger.fold(Line("reward", item.at, run=reward.unit, value=value))
            else:
                one = Observation.from_json(item.payload)  # a gateway's clock may be wrong
                take(plan, ledger, [replace(one, at=item.at)])
        except CodecError as error:
            log.warning("item %d of what split %s learns from: %s", item.seq, plan.split, error)
            ledger.ignored += 1


def due(
    observations: Sequence[FeedItem], rewards: Sequence[FeedItem], now: float, page: int = _PAGE
) -> tuple[list[FeedItem], list[FeedItem]]:
    """What of these pages may be folded now, because nothing earlier can follow."""
    ready = list(takewhile(lambda item: item.at + _LAG <= now, rewards))
    ends = [max(item.at for item in observations)] if len(observations) == page else []
    ends += [max(item.at for item in ready) + _LAG] if len(ready) == page else []
    end = min(ends, default=math.inf)
    return (
        list(takewhile(lambda item: item.at <= end, observations)),
        list(takewhile(lambda item: item.at + _LAG <= end, ready)),
    )


class Learning:
    """The splits of an app that learn: `app.learning`. Open while the app is."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts
        self.workflow: Workflow[..., Any] = Workflow(WORKFLOW, VERSION, self._learn)
        self._open: Step[..., Any] = own_step(self._open_split, name="open", retry=_RETRY)
        self._look: Step[..., Any] = own_step(self._look_once, name="look", retry=_RETRY)
        self._end: Step[..., Any] = own_step(self._end_split, name="end", retry=_RETRY)

    def open(self, store: Store, writer: Writer, clock: Clock, start: Any, run: Any) -> None:
        self._store, self._writer, self._clock = store, writer, clock
        self._start, self._run = start, run

    async def start(self, plan: LearningPlan) -> LearningStatus:
        """Begin. Raises FlowError while something else moves the split, or it learns already."""
        no_order_of_a_shadow(f"start learning {plan.name}")
        known = await self._known(plan.name)
        await self._refuse_while_named(known)
        run_id = f"{WORKFLOW}:{plan.name}:{secrets.token_hex(4)}"
        await self._claim(plan, run_id)
        await self._start(WORKFLOW, plan, run_id, id=run_id)
        return await self._begun(plan, run_id)

    async def _begun(self, plan: LearningPlan, run: str) -> LearningStatus:
        give_up = self._clock.monotonic() + _PATIENCE
        while (known := await self._known(plan.name)) is None or known[1].run != run:
            if self._clock.monotonic() >= give_up:
                raise FlowError(
                    f"learning {plan.name} is recorded, but no worker has taken it up",
                    hint="Start one (`aura worker MODULE:APP`); it then begins. Or see why not: "
                    f"aura runs show {run}",
                )
            await self._clock.sleep(0.02)
        return known[1]

    async def stop(self, name: str, *, keep: bool = False, by: str = "", reason: str = "") -> None:
        """End it: everybody to the baseline, or as they are now (`keep`). Raises FlowError."""
        status = await self.status(name)
        if status.state != "running":
            raise FlowError(f"learning {name} is {status.state}", hint="There is nothing to stop")
        payload = {"keep": keep, "by": by, "reason": reason}
        await self._run(status.run).signal("stop", payload, priority="critical", id="stop")

    async def status(self, name: str) -> LearningStatus:
        """What was published last. Raises FlowError when there is none of that name."""
        known = await self._known(name)
        if known is None:
            raise UnknownFlow(
                f"no split learns under the name {name}",
                hint="Begin with: aura flows start FILE",
            )
        return known[1]

    async def all(self) -> list[LearningStatus]:
        """All of them, by name."""
        found = [LearningStatus.from_json(one.body) for one in await self._documents()]
        return sorted(found, key=lambda one: one.name)

    async def _documents(self) -> list[Any]:
        return list(await self._store.documents("learning"))

    async def _known(self, name: str) -> tuple[int, LearningStatus] | None:
        document = await self._store.document("learning", name)
        if document is None:
            return None
        return document.epoch, LearningStatus.from_json(document.body)

    async def _refuse_while_named(self, known: tuple[int, LearningStatus] | None) -> None:
        if known and known[1].state == "running" and await self._is_alive(known[1].run):
            name = known[1].name
            raise FlowError(
                f"learning {name} is under way", hint=f"Stop it: aura flows stop {name}"
            )

    async def _is_alive(self, run: str) -> bool:
        return await self._rollouts.engine.is_alive(run)

    # The workflow.

    async def _learn(self, plan: LearningPlan, run: str) -> str:
        try:
            await self._open(plan, run)
            for _ in range(_LOOKS):
                if await self._stopped_within(plan, run):
                    return "stopped"
                if not await self._look(plan, run):
                    return "stopped"
        except Exception as error:
            await self._end(plan, run, False, f"given up: {reason_of(error)}", "")
            raise
        except asyncio.CancelledError:
            if await self._rollouts.engine.is_cancelled(run):
                await self._end(plan, run, False, "its run was cancelled", "")
            raise
        return continue_as_new(plan, run)

    async def _stopped_within(self, plan: LearningPlan, run: str) -> bool:
        """Whether it was ordered to stop before the next look, and has."""
        try:
            order = await receive("stop", type=dict[str, Any], timeout=plan.every)
        except SignalTimeout:
            return False
        reason = str(order.get("reason") or "ordered")
        await self._end(plan, run, bool(order.get("keep")), reason, str(order.get("by") or ""))
        return True

    # The steps.

    async def _open_split(self, plan: LearningPlan, run: str) -> int:
        """Make the split stand with equal shares, unless it does since a try before; its epoch."""
        known = await self._known(plan.name)
        if known is not None and known[1].run == run:
            return known[1].epoch
        await self._refuse_while_named(known)
        split, epoch = await self._claim(plan, run)
        if split.seed != _seed(plan, run):
            new = Split(plan.split, epoch + 1, _seed(plan, run), _even(plan.arms), moving=True)
            await self._put("split", plan.split, new.to_json(), epoch)
            split, epoch = new, epoch + 1
        observations = await self._end_of(f"observations/{plan.split}")
        rewards = await self._end_of(f"rewards/{plan.split}")
        weights = {arm.name: arm.weight for arm in split.arms}
        status = LearningStatus(
            plan.name, plan.split, run, "running", plan.arms, weights, epoch, observations, rewards,
            Ledger().to_dict(), (),
        )  # fmt: skip
        begun = f"{plan.policy.rule} over {', '.join(plan.arms)}"
        status = status.noted("start", begun, "", self._clock.now())
        await self._put("learning", plan.name, status.to_json(), known[0] if known else 0)
        return epoch

    async def _look_once(self, plan: LearningPlan, run: str) -> dict[str, float]:
        """Fold what is new, and give each arm its share; the shares, none when it has ended
        because an emergency has taken the split back."""
        at, status = await self._mine(plan, run)
        if status.state == "stopped":
            return {}
        split, epoch = await self._own(plan, run)
        if split.forced or not split.moving:
            why = f"forced to its baseline: {split.forced}" if split.forced else "taken back"
            await self._end_split(plan, run, False, f"split {split.name} was {why}", "")
            return {}
        ledger = Ledger.from_dict(status.ledger)
        observations, rewards = await self._fold(plan, status, ledger)
        now = self._clock.now()
        for arm, evidence in tripping(plan.policy, ledger, plan.arms).items():
            reason = f"evidence {evidence:.3g} that more than {plan.policy.max_failures:.3g} fail"
            ledger.fold(Line("trip", now, arm, by=reason))
            status = status.noted("trip", f"{arm}: {reason}", "", now)
        wanted = _rounded(probabilities(plan.policy, ledger, plan.arms))
        weights = {arm.name: arm.weight for arm in split.arms}
        if max(abs(wanted[arm] - weights[arm]) for arm in plan.arms) >= _LEAST_CHANGE:
            weights, epoch = wanted, await self._shift(plan, run, wanted)
        status = replace(status, weights=weights, epoch=epoch)
        status = replace(
            status, observations=observations, rewards=rewards, ledger=ledger.to_dict()
        )
        await self._put("learning", plan.name, status.to_json(), at)
        return dict(status.weights)

    async def _end_split(
        self, plan: LearningPlan, run: str, keep: bool, reason: str, by: str
    ) -> None:
        """Also when the run has died before it had a status: its split is not left moving."""
        known = await self._known(plan.name)
        mine = known[1] if known is not None and known[1].run == run else None
        if mine is not None and mine.state == "stopped":
            return
        weights = {arm: float(arm == plan.arms[0]) for arm in plan.arms}
        epoch = None
        if (split := await self._still_own(plan, run)) is not None:
            if mine is not None and keep and not split.forced:
                weights = {arm.name: arm.weight for arm in split.arms}
            epoch = await self._shift(plan, run, weights, moving=False)
        if known is None or mine is None:
            return
        if epoch is not None:
            mine = replace(mine, weights=weights, epoch=epoch)
        mine = replace(mine, state="stopped").noted("stop", reason, by, self._clock.now())
        await self._put("learning", plan.name, mine.to_json(), known[0])

    # What the steps are made of.

    async def _mine(self, plan: LearningPlan, run: str) -> tuple[int, LearningStatus]:
        known = await self._known(plan.name)
        if known is None or known[1].run != run:
            raise FlowError(f"learning {plan.name} was begun anew by another run")
        return known

    async def _fold(
        self, plan: LearningPlan, status: LearningStatus, ledger: Ledger
    ) -> tuple[int, int]:
        """The positions after it."""
        seen, late, now = status.observations, status.rewards, await self._store.moment()
        while True:
            observations, rewards = due(
                await self._store.feed(f"observations/{plan.split}", seen, _PAGE),
                await self._store.feed(f"rewards/{plan.split}", late, _PAGE),
                now,
            )
            if not observations and not rewards:
                return seen, late
            fold(plan, ledger, observations, rewards)
            seen = observations[-1].seq if observations else seen
            late = rewards[-1].seq if rewards else late

    async def _claim(self, plan: LearningPlan, run: str) -> tuple[Split, int]:
        """The split as it is (epoch 0: there is none). Raises FlowError when it is another's."""
        document = await self._store.document("split", plan.split)
        if document is None:
            return Split(plan.split, 0, "", _even(plan.arms)), 0
        split = Split.from_json(document.body)
        mover = split.seed.removeprefix(f"{split.name}/")
        if split.forced:
            raise FlowError(
                f"split {split.name} is forced to its baseline: {split.forced}",
                hint=f"Release it first: aura rollback {split.name} --release",
            )
        if split.moving and mover != run and await self._is_alive(mover):
            raise FlowError(
                f"split {split.name} is moved by the run {mover}", hint="Let that end first"
            )
        return split, document.epoch

    async def _shift(
        self, plan: LearningPlan, run: str, weights: Mapping[str, float], *, moving: bool = True
    ) -> int:
        """The split's epoch with these weights. A forced split stays as it is."""
        split, epoch = await self._own(plan, run)
        arms = tuple(Arm(name, weights[name]) for name in plan.arms)
        new = replace(split, arms=arms, epoch=epoch + 1, moving=moving)
        same = (split.arms, split.moving) == (new.arms, new.moving)
        if split.forced or same:
            return epoch
        await self._put("split", plan.split, new.to_json(), epoch)
        return epoch + 1

    async def _own(self, plan: LearningPlan, run: str) -> tuple[Split, int]:
        """The split and its epoch. Raises FlowError when it is not this run's any more."""
        split = await self._still_own(plan, run)
        if split is None:
            raise FlowError(f"split {plan.split} is gone, or was taken over by somebody else")
        return split, split.epoch

    async def _still_own(self, plan: LearningPlan, run: str) -> Split | None:
        """The split with the epoch of its document, unless it is another run's."""
        document = await self._store.document("split", plan.split)
        if document is None:
            return None
        split = replace(Split.from_json(document.body), epoch=document.epoch)
        return split if split.seed == _seed(plan, run) else None

    async def _end_of(self, feed: str) -> int:
        """The number of the feed's last item: an empty append tells it."""
        return cast("int", await self._writer.submit(AppendFeed(feed, ())))

    async def _put(self, kind: str, name: str, body: bytes, expected: int) -> None:
        """Raises EpochConflict, after which the step is tried again and looks anew."""
        await self._writer.submit(PutDocument(kind, name, body, expected))


def _seed(plan: LearningPlan, run: str) -> str:
    return f"{plan.split}/{run}"


def _even(arms: tuple[str, ...]) -> tuple[Arm, ...]:
    weights = _rounded({arm: 1 / len(arms) for arm in arms})
    return tuple(Arm(arm, weights[arm]) for arm in arms)


def _rounded(shares: Mapping[str, float]) -> dict[str, float]:
    """In whole buckets; the first arm takes what is lost by it."""
    first, *others = shares
    found = {arm: math.floor(shares[arm] * BUCKETS) / BUCKETS for arm in others}
    rest = round((1 - math.fsum(found.values())) * BUCKETS) / BUCKETS
    return {first: rest, **found}
