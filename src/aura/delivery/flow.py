"""Choosing a path inside a workflow, and learning which one is worth taking.

    await aura.choose("strategy", {"fast": quick, "deep": slow}, context={"long": True})

The choice is a step: its arm and probability are in the journal, and a replay takes the recorded
one. The log of choices, rewards and outcomes is a feed (`choices/<name>`); each process folds it
into a `Ledger`, beginning with the snapshot in the document `flow/<name>`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar, cast, overload

from aura.clock import Clock
from aura.delivery.ledger import Ledger, Line
from aura.delivery.policy import Chosen, Policy, Value, draw, features, probabilities, tripping
from aura.engine import Retry, Step, borrow, here
from aura.errors import (
    CodecError,
    DatabaseMoved,
    EpochConflict,
    FlowError,
    StoreUnavailable,
    UnknownFlow,
)
from aura.store.base import AppendFeed, PutDocument, Store, Sweep, Writer

log = logging.getLogger("aura.delivery")

T = TypeVar("T")
Condition = Callable[[Mapping[str, Value]], str]
CHOICES = "choices/"  # begins the names of the logs
_STALE = 0.2  # seconds for which what was folded is good enough
_PAGE = 1_000
_SNAPSHOT = 1_000  # lines after which what was folded is kept as a document
_RETRY = Retry(attempts=10, first=0.1, longest=5.0, never=(FlowError,))


Rule = str | Mapping[str, float] | Policy | Condition


@overload
async def choose(
    name: str,
    arms: Mapping[str, Callable[[], Awaitable[T]]],
    *,
    context: Mapping[str, Value] | None = None,
    policy: Rule = "thompson",
    reward: Callable[[T], float] | None = None,
    fallback: bool = False,
) -> T: ...


@overload
async def choose(
    name: str,
    arms: Mapping[str, Callable[[], T]],
    *,
    context: Mapping[str, Value] | None = None,
    policy: Rule = "thompson",
    reward: Callable[[T], float] | None = None,
    fallback: bool = False,
) -> T: ...


async def choose(
    name: str,
    arms: Mapping[str, Callable[[], Any]],
    *,
    context: Mapping[str, Value] | None = None,
    policy: Rule = "thompson",
    reward: Callable[[Any], float] | None = None,
    fallback: bool = False,
) -> Any:
    """Take one of several paths, and learn from what it was worth; the result of the path.

    `arms` are functions by name, the first one is the baseline. `policy` is "thompson" or "ucb",
    fixed weights by arm, a `Policy` with all settings, or a function that names the arm for a
    context. `context` (text, truth, numbers of about -1 to 1) lets Thompson sampling learn what is
    best when. `reward` makes a number from 0 to 1 of the result; without it the reward may come
    later, by `run.reward(name, value)`. With `fallback` a path that raises is replaced by the next
    one in the order of `arms`.

    Raises FlowError for arms, a context, weights or a reward that cannot be, ConfigError outside a
    run, and what the path raises.
    """
    if not arms or not all(arms):
        raise FlowError(
            f"choose({name!r}) has the arms {list(arms)}", hint="Give functions by names"
        )
    settings = _settings(policy)
    told = dict(context or {})
    if isinstance(settings, Policy):
        learns = reward is not None or settings.max_failures is not None
        ask = _step(f"choose:{name}", _draw)
        drawn: Drawn = await ask(name, list(arms), features(told), settings, learns)
        arm, choice = drawn.arm, drawn.id if learns else ""
    else:
        choice = ""
        arm = await _step(f"choose:{name}", _keep)(name, settings(told))
        if arm not in arms:
            raise FlowError(
                f"the condition of choose({name!r}) names {arm!r}",
                hint=f"Let it give one of {', '.join(arms)}",
            )
    tell = _step(f"told:{name}", _tell)
    try:
        value = await _path(arms[arm])
    except Exception as error:
        if choice:
            await tell(name, arm, choice, False, None)
        others = [one for one in arms if one != arm] if fallback else []
        if not others:
            raise
        log.info("path %s of %s failed, the next one is taken: %s", arm, name, error)
        return await _first_good([arms[one] for one in others])
    if choice:
        await tell(name, arm, choice, True, None if reward is None else _worth(name, reward(value)))
    return value


async def _first_good(paths: Sequence[Callable[[], Any]]) -> Any:
    """The result of the first one that does not raise; what the last one raises."""
    for path in paths[:-1]:
        try:
            return await _path(path)
        except Exception as error:  # noqa: BLE001  (that is what a fallback is for)
            log.info("another path failed, the next one is taken: %s", error)
    return await _path(paths[-1])


async def _path(path: Callable[[], Any]) -> Any:
    value = path()
    return await value if inspect.isawaitable(value) else value


@dataclass(frozen=True, slots=True)
class Drawn:
    """A choice as it is journalled; `id` is its name in the log."""

    arm: str
    probability: float
    probabilities: dict[str, float]
    id: str


def _settings(policy: Rule) -> Policy | Condition:
    if isinstance(policy, Policy):
        return policy
    if isinstance(policy, str):
        return Policy(cast("Any", policy))
    if isinstance(policy, Mapping):
        return Policy("weights", dict(policy))
    if callable(policy):
        return policy
    raise FlowError(
        f"{policy!r:.60} is no policy",
        hint='Give "thompson", "ucb", weights by arm, or a function of the context',
    )


def _worth(name: str, value: object) -> float:
    if (
        isinstance(value, bool | int | float)
        and not math.isnan(float(value))
        and 0 <= float(value) <= 1
    ):
        return float(value)
    raise FlowError(f"a reward of {name} is {value!r:.60}", hint="Give a number from 0 to 1")


# The steps. They find the app's `Flows` when their code runs, so a replay needs none.


@cache
def _step(name: str, function: Callable[..., Awaitable[Any]]) -> Step[..., Any]:
    return Step(function, name=name, retry=_RETRY, idempotent=True)


async def _draw(
    name: str, arms: list[str], context: dict[str, float], policy: Policy, tells: bool
) -> Drawn:
    where = here()
    flows = borrow(Flows)
    chosen = await flows.draw(name, arms, context, policy)
    if not where.shadow:
        now = flows.now()
        line = Line(
            "choice", now, chosen.arm, where.call, where.run, chosen.probability,
            now + policy.horizon, policy.overdue, context, tells=tells,
        )  # fmt: skip
        await flows.write(name, line)
        await flows.introduce(name)
    return Drawn(chosen.arm, chosen.probability, dict(chosen.probabilities), where.call)


async def _keep(name: str, arm: str) -> str:  # noqa: ARG001  (the name is for the journal)
    return arm


async def _tell(name: str, arm: str, choice: str, good: bool, reward: float | None) -> None:
    where = here()
    if where.shadow:
        return
    flows = borrow(Flows)
    now = flows.now()
    lines = [Line("outcome", now, arm, choice, where.run, float(good))]
    if reward is not None:
        lines.append(Line("reward", now, run=where.run, id=choice, value=reward))
    await flows.write(name, *lines)


@dataclass(slots=True)
class _Known:
    """What this process has folded of one choice's log."""

    ledger: Ledger = field(default_factory=Ledger)
    position: int = 0
    epoch: int = 0
    kept: int = 0  # the position of the last snapshot
    read_at: float = -math.inf
    arms: tuple[str, ...] = ()
    policy: Policy | None = None
    found: tuple[Any, dict[str, float]] | None = None  # the probabilities, and of what
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Flow:
    """A choice as people see it: what is known of each arm, and their probabilities now."""

    name: str
    arms: Mapping[str, Any]
    probabilities: Mapping[str, float]
    pending: int
    ignored: int
    policy: Policy | None


class Flows:
    """The choices of an app: `app.flows`. Open while the app is. `dice` gives numbers in [0, 1)."""

    def __init__(self, dice: Callable[[], float] = random.random) -> None:
        self.dice = dice
        self._known: dict[str, _Known] = {}

    def open(self, store: Store, writer: Writer, clock: Clock) -> None:
        self._store, self._writer, self._clock = store, writer, clock
        self._known = {}

    def now(self) -> float:
        """Epoch seconds."""
        return self._clock.now()

    async def draw(
        self, name: str, arms: Sequence[str], context: Mapping[str, float], policy: Policy
    ) -> Chosen:
        """Choose by what is known now. Raises FlowError."""
        known = await self._read(name)
        for arm, evidence in tripping(policy, known.ledger, arms).items():
            reason = f"evidence {evidence:.3g} that more than {policy.max_failures:.3g} fail"
            log.warning("path %s of %s is not taken any more: %s", arm, name, reason)
            await self.write(name, Line("trip", self.now(), arm, by=reason))
            known.ledger.arm(arm).tripped = reason
        known.arms, known.policy = tuple(arms), policy
        if context:
            return draw(probabilities(policy, known.ledger, arms, context), self.dice())
        asked = (known.position, known.arms, policy)
        if known.found is None or known.found[0] != asked:
            known.found = asked, probabilities(policy, known.ledger, arms)
        return draw(known.found[1], self.dice())

    async def write(self, name: str, *lines: Line) -> None:
        """Add lines to a log; durable when this returns."""
        payloads = tuple(line.to_json() for line in lines)
        await self._writer.submit(AppendFeed(CHOICES + name, payloads))

    async def introduce(self, name: str) -> None:
        """See to it that a choice is among the names from its first line on."""
        known = self._known.setdefault(name, _Known())
        if not known.epoch:
            async with known.lock:
                await self._keep(name, known)

    async def names(self) -> list[str]:
        """The choices that have been made so far, by name."""
        return sorted(document.name for document in await self._store.documents("flow"))

    async def show(self, name: str) -> Flow:
        """What is known of a choice. Raises FlowError when there is none of that name."""
        known = await self._read(name, fresh=True)
        if not known.position:
            raise UnknownFlow(
                f"no choice {name} has been made", hint="See which there are: aura flows list"
            )
        arms = known.arms or tuple(known.ledger.arms)
        policy = known.policy or Policy()
        found = probabilities(policy, known.ledger, arms)
        ledger = known.ledger
        return Flow(name, dict(ledger.arms), found, ledger.pending, ledger.ignored, known.policy)

    async def reward(self, name: str, run: str, value: float) -> None:
        """Tell what a run's choices of that name were worth, 0 to 1. Those that have a reward
        already keep it. Durable when this returns. Raises FlowError for another value."""
        await self.write(name, Line("reward", self.now(), run=run, value=_worth(name, value)))

    async def release(self, name: str, arm: str, *, by: str = "") -> None:
        """Let a tripped arm be taken again; its failures count anew. Raises FlowError."""
        if arm not in (await self.show(name)).arms:
            raise FlowError(f"choice {name} has no arm {arm}", hint="See: aura flows show")
        await self.write(name, Line("release", self.now(), arm, by=by))

    async def lines(self, name: str) -> list[Line]:
        """The whole log that is still kept."""
        found: list[Line] = []
        after = 0
        while items := await self._store.feed(CHOICES + name, after, _PAGE):
            after = items[-1].seq
            found += [Line.from_json(item.payload, item.at) for item in items]
        return found

    async def sweep_plan(self, what: Sweep) -> Sweep:
        """Old lines may go too, where a snapshot is younger than they are."""
        if not what.feeds:
            return what
        documents = await self._store.documents("flow")
        oldest = self._clock.now() - what.age
        keep = [CHOICES + one.name for one in documents if one.updated_at < oldest]
        return replace(what, feeds=(*what.feeds, CHOICES), keep=(*what.keep, *keep))

    async def _read(self, name: str, *, fresh: bool = False) -> _Known:
        known = self._known.setdefault(name, _Known())
        async with known.lock:
            now = self._clock.monotonic()
            if fresh or now - known.read_at >= _STALE:
                if known.read_at == -math.inf:
                    await self._load(name, known)
                await self._fold(name, known)
                known.read_at = now
                if known.position:
                    await self._keep(name, known)
        return known

    async def _load(self, name: str, known: _Known) -> None:
        document = await self._store.document("flow", name)
        if document is None:
            return
        known.epoch = document.epoch
        try:
            body = json.loads(document.body)
            known.ledger = Ledger.from_dict(body["ledger"])
            known.position = known.kept = int(body["position"])
            known.arms = tuple(body["arms"])
            known.policy = Policy(**body["policy"]) if body["policy"] else None
        except (ValueError, KeyError, TypeError) as error:
            log.warning("what was kept of choice %s cannot be read, its log is: %s", name, error)
            known.ledger, known.position = Ledger(), 0

    async def _fold(self, name: str, known: _Known) -> None:
        while items := await self._store.feed(CHOICES + name, known.position, _PAGE):
            if items[0].seq > known.position + 1 and await self._catch_up(name, known):
                continue
            for item in items:
                try:
                    line = Line.from_json(item.payload, item.at)
                except CodecError as error:
                    log.warning("line %d of choice %s: %s", item.seq, name, error)
                    known.ledger.ignored += 1
                    continue
                known.ledger.fold(line)
            known.position = items[-1].seq

    async def _catch_up(self, name: str, known: _Known) -> bool:
        """Lines were swept before this process looked: whether a snapshot has them."""
        before = known.position, known.kept, known.ledger
        await self._load(name, known)
        if known.position > before[0]:
            return True
        known.position, known.kept, known.ledger = before
        log.warning("lines of choice %s behind %d are gone and do not count", name, before[0])
        return False

    async def _keep(self, name: str, known: _Known) -> None:
        """Keep a snapshot now and then, and once at first, so that the choice is in the list."""
        if known.epoch and known.position - known.kept < _SNAPSHOT:
            return
        policy = known.policy
        body = {
            "ledger": known.ledger.to_dict(),
            "position": known.position,
            "arms": list(known.arms),
            "policy": None if policy is None else _plain(policy),
        }
        put = PutDocument("flow", name, json.dumps(body).encode(), known.epoch)
        with contextlib.suppress(StoreUnavailable, DatabaseMoved):  # next time, or elsewhere
            try:
                known.epoch = cast("int", await self._writer.submit(put))
            except EpochConflict:  # another process has kept one
                document = await self._store.document("flow", name)
                known.epoch = 0 if document is None else document.epoch
            known.kept = known.position


def _plain(policy: Policy) -> dict[str, Any]:
    whole = replace(policy, weights=dict(policy.weights))
    return {name: getattr(whole, name) for name in Policy.__dataclass_fields__}
