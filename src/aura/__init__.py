"""Durable AI workflows that you can change in production."""

from aura.app import Aura, Config
from aura.engine.definition import Workflow
from aura.engine.durable import idempotency_key, now, random, set_state, sleep, stream, uuid
from aura.engine.handle import Run
from aura.engine.receive import receive, receive_update
from aura.engine.retry import Retry
from aura.engine.saga import saga
from aura.engine.step import Step, step
from aura.errors import (
    AuraError,
    NonDeterminism,
    NonRetryable,
    ResultTimeout,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunParked,
    SignalTimeout,
    StepFailed,
    StepTimeout,
    UpdateRejected,
)

__all__ = [
    "Aura",
    "Config",
    "Workflow",
    "Run",
    "step",
    "Step",
    "Retry",
    "sleep",
    "now",
    "random",
    "uuid",
    "idempotency_key",
    "receive",
    "receive_update",
    "set_state",
    "stream",
    "saga",
    "AuraError",
    "NonDeterminism",
    "NonRetryable",
    "ResultTimeout",
    "RunCancelled",
    "RunConflict",
    "RunFailed",
    "RunParked",
    "SignalTimeout",
    "StepFailed",
    "StepTimeout",
    "UpdateRejected",
]
