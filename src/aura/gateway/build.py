"""From a configuration to a gateway, and to the server that runs it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping

import uvicorn

from aura.clock import Clock
from aura.delivery.holder import SplitHolder
from aura.engine.watch import Watch
from aura.errors import ConfigError
from aura.gateway.adapters import WorkflowRunner, WorkflowTarget, load_adapter
from aura.gateway.client import Receive, Scope, Send
from aura.gateway.config import GatewayConfig, HttpSpec, WorkflowSpec
from aura.gateway.guarded import GuardedTarget, TracedTarget
from aura.gateway.heads import BoundedProtocol
from aura.gateway.http_target import HttpTarget
from aura.gateway.targets import Target

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def build_targets(
    config: GatewayConfig,
    *,
    runner: WorkflowRunner | None,
    clock: Clock,
    watch: Callable[[], Watch | None] | None = None,
) -> dict[str, Target]:
    """The targets by name; `watch` is told of calls of services. Raises ConfigError for an adapter
    that cannot be loaded, or for a workflow target when there is no runner."""
    found = {name: _target(name, spec, runner, clock) for name, spec in config.targets.items()}
    if watch is None:
        return found
    return {
        name: TracedTarget(name, target, watch)
        if isinstance(config.targets[name], HttpSpec)
        else target
        for name, target in found.items()
    }


def breakers(targets: Mapping[str, Target]) -> dict[str, GuardedTarget]:
    """Those of the targets that are behind a breaker."""
    inner = {name: getattr(one, "inner", one) for name, one in targets.items()}
    return {name: one for name, one in inner.items() if isinstance(one, GuardedTarget)}


def _target(
    name: str, spec: HttpSpec | WorkflowSpec, runner: WorkflowRunner | None, clock: Clock
) -> Target:
    if isinstance(spec, HttpSpec):
        target = HttpTarget(spec.url, limits=spec.limits, max_response=spec.max_response)
        return target if spec.breaker is None else GuardedTarget(target, spec.breaker, clock)
    if runner is None:
        raise ConfigError(
            f"the target {name} is a workflow, and this gateway has no app to run it",
            hint="Start the gateway with module:app",
        )
    return WorkflowTarget(
        name,
        spec.workflow,
        spec.version,
        runner,
        adapter=load_adapter(spec.adapter) if spec.adapter else None,
        timeout=spec.timeout,
        clock=clock,
    )


def build_holders(config: GatewayConfig, clock: Clock | None = None) -> dict[str, SplitHolder]:
    """An empty holder for each split that a route names; without a clock their splits never
    lapse."""
    return {
        route.split: SplitHolder(clock=clock, freshness=config.freshness) for route in config.routes
    }


def server_config(
    app: AsgiApp, *, host: str = "127.0.0.1", port: int = 8080, log_level: str = "warning"
) -> uvicorn.Config:
    """How uvicorn serves a gateway: a fast parser and loop, no fields of its own beside those of
    the targets, no WebSockets, heads of at most 64 KiB that come within 15 s, connections kept for
    75 s when idle."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=BoundedProtocol,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="on",
        interface="asgi3",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        access_log=False,
        log_level=log_level,
        timeout_keep_alive=75,
    )
