"""Durable AI workflows that you can change in production."""

from aura.app import Aura, Config
from aura.delivery.flow import choose
from aura.engine.definition import Workflow
from aura.engine.durable import (
    idempotency_key,
    now,
    random,
    set_state,
    sleep,
    sleep_until,
    stream,
    uuid,
)
from aura.engine.events import emit
from aura.engine.handle import Run
from aura.engine.map import map
from aura.engine.patching import patched
from aura.engine.receive import receive, receive_update
from aura.engine.retry import Retry
from aura.engine.saga import saga
from aura.engine.step import Step, step
from aura.engine.succession import continue_as_new
from aura.engine.timeouts import timeout
from aura.errors import (
    AuraError,
    NonRetryable,
    RunFailed,
    SignalTimeout,
    StepFailed,
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
    "sleep_until",
    "timeout",
    "now",
    "random",
    "uuid",
    "idempotency_key",
    "receive",
    "receive_update",
    "set_state",
    "stream",
    "saga",
    "map",
    "emit",
    "patched",
    "continue_as_new",
    "choose",
    "AuraError",
    "NonRetryable",
    "RunFailed",
    "SignalTimeout",
    "StepFailed",
]
