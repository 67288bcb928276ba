"""Errors of a server, as the errors that the same call raises in process.

The server answers with problem documents (RFC 9457). Their `code` says which error it was, their
`detail` is its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aura import errors
from aura.errors import AccessDenied, AuraError, ConfigError, InvalidInput, ServerUnavailable

KINDS: dict[str, type[AuraError]] = {
    "config-invalid": ConfigError,
    "plan-invalid": errors.PlanError,
    "split-invalid": errors.SplitError,
    "range-invalid": errors.RangeError,
    "catalog-refused": errors.CatalogError,
    "apply-refused": errors.ApplyRefused,
    "layer-full": errors.LayerError,
    "extra-missing": errors.MissingExtra,
    "duplicate-version": errors.DuplicateVersion,
    "workflow-not-found": errors.UnknownWorkflow,
    "queue-not-found": errors.UnknownQueue,
    "invalid-input": InvalidInput,
    "decryption-failed": errors.DecryptionFailed,
    "key-missing": errors.KeyMissing,
    "payload-too-large": errors.PayloadTooLarge,
    "store-failed": errors.StoreError,
    "store-unavailable": errors.StoreUnavailable,
    "server-unavailable": ServerUnavailable,
    "too-many-connections": ServerUnavailable,
    "head-too-slow": ServerUnavailable,
    "transaction-in-doubt": errors.TransactionInDoubt,
    "transaction-conflict": errors.TransactionConflict,
    "database-moved": errors.DatabaseMoved,
    "schema-too-new": errors.SchemaTooNew,
    "schema-mismatch": errors.SchemaMismatch,
    "changed-meanwhile": errors.EpochConflict,
    "run-not-found": errors.RunNotFound,
    "run-conflict": errors.RunConflict,
    "run-ended": errors.RunEnded,
    "run-without-result": errors.RunError,
    "run-failed": errors.RunFailed,
    "run-cancelled": errors.RunCancelled,
    "effect-suppressed": errors.EffectSuppressed,
    "run-parked": errors.RunParked,
    "run-moved": errors.RunMoved,
    "no-answer-yet": errors.ResultTimeout,
    "step-failed": errors.StepFailed,
    "step-timeout": errors.StepTimeout,
    "transaction-failed": errors.TransactionError,
    "other-database": errors.OtherDatabase,
    "deadline-exceeded": errors.DeadlineExceeded,
    "signal-timeout": errors.SignalTimeout,
    "update-rejected": errors.UpdateRejected,
    "saga-failed": errors.SagaError,
    "compensation-failed": errors.CompensationFailed,
    "not-retryable": errors.NonRetryable,
    "non-determinism": errors.NonDeterminism,
    "poison-run": errors.PoisonRun,
    "dead-letter-not-found": errors.NoSuchDeadLetter,
    "history-too-long": errors.HistoryTooLong,
    "bundle-refused": errors.BundleError,
    "bundle-damaged": errors.BundleDamaged,
    "runs-busy": errors.RunsBusy,
    "gateway-error": errors.GatewayError,
    "request-refused": errors.RequestRefused,
    "target-failed": errors.TargetFailed,
    "target-timeout": errors.TargetTimeout,
    "rollout-refused": errors.RolloutError,
    "incompatible": errors.Incompatible,
    "experiment-refused": errors.ExperimentError,
    "flow-refused": errors.FlowError,
    "decommission-refused": errors.DecommissionError,
    "alert-failed": errors.AlertFailed,
    "schedule-refused": errors.ScheduleError,
    "split-not-found": errors.UnknownSplit,
    "version-not-found": errors.UnknownVersion,
    "topic-not-found": errors.UnknownTopic,
    "worker-not-found": errors.UnknownWorker,
    "rollout-not-found": errors.UnknownRollout,
    "experiment-not-found": errors.UnknownExperiment,
    "flow-not-found": errors.UnknownFlow,
    "decommission-not-found": errors.UnknownDecommission,
    "schedule-not-found": errors.UnknownSchedule,
    "breaker-open": errors.BreakerOpen,
    "token-refused": errors.TokenError,
    "access-denied": AccessDenied,
    "sandbox-failed": errors.SandboxError,
    "demo-failed": errors.DemoFailed,
    "failed": AuraError,
}
"""A code that several errors have stands for the one that most callers meet."""

DENIED = frozenset({401, 403})


def error_of(status: int, problem: Mapping[str, Any]) -> AuraError:
    """The error that a problem document tells of."""
    code, detail = str(problem.get("code", "")), str(problem.get("detail", ""))
    kind = KINDS.get(code)
    if kind is not None and kind is not AccessDenied:
        return _made(kind, detail, problem)
    if status in DENIED:
        return AccessDenied(detail, code=code, hint=_what_to_do(code))
    if status == 404:
        return ConfigError(
            f"the server does not know that request: {detail}",
            hint="Is it an older Aura, or is its API under another path?",
        )
    if status < 500:
        return InvalidInput(f"the server refuses the request: {detail}")
    return AuraError(f"the server failed: {detail}")


def _made(kind: type[AuraError], text: str, problem: Mapping[str, Any]) -> AuraError:
    """An error of that kind with the text that it had; `text` has its hint already, so what its
    constructor would add is left out."""
    error = kind.__new__(kind)
    AuraError.__init__(error, text)
    told = {"run_id": problem.get("run", ""), "type": "", "traceback": "", "reason": text}
    told |= {
        "step": "",
        "attempts": 1,
        "key_id": "",
        "reasons": (),
        "retry_after": 0.0,
        "run": problem.get("run", ""),
    }
    told |= {one: problem.get(one, "") for one in ("status", "code", "field")}
    for name in _OWN.get(next((one for one in kind.__mro__ if one in _OWN), AuraError), ()):
        setattr(error, name, told[name])
    return error


_OWN: dict[type[AuraError], tuple[str, ...]] = {
    errors.RunFailed: ("run_id", "type", "traceback"),
    errors.RunError: ("run_id",),
    errors.StepFailed: ("step", "type", "reason", "traceback", "attempts"),
    errors.DecryptionFailed: ("key_id",),
    errors.RequestRefused: ("status", "code", "field"),
    errors.TargetFailed: ("code", "run"),
    errors.BreakerOpen: ("code", "run", "retry_after"),
    errors.Incompatible: ("reasons",),
}
"""Attributes that the constructors of errors set beside the message."""


def _what_to_do(code: str) -> str:
    if code == "token-missing":
        return "Give the client a token: Client(url, token=...)"
    if code.startswith("token-") and code != "token-limited":
        return "Ask for a new one: aura token create"
    return ""
