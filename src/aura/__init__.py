"""Durable AI workflows that you can change in production.

The names are imported when they are first used, so that a command or a script does not load what it
does not need.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
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

_HOMES = {
    "Aura": "aura.app",
    "Config": "aura.app",
    "Workflow": "aura.engine.definition",
    "Run": "aura.engine.handle",
    "step": "aura.engine.step",
    "Step": "aura.engine.step",
    "Retry": "aura.engine.retry",
    "sleep": "aura.engine.durable",
    "sleep_until": "aura.engine.durable",
    "timeout": "aura.engine.timeouts",
    "now": "aura.engine.durable",
    "random": "aura.engine.durable",
    "uuid": "aura.engine.durable",
    "idempotency_key": "aura.engine.durable",
    "receive": "aura.engine.receive",
    "receive_update": "aura.engine.receive",
    "set_state": "aura.engine.durable",
    "stream": "aura.engine.durable",
    "saga": "aura.engine.saga",
    "map": "aura.engine.map",
    "emit": "aura.engine.events",
    "patched": "aura.engine.patching",
    "continue_as_new": "aura.engine.succession",
    "choose": "aura.delivery.flow",
    "AuraError": "aura.errors",
    "NonRetryable": "aura.errors",
    "RunFailed": "aura.errors",
    "SignalTimeout": "aura.errors",
    "StepFailed": "aura.errors",
}
_ROOMS = frozenset({"app", "client", "clock", "codec", "delivery", "engine", "errors", "testing"})


def __getattr__(name: str) -> typing.Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
