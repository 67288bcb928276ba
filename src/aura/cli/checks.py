"""What `aura doctor` finds, from facts that were gathered before. Pure.

Each finding is "ok", a "note" (nothing is wrong yet) or a "problem", and says what mends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aura.errors import DecryptionFailed
from aura.server.views import RunView, WorkerView
from aura.store.base import StoreInfo

Level = Literal["ok", "note", "problem"]

OLDEST_PYTHON, OLDEST_SQLITE, OLDEST_POSTGRES = (3, 11), (3, 35), (14,)
CLOCK_TOLERANCE = 1.0
"""Seconds by which this machine's clock may differ from the database's."""

LEAST_FREE = 256 * 1024 * 1024
SCARCE = 0.05
"""Free disk space: fewer bytes are a problem, a smaller share is worth a note."""

NAMED = 5
"""So many runs are named; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `mend` is the command that mends it, or the sentence that says how."""

    name: str
    level: Level
    text: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A SQLite file: permission bits, what this user may do, and its disk (bytes)."""

    path: str
    exists: bool
    mode: int
    readable: bool
    writable: bool
    folder_exists: bool
    folder_writable: bool
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Work:
    """Runs that are not over: by state, and those of workers that are gone."""

    pending: Sequence[RunView] = ()
    overdue: Sequence[RunView] = ()
    abandoned: Sequence[RunView] = ()
    parked: Sequence[RunView] = ()


def check_versions(found: Mapping[str, str | None]) -> Iterator[Check]:
    """Installed versions by name; None for a package that is missing."""
    for name, version in found.items():
        if version is None:
            mend = "pip install --upgrade aura-workflows"
            yield Check("versions", "problem", f"{name} is not installed", mend)
    oldest = {"python": OLDEST_PYTHON, "sqlite": OLDEST_SQLITE}
    for name, least in oldest.items():
        if (version := found.get(name)) and _numbers(version) < least:
            wanted = ".".join(map(str, least))
            text = f"{name} {version} is older than {wanted}"
            yield Check(
                "versions", "problem", text, f"install Python with {name} {wanted} or newer"
            )
    yield Check("versions", "ok", ", ".join(f"{n} {v}" for n, v in found.items() if v))


def check_file(facts: FileFacts) -> Iterator[Check]:
    """The file of a SQLite database, and its disk."""
    path = facts.path
    if not facts.exists:
        text = f"there is no database at {path} yet; the first run creates it"
        yield Check("file", "note", text, f"aura worker MODULE:APP --database {path}")
    elif not (facts.readable and facts.writable):
        what = "read" if not facts.readable else "write"
        yield Check("file", "problem", f"this user may not {what} {path}", f"chmod u+rw {path}")
    elif facts.mode & 0o022:
        text = f"other users may write {path}"
        yield Check("file", "problem", text, f"chmod 600 {path}*")
    elif facts.mode & 0o044:
        text = f"other users may read {path}, which has the inputs and outputs of all runs"
        yield Check("file", "note", text, f"chmod 600 {path}*")
    else:
        yield Check("file", "ok", f"{path}, for this user only")
    if not facts.folder_exists:
        text = f"the folder of {path} does not exist"
        yield Check("file", "problem", text, f"mkdir -p {Path(path).parent}")
    elif not facts.folder_writable:
        text = f"this user may not write in the folder of {path}; SQLite keeps its log there"
        yield Check("file", "problem", text, f"chmod u+rwx $(dirname {path})")
    yield _disk(facts)


def _disk(facts: FileFacts) -> Check:
    text = f"{_size(facts.free)} free of {_size(facts.total)}"
    mend = f"free some space: du -xh $(dirname {facts.path}) | sort -h | tail"
    if facts.free < LEAST_FREE:
        return Check("disk", "problem", text, mend)
    if facts.free < SCARCE * facts.total:
        return Check("disk", "note", text, mend)
    return Check("disk", "ok", text)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def check_durability(info: StoreInfo) -> Iterator[Check]:
    """Whether what was acknowledged survives a power cut."""
    found = info.settings
    wrong = [
        Check("durability", "problem", f"{name} is {found[name]}: {loses}", mend)
        for name, good, loses, mend in _SETTINGS[info.kind]
        if name in found and found[name].lower() not in good
    ]
    yield from wrong
    if not wrong:
        shown = ", ".join(f"{name} {found[name]}" for name, *_ in _SETTINGS[info.kind])
        yield Check("durability", "ok", shown)
    if info.kind == "postgres" and _numbers(info.server) < OLDEST_POSTGRES:
        text = f"PostgreSQL {info.server} is older than {OLDEST_POSTGRES[0]}"
        yield Check("versions", "problem", text, "upgrade the server (pg_upgrade)")


_LOSES = "a power cut may lose or damage what was acknowledged"
_SETTINGS: dict[str, tuple[tuple[str, tuple[str, ...], str, str], ...]] = {
    "sqlite": (
        ("journal_mode", ("wal", "memory"), "readers and writers block each other", "aura doctor"),
        ("synchronous", ("2", "3"), _LOSES, "aura doctor"),
    ),
    "postgres": (
        (
            "synchronous_commit",
            ("on", "remote_apply", "remote_write", "local"),
            _LOSES,
            'psql -c "ALTER SYSTEM SET synchronous_commit = on" -c "SELECT pg_reload_conf()"',
        ),
        (
            "fsync",
            ("on",),
            _LOSES,
            'psql -c "ALTER SYSTEM SET fsync = on" -c "SELECT pg_reload_conf()"',
        ),
        (
            "full_page_writes",
            ("on",),
            _LOSES,
            'psql -c "ALTER SYSTEM SET full_page_writes = on" -c "SELECT pg_reload_conf()"',
        ),
    ),
}


def check_encryption(keys: Sequence[str], refusal: DecryptionFailed | None) -> Check:
    """`keys` are the ids of this process's keys, `refusal` is why it cannot read the database."""
    if refusal is not None:
        return Check("encryption", "problem", refusal.message, "export AURA_ENCRYPTION_KEYS=ID:KEY")
    if not keys:
        return Check("encryption", "ok", "off: payloads are stored as they are")
    others = f", {', '.join(keys[1:])} only for reading" if keys[1:] else ""
    return Check("encryption", "ok", f"on: the key {keys[0]} encrypts{others}")


def check_clock(offset: float) -> Check:
    """`offset`: the database's clock minus this machine's, in seconds."""
    if abs(offset) > CLOCK_TOLERANCE:
        text = f"the database's clock and this machine's differ by {abs(offset):.1f} s"
        return Check("clock", "problem", text, "timedatectl set-ntp true   (on both machines)")
    return Check("clock", "ok", f"{abs(offset) * 1000:.0f} ms from the database's")


def check_workers(workers: Sequence[WorkerView], *, busy: bool) -> Check:
    """`workers` are the live ones; `busy` says that there is work for some."""
    if workers:
        runs = sum(one.runs for one in workers)
        where = ", ".join(f"{one.host}/{one.pid}" for one in workers[:NAMED])
        text = f"{len(workers)} live ({where}), {_many(runs, 'run')} under way{_written(workers)}"
        return Check("workers", "ok", text)
    level: Level = "problem" if busy else "note"
    what = "no live worker, and work is waiting" if busy else "no live worker"
    return Check("workers", level, what, "aura worker MODULE:APP")


def _written(workers: Sequence[WorkerView]) -> str:
    """How many commits the live workers have made for how many entries."""
    commits, entries, saved = (
        sum(one.written.get(name, 0) for one in workers) for name in ("commits", "entries", "saved")
    )
    if not commits:
        return ""
    spared = f", {saved:,} saved by adaptive checkpoints" if saved else ""
    return f"; {_many(entries, 'journal entry')} in {_many(commits, 'commit')}{spared}"


def _many(count: int, noun: str) -> str:
    """The count in words: "1 run", "2 runs", "1,000 journal entries"."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def check_runs(work: Work, workers: Sequence[WorkerView]) -> Iterator[Check]:
    """Runs that do not go on by themselves."""
    served = {workflow for one in workers for workflow in one.workflows}
    if work.parked:
        first = work.parked[0]
        why = f": {first.error.type}: {first.error.message}" if first.error else ""
        text = f"parked: {_names(work.parked)}; the first one{why}"
        yield Check("parked", "problem", text, f"aura runs show {first.id}")
    unserved: dict[str, list[RunView]] = {}
    for run in (*work.pending, *work.overdue, *work.abandoned):
        if (wanted := f"{run.workflow} {run.version}") not in served:
            unserved.setdefault(wanted, []).append(run)
    for wanted, runs in unserved.items():
        text = f"no live worker has {wanted}; waiting for one: {_names(runs)}"
        mend = f"aura worker MODULE:APP   (an app with {wanted}), or aura runs cancel {runs[0].id}"
        yield Check("versions of runs", "problem", text, mend)
    taken = [run for run in work.abandoned if f"{run.workflow} {run.version}" in served]
    if taken:
        text = f"workers are gone that had {_names(taken)}; others are taking them over"
        yield Check("abandoned", "note", text, "aura doctor   (again, in some seconds)")
    if not (work.parked or unserved or taken):
        yield Check("runs", "ok", "none is parked, abandoned or without a worker for its version")


def _names(runs: Sequence[RunView]) -> str:
    more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
    return ", ".join(run.id for run in runs[:NAMED]) + more


def _numbers(version: str) -> tuple[int, ...]:
    parts: list[int] = []
    for part in version.split()[0].split("."):
        if not part.isdecimal():
            break
        parts.append(int(part))
    return tuple(parts)


def has_problem(found: Iterable[Check]) -> bool:
    """Whether something must be mended."""
    return any(check.level == "problem" for check in found)
