"""How exceptions are written into the journal and come back typed."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any, Protocol

from aura.codec import is_encrypted, plain, to_json, unpack
from aura.errors import (
    AuraError,
    DecryptionFailed,
    EffectSuppressed,
    RunCancelled,
    RunError,
    RunFailed,
    RunMoved,
    RunParked,
    StepFailed,
    StepTimeout,
)
from aura.store.base import Claimed, RunRecord, RunState

_MAX_TRACEBACK = 8_000


def describe(error: BaseException) -> dict[str, Any]:
    """Type, message and traceback of an exception, as plain values."""
    text = _storable("".join(traceback.format_exception(error)))
    return {
        "type": type(error).__name__,
        "message": message(error),
        "traceback": text if len(text) <= _MAX_TRACEBACK else "…" + text[-_MAX_TRACEBACK:],
    }


def message(error: BaseException) -> str:
    """What the exception says, as text that can be stored."""
    try:
        return _storable(str(error))
    except Exception as broken:  # noqa: BLE001  (user code; the run must end all the same)
        return f"(its message cannot be shown: {type(broken).__name__} in __str__)"


def _storable(text: str) -> str:
    """Half characters, as in names of odd files, have no encoding."""
    return text.encode("utf-8", "backslashreplace").decode()


def dump_step_failure(failure: StepFailed) -> bytes:
    return to_json(
        {
            "step": failure.step,
            "type": failure.type,
            "message": failure.reason,
            "traceback": failure.traceback,
            "attempts": failure.attempts,
            "timeout": isinstance(failure, StepTimeout),
        }
    )


def load_step_failure(data: bytes) -> StepFailed:
    found = plain(data)
    kind = StepTimeout if found["timeout"] else StepFailed
    return kind(
        found["step"],
        type=found["type"],
        reason=found["message"],
        traceback=found["traceback"],
        attempts=found["attempts"],
    )


def step_failure(step: str, error: BaseException, attempts: int, timed_out: bool) -> StepFailed:
    """What workflow code gets when a step gives up."""
    found = describe(error)
    kind = StepTimeout if timed_out else StepFailed
    return kind(
        step,
        type=found["type"],
        reason=found["message"],
        traceback=found["traceback"],
        attempts=attempts,
    )


def dump_run_error(error: BaseException) -> bytes:
    found = describe(error)
    if isinstance(error, AuraError):
        found["hint"] = error.hint
    return to_json(found)


def unreadable(claimed: Claimed) -> DecryptionFailed | None:
    """Why a run cannot go on in this process: a part of it is encrypted and does not open here."""
    parts = [claimed.run.input, *(signal.payload for signal in claimed.signals)]
    for entry in claimed.journal:
        parts += [one for one in entry[5:8] if one is not None]  # input, output, error
    for part in parts:
        if is_encrypted(part):
            try:
                unpack(part)
            except DecryptionFailed as error:
                return error
    return None


class Settled(Protocol):
    """A run that has ended, or is parked."""

    @property
    def id(self) -> str: ...
    @property
    def workflow(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def state(self) -> RunState: ...


def run_error(run: RunRecord) -> RunError:
    """The error of a run that ended without a result."""
    return ended_error(run, plain(run.error) or {})


def ended_error(run: Settled, found: Mapping[str, Any]) -> RunError:
    """The same, from what was recorded of the exception: type, message, traceback, hint."""
    name = f"run {run.id} of {run.workflow} {run.version}"
    if run.state == "cancelled" and found.get("type") == EffectSuppressed.__name__:
        return EffectSuppressed(found["message"], run_id=run.id, hint=found.get("hint", ""))
    if run.state == "cancelled":
        return RunCancelled(f"{name} was cancelled", run_id=run.id)
    if run.state == "moved":
        return RunMoved(f"{name} goes on in another database", run_id=run.id)
    reason = f"{found.get('type', 'unknown error')}: {found.get('message', '')}"
    if run.state == "parked":
        hint = "Its journal is kept; look at it with: aura runs show " + run.id
        return RunParked(f"{name} is parked: {reason}", run_id=run.id, hint=hint)
    return RunFailed(
        f"{name} failed: {reason}",
        run_id=run.id,
        type=found.get("type", ""),
        traceback=found.get("traceback", ""),
    )
