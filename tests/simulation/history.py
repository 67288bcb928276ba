"""What happened in a world, seen from outside, and whether that was allowed.

Some rules are looked at as things happen (at each commit, when a step's code begins, when a caller
gets an answer), the rest over what the database holds at the end. Nothing here asks the engine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from aura.codec import plain
from aura.store.base import (
    SETTLED,
    TERMINAL,
    Append,
    Claimed,
    Continue,
    Entry,
    Op,
    Outcome,
    RunRecord,
    SendSignal,
    Sent,
    Settle,
    Signal,
    Started,
    StartRun,
)
from aura.store.events import Emit

OWN = "schedule/"
"""Begins the ids of runs whose steps are the engine's own and tell nothing."""


class Line(NamedTuple):
    """A step's code ran: in which run, at which epoch, in which process; what it gives, and which
    results it was told of."""

    what: str
    run: str
    key: str
    epoch: int
    process: str
    token: str
    before: tuple[str, ...] = ()
    execution: int = 1


@dataclass(frozen=True, slots=True)
class Found:
    """What the database holds of one run at the end; its executions begin behind `bases`."""

    record: RunRecord
    journal: Sequence[Entry]
    signals: Sequence[Signal] = ()
    bases: tuple[int, ...] = (0,)

    def executions(self) -> list[tuple[int, Found]]:
        """Each by itself, with its number."""
        ends = (*self.bases[1:], len(self.journal))
        return [
            (number, replace(self, journal=self.journal[begin:end], bases=(begin,)))
            for number, (begin, end) in enumerate(zip(self.bases, ends, strict=True), 1)
        ]


class History:
    """Everything that happened, and the complaints about it."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.complaints: list[str] = []
        self.acknowledged: list[tuple[str, Any]] = []
        self.handled: set[int] = set()  # seqs of events whose handler has returned
        self.answers: dict[str, dict[str, list[Any]]] = {}  # of updates, by run and id
        self._times: Counter[tuple[str, str]] = Counter()
        self._owner: dict[str, tuple[int, str]] = {}
        self._entries: dict[str, dict[int, Entry]] = defaultdict(dict)
        self._anew: dict[str, list[Continue]] = defaultdict(list)
        self._ended: dict[str, Settle] = {}
        self._sent: dict[tuple[str, str], int] = {}

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    # While it happens.

    def claimed(self, process: str, claimed: Claimed) -> None:
        """A process has taken a run: its epoch is a new one, and it gets all that was written."""
        run = claimed.run
        epoch, owner = self._owner.get(run.id, (0, ""))
        if run.epoch <= epoch:
            self.complain(f"{process} took {run.id} at epoch {run.epoch}, {owner} had {epoch}")
        if run.id in self._ended:
            self.complain(f"{process} took {run.id}, which has ended")
        base = self.bases(run.id)[-1]
        known = {seq: one for seq, one in self._entries[run.id].items() if seq > base}
        if {entry.seq: entry for entry in claimed.journal} != known:
            self.complain(f"{process} took {run.id} with another journal than was written")
        self._owner[run.id] = (run.epoch, process)

    def committed(self, process: str, ops: Sequence[Op], outcomes: Sequence[Outcome]) -> None:
        """A transaction of that process is durable."""
        in_order = sorted(zip(ops, outcomes, strict=True), key=lambda one: _rank(one[0]))
        for op, outcome in in_order:
            if isinstance(outcome, BaseException):
                continue
            entry = op.append if isinstance(op, Emit) else op
            if isinstance(entry, Append):
                self._appended(process, entry)
            elif isinstance(op, Settle):
                self._settled(process, op)
            elif isinstance(op, Continue):
                self._continued(process, op)
            elif isinstance(op, StartRun) and isinstance(outcome, Started) and outcome.created:
                self._owner[op.id] = (1 if op.owner else 0, process)
            elif isinstance(op, SendSignal) and isinstance(outcome, Sent):
                self._signalled(op, outcome)
                if op.taker is not None and outcome.taken:
                    self._taken(process, op.run_id, op.taker[1] + 1)

    def _taken(self, process: str, run_id: str, epoch: int) -> None:
        """A signal has taken its run for the process that sent it, or says so once more."""
        before = self._owner.get(run_id, (0, ""))
        if before == (epoch, process):
            return
        if epoch <= before[0]:
            self.complain(f"{process} took {run_id} at epoch {epoch}, {before[1]} had {before[0]}")
        if run_id in self._ended:
            self.complain(f"{process} took {run_id}, which has ended")
        self._owner[run_id] = (epoch, process)

    def _appended(self, process: str, op: Append) -> None:
        entry = op.entry
        known = self._entries[entry.run_id]
        if known.get(entry.seq) == entry:
            return  # the same once more, after a commit whose outcome was not known
        self._check_owner(process, entry.run_id, op.epoch, f"wrote {entry.key}")
        if entry.seq != len(known) + 1:
            self.complain(f"{entry.run_id} got seq {entry.seq} after {len(known)}")
        known[entry.seq] = entry

    def bases(self, run_id: str) -> tuple[int, ...]:
        """The seqs behind which the executions of a run begin."""
        return (0, *(op.base for op in self._anew[run_id]))

    def _continued(self, process: str, op: Continue) -> None:
        known = self._anew[op.run_id]
        if known and known[-1] == op:
            return
        self._check_owner(process, op.run_id, op.epoch, "let it begin anew")
        if op.base != len(self._entries[op.run_id]):
            self.complain(f"{op.run_id} began anew behind {op.base}")
        known.append(op)

    def _settled(self, process: str, op: Settle) -> None:
        if self._ended.get(op.run_id) == op:
            return
        self._check_owner(process, op.run_id, op.epoch, f"wrote that it is {op.state}")
        if op.state in TERMINAL:
            self._ended[op.run_id] = op

    def _check_owner(self, process: str, run_id: str, epoch: int, did: str) -> None:
        now, owner = self._owner.get(run_id, (0, "nobody"))
        if (epoch, process) != (now, owner):
            self.complain(
                f"two owners of {run_id}: {process} {did} at epoch {epoch}, but it was "
                f"{owner}'s at epoch {now}"
            )
        if run_id in self._ended:
            self.complain(f"{process} {did} of {run_id}, which had ended")

    def _signalled(self, op: SendSignal, sent: Sent) -> None:
        before = self._sent.setdefault((op.run_id, op.id), sent.seq)
        if before != sent.seq:
            self.complain(f"signal {op.id} of {op.run_id} is there twice: {before}, {sent.seq}")

    def began(self, line: Line, durable: Callable[[str, bool], bytes], epoch: int | None) -> None:
        """A step's code begins; `durable` gives the results that a run's journal holds now, with
        those of its children if asked to; `epoch` is the run's, if the worker could know it."""
        self.lines.append(line)
        self._times[line.run, line.key] += 1
        if epoch is not None and epoch > line.epoch and line.what not in ("look", "threaded"):
            self.complain(f"{line.key} of {line.run} began though the run was taken over")
        # With another id (v and a UUID) each step is another one, idempotent or not.
        ids = [one[1:] for one in line.before if one[0] == "v" and len(one) == 37]
        kinds = "" if line.what == "look" else "befltu"
        missing = [one for one in line.before if one[0] in kinds and one[1:].isdigit()] + ids
        held = durable(line.run, line.what == "look") if missing else b""
        missing = [
            one for one in missing
            if f'"{one}"'.encode() not in held and f'"v{one}"'.encode() not in held
        ]  # fmt: skip
        if missing:
            self.complain(f"{line.key} of {line.run} began knowing {missing}, which is not durable")

    def handles(self, key: str, seq: int, earlier: Iterable[int]) -> None:
        """The handler of an event begins; `earlier` are the events of its key before it."""
        missed = [one for one in earlier if one not in self.handled]
        if missed:
            self.complain(f"event {seq} of key {key} is handled before {missed}")

    def times(self, run: str, key: str) -> int:
        """How often the code of that step has been begun."""
        return self._times[run, key]

    def told(self, what: str, run_id: str, now: RunRecord | None, detail: Any = None) -> None:
        """A caller got an answer; `now` is what the database holds of the run at this moment."""
        self.acknowledged.append((what, (run_id, detail)))
        if now is None:
            self.complain(f"{what} of {run_id} was acknowledged, and there is no such run")
        elif what == "result" and (now.state not in SETTLED or plain(now.output) != detail):
            self.complain(f"{run_id} gave {detail}, but it is {now.state} with {now.output!r}")
        elif what in ("turns", "updates") and Counter(detail[0]) != Counter(detail[1]):
            self.complain(f"{run_id} was given {detail[0]} as {what}, and had {detail[1]}")
        elif what == "signal" and now.signals < detail:
            self.complain(f"signal {detail} of {run_id} was acknowledged, and is not there")

    # At the end.

    def check(
        self,
        found: Iterable[Found],
        *,
        bookings: Iterable[tuple[str, str, str]] = (),
        events: Iterable[tuple[str, str | None, bytes]] = (),
    ) -> list[str]:
        """All complaints, with those about what is there at the end: runs, what transactions have
        booked (run, key of the step, token) and events (id, key, payload)."""
        runs = {one.record.id: one for one in found}
        self.complaints += _exactly_once(runs, bookings)
        self.complaints += _emitted(runs, events)
        for what, (run_id, _) in self.acknowledged:
            if run_id not in runs:
                self.complain(f"{what} of {run_id} was acknowledged and is lost")
        for one in runs.values():
            self._check_run(one)
        for run_id, answers in self.answers.items():
            for said in _answered(runs[run_id], answers):
                self.complain(f"{run_id} {said}")
        return self.complaints

    def _check_run(self, found: Found) -> None:
        run_id = found.record.id
        written = self._entries[run_id]
        if {entry.seq: entry for entry in found.journal} != written:
            self.complain(f"the journal of {run_id} is not what was committed")
        for one in journal_complaints(found):
            self.complain(f"{run_id} {one}")
        lines = [line for line in self.lines if line.run == run_id]
        for number, execution in found.executions() if not run_id.startswith(OWN) else ():
            mine = [line for line in lines if line.execution == number]
            for one in _repeated(execution, mine):
                self.complain(f"{run_id} {one}")
        for one in _owners(lines):
            self.complain(f"{run_id} {one}")
        ended = self._ended.get(run_id)
        if ended is not None and (found.record.state, found.record.output) != (
            ended.state, ended.output
        ):  # fmt: skip
            self.complain(f"{run_id} ended {ended.state} and is {found.record.state}")


def _rank(op: Op) -> int:
    """The order in which a store applies the operations of one transaction."""
    order: tuple[tuple[type, ...], ...] = ((StartRun,), (Append, Emit), (Settle,))
    return next((at for at, kind in enumerate(order) if isinstance(op, kind)), len(order))


def journal_complaints(found: Found) -> list[str]:
    """What is wrong with one journal by itself, of a real run or a simulated one."""
    seqs = [entry.seq for entry in found.journal]
    said = [] if seqs == list(range(1, len(seqs) + 1)) else [f"has the seqs {seqs}"]
    for _, one in found.executions():
        said += [*_keys(one), *_compensated(one), *_streams(one)]
    return [*said, *_received(found)]


def _exactly_once(runs: Mapping[str, Found], bookings: Iterable[tuple[str, str, str]]) -> list[str]:
    """What transactions have booked is what the journals say, once each."""
    journalled = Counter(
        (run_id, entry.key, str(plain(entry.output)))
        for run_id, one in runs.items()
        for entry in one.journal
        if entry.kind == "step"
        and entry.output is not None
        and ("/book#" in entry.key or "/tell#" in entry.key)
    )
    booked = Counter(bookings)
    return [
        f"{what[0]} has {what[1:]} {journalled[what]} times in its journal, booked {booked[what]}"
        for what in {**journalled, **booked}
        if not journalled[what] == booked[what] == 1
    ]


def _emitted(
    runs: Mapping[str, Found], events: Iterable[tuple[str, str | None, bytes]]
) -> list[str]:
    """Each event of a journal is there once, and there are no others."""
    journalled: Counter[str] = Counter()
    for run_id, one in runs.items():
        for number, execution in one.executions():
            name = run_id if number == 1 else f"{run_id}@{number}"
            for entry in execution.journal:
                if entry.kind == "event":
                    journalled[f"{name}:{entry.key}"] += 1
                elif "/tell#" in entry.key and entry.kind == "step" and entry.output is not None:
                    journalled[f"{name}:{entry.key}:1"] += 1
    there = Counter(event[0] for event in events)
    if journalled == there:
        return []
    return [f"the journals have emitted {dict(journalled)}, and there are {dict(there)}"]


def _keys(found: Found) -> list[str]:
    keys = Counter(entry.key for entry in found.journal if entry.kind != "attempt")
    return [f"has {key} twice" for key, count in keys.items() if count > 1]


def _received(found: Found) -> list[str]:
    """Each signal is received once at most, over all executions."""
    sent = {signal.seq: signal for signal in found.signals}
    seen: dict[int, str] = {}
    said = []
    for entry in _kept(found):
        seq = plain(entry.input)["seq"]
        if seq in seen:
            said.append(f"received signal {seq} twice, at {seen[seq]} and {entry.key}")
        seen[seq] = entry.key
        if sent and (seq not in sent or plain(sent[seq].payload) != plain(entry.output)):
            said.append(f"received signal {seq} at {entry.key} with a payload that was not sent")
    return said


def _kept(found: Found) -> Iterable[Entry]:
    """The entries of signals that were received and not given back."""
    for _, one in found.executions():
        given_back = {entry.key for entry in one.journal if entry.kind == "back"}
        for entry in one.journal:
            if entry.kind == "signal" and entry.input and entry.key + "/back" not in given_back:
                yield entry


def _answered(found: Found, told: Mapping[str, Sequence[Any]]) -> list[str]:
    """Each update is answered once, and everybody who asked was told that."""
    seqs = {signal.id: signal.seq for signal in found.signals}
    answers: dict[int, list[Any]] = defaultdict(list)
    for entry in found.journal:
        if entry.kind == "answer" and entry.input is not None:
            answers[int(entry.input)].append(plain(entry.output))
    said = []
    for update, heard in told.items():
        given = answers[seqs.get(update, 0)]
        if heard and (len(given) != 1 or any(one != given[0] for one in heard)):
            said.append(f"answered update {update} with {given}, and its callers got {heard}")
    return said


def ticked(every: float, inputs: Iterable[bytes], started: int) -> list[str]:
    """What is wrong with the runs of a schedule that leaves nothing out: each tick from the first
    to the last has one, and it has counted no more than there are."""
    at = Counter(datetime.fromisoformat(plain(data)["tick"]).timestamp() for data in inputs)
    said = [f"tick {one:g} has {count} runs" for one, count in at.items() if count > 1]
    if at:
        count = round((max(at) - min(at)) / every) + 1
        if len(at) != count:
            said.append(f"{count - len(at)} ticks are missing of {sorted(at)}")
    if started > len(at):
        said.append(f"the schedule says that it has started {started} runs of {len(at)}")
    return said


def _compensated(found: Found) -> list[str]:
    """Only finished steps have compensations, and those come after them."""
    at = {entry.key: entry.seq for entry in found.journal if entry.kind == "step"}
    said = []
    for key, seq in at.items():
        lane, _, call = key.rpartition("/")
        if call.startswith("~"):
            step = f"{lane}/{call[1:]}"
            if at.get(step, seq) >= seq:
                said.append(f"compensated {step}, which had not finished")
    return said


def _streams(found: Found) -> list[str]:
    """The batches of a lane's stream follow each other without gap or repetition."""
    ends: dict[str, int] = defaultdict(int)
    said = []
    for entry in found.journal:
        if entry.kind == "stream":
            place, _, number = entry.key.rpartition("#")
            if int(number) != ends[place] + 1:
                said.append(f"stream {place} has item {number} after {ends[place]}")
            ends[place] = int(number) - 1 + int(plain(entry.input))
    return said


def _repeated(found: Found, lines: Sequence[Line]) -> list[str]:
    """A journalled result is that of one execution, and no later epoch executes the step again."""
    said = []
    for entry in found.journal:
        if entry.kind != "step":
            continue
        ran = [line for line in lines if line.key == entry.key]
        if entry.output is None:
            source = max(ran, key=lambda line: line.epoch, default=None)
        else:
            source = next((one for one in ran if one.token == plain(entry.output)), None)
        if source is None:
            said.append(f"{entry.key} has a result that no execution gave")
            continue
        again = [line.epoch for line in ran if line.epoch > source.epoch]
        if again:
            said.append(f"{entry.key} of epoch {source.epoch} ran again at {again}")
    return said


def _owners(lines: Iterable[Line]) -> list[str]:
    """An epoch has one owner."""
    owners: dict[int, set[str]] = defaultdict(set)
    for line in lines:
        owners[line.epoch].add(line.process)
    return [f"epoch {at} had owners {sorted(who)}" for at, who in owners.items() if len(who) > 1]
