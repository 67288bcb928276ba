"""Shadow runs: what they would have done to the world is written down, and not done.

A run is a shadow because of the queue in which it is (`SHADOW`, or one below it); that is in its
row, so it holds over crashes, forks, moves and new executions. Its place's key is the id of the run
whose request it got a copy of, its **baseline** ("" for none). Whatever it starts is a shadow too.

    effect of a shadow run          answered by
    ──────────────────────          ───────────
    step, transaction               the baseline's step of the same key (else: name) and arguments,
                                    its failure as well; else a stub; else the run ends there
    compensation                    nothing: its result is nobody's business
    event, signal, cancel, requeue  nothing: nobody waits for more than that it was accepted
    app.transaction() in a step     what its statements give; it is rolled back at its end
    update, fork                    the run ends there
    order to rollouts and the like  the run ends there

Idempotent steps run. `aura.now()`, `random()` and `uuid()` give what they gave the baseline, so
that arguments made of them are the same. A run that ends where nothing answers is cancelled with
`EffectSuppressed` as its error: that is no failure of its code.

Each effect is a journal entry of the kind "suppressed", with its arguments and what answered it,
before the entry of the answer. Nobody asks for it on a replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aura.codec import Slot, is_encrypted, plain, to_json, unpack
from aura.engine.attempt import Arguments, attempt_until_done
from aura.engine.calls import Call
from aura.engine.faults import load_step_failure
from aura.engine.lanes import Lane, StepScope, scope
from aura.engine.replay import SUPPRESSED
from aura.engine.step import Step, TransactionStep
from aura.errors import EffectSuppressed, StoreUnavailable
from aura.store.base import Entry
from aura.store.queues import Placement, QueueLimits

if TYPE_CHECKING:
    from aura.engine.execution import Execution
    from aura.store.events import NewEvent

SHADOW = "aura.shadow"
"""The queue of shadow runs; those whose names begin with it and a dot are such queues, too."""

LIMITS = QueueLimits(concurrency=8)
"""Of a queue of shadows that nobody has declared."""

ASIDE = "shadow-"
"""Begins the ids of runs that shadows start under an id of their choice."""

PAYLOAD = Slot(Any, "a payload")
_COPIED = ("now", "random", "uuid")
_NAP = 0.2  # seconds until a read that failed is tried again
_CALL = Literal[
    "step",
    "compensation",
    "event",
    "signal",
    "cancel",
    "requeue",
    "update",
    "fork",
    "reward",
    "transaction",
    "order",
]
_Answer = Literal["baseline", "stub", "nothing", "none"]


@dataclass(frozen=True, slots=True)
class Suppressed:
    """One effect of a shadow run that was not made.

    `what` is "step", "compensation", "event", "signal", "cancel", "requeue", "update", "fork",
    "reward", "transaction" or "order";
    `name` the step's, topic's or signal's; `arguments` its decoded input. `answer` says where the
    run got its answer: "baseline", "stub", "nothing" (it needs none) or "none" (it ended there).
    """

    key: str
    what: str
    name: str
    answer: str
    arguments: Any


class Said(NamedTuple):
    """What the entry of such an effect says: see `Suppressed`."""

    what: str
    name: str
    answer: str


class Recorded(NamedTuple):
    """A step of the baseline, as it answers one of its shadow."""

    output: bytes | None
    error: bytes | None


def is_shadow(queue: str | None) -> bool:
    """Whether the runs in that queue are shadows."""
    return queue is not None and (queue == SHADOW or queue.startswith(SHADOW + "."))


def shadow_place(of: str = "", line: str = "") -> Placement:
    """Where a shadow run waits that is a copy of the run `of`, for `app.start(..., queue=...)`:
    the queue "aura.shadow", or with `line` "aura.shadow.<line>"."""
    return Placement(f"{SHADOW}.{line}" if line else SHADOW, key=of)


def suppressed(journal: Iterable[Entry]) -> list[Suppressed]:
    """What a shadow run would have done, from its journal, in order and each effect once."""
    return [
        Suppressed(entry.key, *said, None if is_encrypted(entry.input) else plain(entry.input))
        for entry, said in suppressed_entries(journal)
    ]


def suppressed_entries(journal: Iterable[Entry]) -> list[tuple[Entry, Said]]:
    """The entries of effects that were not made, and what they say, each effect once."""
    found = {entry.key: entry for entry in journal if entry.kind == SUPPRESSED}
    return [(entry, _said(entry)) for entry in found.values()]


def _said(entry: Entry) -> Said:
    if is_encrypted(entry.output):
        return Said("effect", _name(entry.key), "encrypted")
    return Said(**plain(entry.output))


class Baseline:
    """What the journal of the run that was answered has for its shadow. Pure."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._values: dict[str, Entry] = {}
        self._steps: dict[tuple[str, str], Entry] = {}
        self._alike: dict[tuple[str, str], Entry] = {}
        for entry in entries:
            if entry.kind == "value":
                self._values[entry.key] = entry
            elif entry.kind == "step":
                self._steps[entry.key, entry.fingerprint] = entry
                self._alike.setdefault((_name(entry.key), entry.fingerprint), entry)

    def step(self, key: str, fingerprint: str) -> Recorded | None:
        """The step of that key and arguments, else the first of that name and arguments."""
        found = self._steps.get((key, fingerprint)) or self._alike.get((_name(key), fingerprint))
        return None if found is None else Recorded(found.output, found.error)

    def value(self, key: str) -> Entry | None:
        """What `aura.now()` and the like gave it at that key."""
        return self._values.get(key)


class Shadow:
    """What makes one execution a shadow. `baseline` is the id of the run it is a copy of, or ""."""

    def __init__(self, execution: Execution, journal: Iterable[Entry]) -> None:
        self.baseline = execution.record.key
        self._execution = execution
        self._answers = Baseline()
        self._noted = {entry.key for entry in journal if entry.kind == SUPPRESSED}

    async def open(self) -> None:
        """Read the journal of the baseline. A rehearsal needs none: its own journal answers."""
        store = self._execution.children.store
        if not self.baseline or store is None:
            return
        lane = scope.set(None)  # what reading begins opens no lane
        try:
            found = None
            while found is None:
                try:
                    found = await store.journal(self.baseline)
                except StoreUnavailable:
                    await self._execution.clock.sleep(_NAP)
            self._answers = Baseline(found)
        finally:
            scope.reset(lane)

    # What the run's code calls.

    async def step(self, step: Step[..., Any], call: Call, arguments: Arguments) -> Any:
        """Answer an effectful step without running it. Raises StepFailed as the baseline's did,
        and EffectSuppressed, which ends the run."""
        what: _CALL = "compensation" if is_compensation(call.key) else "step"
        found = self._answers.step(call.key, call.fingerprint)
        stub = step.stub or self._execution.workflow.stubs.get(step.name)
        if found is not None:
            self._note(call.key, what, step.name, "baseline", call.input)
            return await self._give(step, call, found)
        if stub is not None:
            self._note(call.key, what, step.name, "stub", call.input)
            return await attempt_until_done(self._execution, _stand_in(step, stub), arguments, call)
        if what == "compensation":
            self._note(call.key, what, step.name, "nothing", call.input)
            await self._execution.answer(call, "step", to_json(None))
            return None
        return self._end(call.key, what, step.name, call.input)

    def value(self, key: str, name: str, make: Callable[[], Any]) -> Any:
        """What the baseline got at that key, else a new one."""
        found = self._answers.value(key) if name in _COPIED else None
        return make() if found is None else plain(found.output)

    def emitted(self, key: str, topic: str, data: bytes) -> None:
        """An event that its code emits at that key."""
        self._note(key, "event", topic, "nothing", data)

    def held(self, call: Call, outbox: Iterable[NewEvent]) -> None:
        """Events that the code of a step (an idempotent one, or a stub) emits."""
        for number, event in enumerate(outbox, start=1):
            data = unpack(event.payload)
            self._note(f"{call.key}/event#{number}", "event", event.topic, "nothing", data)

    async def is_own(self, run_id: str) -> bool:
        """Whether that run is a shadow as well, so that talking to it is no effect."""
        record = await self._execution.children.family.record(run_id)
        return record is not None and is_shadow(record.queue)

    def tell(self, key: str, what: _CALL, name: str, data: bytes) -> None:
        """Something that it would tell a run that is no shadow."""
        if what in ("update", "fork", "order"):
            self._end(key, what, name, data)
        self._note(key, what, name, "nothing", data)

    # What becomes of what it starts.

    def place(self, place: Placement | None, baseline: str) -> Placement:
        """Where a run that it starts waits: it is a shadow too, and joins no other run."""
        return replace(
            place or Placement(), queue=self._execution.record.queue, key=baseline,
            dedup=None, debounce=None, debounce_limit=None,
        )  # fmt: skip

    def ended(self, run_id: str, error: bytes | None) -> None:
        """One of its children has ended without a result: where nothing answered that one, nothing
        answers this run either. Raises EffectSuppressed then."""
        if error is not None and plain(error).get("type") == EffectSuppressed.__name__:
            self._stop(f"its child {run_id} ended at an effect that nothing answers")

    # Inside.

    async def _give(self, step: Step[..., Any], call: Call, found: Recorded) -> Any:
        execution = self._execution
        if found.error is not None:
            await execution.answer(call, "step", error=found.error)
            raise load_step_failure(found.error)
        assert found.output is not None  # noqa: S101  (one of the two is always there)
        _, value = step.slot.round_trip(step.slot.load(unpack(found.output)))
        if isinstance(step, TransactionStep):
            step.see(value)
        await execution.answer(call, "step", found.output)
        return value

    def _note(self, key: str, what: _CALL, name: str, answer: _Answer, data: bytes | None) -> None:
        if key not in self._noted:
            self._noted.add(key)
            said = to_json({"what": what, "name": name, "answer": answer})
            self._execution.recorder.record(Call(key, "", data), SUPPRESSED, output=said)

    def _end(self, key: str, what: _CALL, name: str, data: bytes | None) -> Any:
        self._note(key, what, name, "none", data)
        self._stop(f"the {what} {name} at {key} has no answer in a shadow run")

    def _stop(self, why: str) -> Any:
        reason = EffectSuppressed(
            f"run {self._execution.id}: {why}",
            run_id=self._execution.id,
            hint="Give the step a stub, @step(shadow=function), or declare it idempotent",
        )
        self._execution.park(reason)
        raise reason


async def held_back(what: _CALL, name: str, data: bytes, target: str) -> bool:
    """Whether the caller is code of a shadow run, which tells no run that is not one: it is noted
    instead. Raises EffectSuppressed for what has no answer."""
    current = scope.get()
    shadow = None if current is None else current.execution.shadow
    if current is None or shadow is None:
        return False
    place = current.id if isinstance(current, Lane) else current.key
    key = current.key(f"{what}:{name}") if isinstance(current, Lane) else f"{place}/{what}:{name}"
    if await shadow.is_own(target):
        return False
    shadow.tell(key, what, name, data)
    return True


def held_event(topic: str, payload: Any) -> bool:
    """Whether the caller is code of a shadow run, whose event is noted and not emitted."""
    current = scope.get()
    shadow = None if current is None else current.execution.shadow
    if current is None or shadow is None:
        return False
    lane = isinstance(current, Lane)
    key = current.key(f"emit:{topic}") if isinstance(current, Lane) else current.key
    shadow.emitted(key if lane else f"{key}/emit:{topic}", topic, PAYLOAD.dump(payload))
    return True


def held_transaction() -> bool:
    """Whether the caller is code of a shadow run (of an idempotent step of it, or a stub), whose
    transaction is noted and rolled back."""
    current = scope.get()
    shadow = None if current is None else current.execution.shadow
    if current is None or isinstance(current, Lane) or shadow is None:
        return False
    shadow.tell(f"{current.key}/transaction", "transaction", "app.transaction", to_json(None))
    return True


def no_order_of_a_shadow(name: str) -> None:
    """End the shadow run whose code gives an order that changes what runs, such as "start rollout
    x": nothing of that is done. Others go on. Raises EffectSuppressed."""
    current = scope.get()
    shadow = None if current is None else current.execution.shadow
    if current is None or shadow is None:
        return
    key = current.key("order") if isinstance(current, Lane) else f"{current.key}/order"
    shadow.tell(key, "order", name, to_json(None))


def inherited(place: Placement | None, run_id: str) -> tuple[Placement | None, str]:
    """Place and id of a run that is started by the code of a step: those of a shadow, if the
    step's run is one."""
    current = scope.get()
    if not isinstance(current, StepScope) or current.execution.shadow is None:
        return place, run_id
    return current.execution.shadow.place(place, run_id), f"{ASIDE}{run_id}"[:500]


def checked_stubs(stubs: Mapping[str, Callable[..., Any]] | None) -> dict[str, Callable[..., Any]]:
    """The stubs of a workflow by the names of steps. Raises RegistrationError."""
    return {name: _checked_stub(name, stub) for name, stub in (stubs or {}).items()}


def _checked_stub(name: str, stub: Any) -> Callable[..., Any]:
    return Step(stub, name=name).function


def _stand_in(step: Step[..., Any], stub: Callable[..., Any]) -> Step[..., Any]:
    made: Step[..., Any] = Step(
        stub, name=step.name, retry=step.retry, timeout=step.timeout, idempotent=True
    )
    made.signature = step.signature  # so that a saga sees its result, and its type is the step's
    return made


def _name(key: str) -> str:
    """The name of a step in its key."""
    return key.partition("/")[2].partition("#")[0]


def is_compensation(key: str) -> bool:
    """Whether that is the key of a compensation, whose result nobody asks for."""
    return _name(key).startswith("~")
