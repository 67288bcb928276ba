"""What a server tells of runs, as frozen values. Times are epoch seconds, as in `RunRecord`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from aura.engine import RunState
from aura.errors import CodecError

T = TypeVar("T")

Action = Literal["cancel", "requeue", "retry"]


def _epoch(given: object) -> object:
    return datetime.fromisoformat(given).timestamp() if isinstance(given, str) else given


When = Annotated[float, BeforeValidator(_epoch)]


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Why a run failed: the exception's name, its message and, when kept, its traceback."""

    type: str
    message: str
    traceback: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as a server shows it; fields that `RunRecord` has, too, are called the same. `seconds`
    is from its start to its end, None before that."""

    id: str
    workflow: str
    version: str
    state: RunState
    created_at: When
    started_at: When | None
    finished_at: When | None
    seconds: float | None
    wake_at: When | None
    owner: Annotated[str | None, Field(alias="worker")]
    epoch: int
    recoveries: int
    cancel_requested: bool
    error: ErrorInfo | None
    queue: str | None
    key: str
    priority: int
    parent: str | None = None
    detached: bool = False
    execution: int = 1
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunPage:
    """Runs, newest first; `next` is the cursor of the page after this one, None on the last."""

    runs: tuple[RunInfo, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run has ended. `settled` is False while it goes on."""

    run: RunInfo
    settled: bool
    output: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class BulkOutcome:
    """What came of one run: "done", "would be done" in a dry run, or the code of why not. `becomes`
    is the run that goes on, where that is another one."""

    run: str
    outcome: str
    detail: str = ""
    becomes: str | None = None


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What came of each run; `next` is the cursor of those that were not reached, None at the
    end."""

    action: Action
    dry_run: bool
    outcomes: tuple[BulkOutcome, ...]
    next: str | None


def read(kind: type[T], found: object) -> T:
    """A value from what a server told, which may tell more. Raises CodecError."""
    hashable: Any = kind
    adapter: TypeAdapter[T] = _adapter(hashable)
    try:
        return adapter.validate_python(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise CodecError(
            f"the server's answer is no {kind.__name__}: {where}: {first['msg']}",
            hint="Is it another version of Aura than this client?",
        ) from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
