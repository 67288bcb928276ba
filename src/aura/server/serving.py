"""One port: the gateway's routes, the HTTP API, and behind them the app with its worker.

    serving = build(app, gateway_config)          # an ASGI application
    async with serving:                           # or: its lifespan, under any ASGI server
        ...

Who answers is said in `aura.server.own_paths`: the API always, the gateway's routes for the paths
that they configure, and for what is left the dashboard, when there is one.

At the end: the server stops accepting and lets requests finish; then `close` ends the gateway with
what it still observes, and the app with its worker, observations and database, in this order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from fastapi import FastAPI

from aura.app import Aura
from aura.delivery.observation import Observation
from aura.delivery.split import Split
from aura.errors import ConfigError, UnknownWorkflow
from aura.gateway import Gateway, GatewayConfig, SplitHolder, build_holders, build_targets
from aura.gateway.adapters import CopyOf, Effects
from aura.gateway.build import breakers
from aura.gateway.client import Receive, Scope, Send
from aura.gateway.config import HttpSpec, Route
from aura.gateway.routes import Routes
from aura.server import ui
from aura.server.access import Door, GuardedRoute
from aura.server.api import API, build_api
from aura.server.changes import close_changes
from aura.server.gateways import about_gateway
from aura.server.meters import Meters, offered
from aura.server.metrics import Metrics, metrics_route
from aura.server.operations import split_arguments
from aura.server.own_paths import check_routes, is_of_api, is_routed, pages
from aura.server.patience import patient
from aura.server.runs_api import READS
from aura.server.traced import served
from aura.store.base import RunFilter

log = logging.getLogger("aura.server")

MOST_RUNS = 50
"""Of a shadow run and those that it has started, so many are asked for their effects."""


class AppRunner:
    """An app as the gateway's `WorkflowRunner`."""

    def __init__(self, app: Aura) -> None:
        self._app = app
        self._starting: set[asyncio.Task[Any]] = set()

    async def run_workflow(
        self,
        workflow: str,
        version: str | None,
        arguments: Mapping[str, Any],
        *,
        run_id: str,
        copy: CopyOf | None = None,
    ) -> Any:
        """Start the run, or join the one with that id; its result. With `copy` it is a shadow, in
        the queue of shadows. Raises AuraError.

        When the wait is cancelled the run goes on, also when it was only just being started.
        """
        positional, named = split_arguments(self._app, workflow, version, arguments)
        queue = None if copy is None else self._app.shadow(copy.baseline)
        deadline = None if copy is None else copy.seconds
        starting = asyncio.ensure_future(
            self._app.start(
                workflow, *positional, id=run_id, version=version, queue=queue,
                deadline=deadline, **named,
            )
        )  # fmt: skip
        self._starting.add(starting)
        starting.add_done_callback(self._started)
        run = await asyncio.shield(starting)
        return await run.result()

    async def effects(self, run_id: str) -> Effects:
        """What a shadow run and those that it started did not do. Its cost is its state `cost`."""
        found: list[tuple[str, str, str]] = []
        waiting = [run_id]
        for _ in range(MOST_RUNS):
            if not waiting:
                break
            one = waiting.pop()
            found += [(e.what, e.name, e.answer) for e in await self._app.run(one).suppressed()]
            waiting += [child.id for child in await self._app.runs(RunFilter(parent=one))]
        cost = (await self._app.run(run_id).state()).get("cost", 0.0)
        return Effects(tuple(found), float(cost) if isinstance(cost, int | float) else 0.0)

    def _started(self, task: asyncio.Task[Any]) -> None:
        self._starting.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits has it; when nobody does any more, nobody misses it

    async def close(self) -> None:
        """Wait for the runs that are being started."""
        if self._starting:
            await asyncio.wait(self._starting)


class Serving:
    """The ASGI application; see the module's docstring. `worker` says whether it executes runs,
    `dashboard` whether it has pages (once per process)."""

    def __init__(
        self,
        app: Aura,
        config: GatewayConfig | None,
        *,
        worker: bool = True,
        dashboard: bool = False,
    ) -> None:
        self.app = app
        self.config = config
        self.door = Door(app)
        self.api: FastAPI = build_api(app, self.door)
        self.api.state.gateway = config
        self.api.include_router(about_gateway(lambda: self.gateway), prefix=API)
        self.metrics = Metrics(app)
        measured = metrics_route(self.metrics, GuardedRoute)
        self.api.include_router(measured, responses=READS)
        self.api.include_router(measured, prefix=API, include_in_schema=False)
        self.gateway: Gateway | None = None
        self.pages = ui.dashboard(app, self.door, self.metrics, config) if dashboard else None
        self.apart = 0  # the gateway's own port, when it has one
        self._worker = worker
        self._routes = Routes(config.routes if config else ())
        self._runner = AppRunner(app)
        self._ends: list[Callable[[], None]] = []
        self._witness: Callable[[], Awaitable[None]] | None = None
        self._open = False
        self._meters: Meters | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the app, learn the splits as they are, and follow them. Harmless when it is open.

        Raises AuraError.
        """
        if self._open:
            return
        targets = {}
        if self.config is not None:
            targets = build_targets(
                self.config, runner=self._runner, clock=self.app.clock, watch=lambda: self.app.watch
            )
            self.metrics.breakers = breakers(targets)
        self.app.watch = self.metrics
        await self.app.open(worker=self._worker)
        self._open = True
        self._meters = offered(self.metrics)
        try:
            if self.pages is not None:
                await self.pages.open()
            if self.config is None:
                return
            holders = build_holders(self.config, self.app.clock)
            await self._follow(holders)
            self.gateway = Gateway(
                self.config,
                targets=targets,
                splits=holders,
                observe=self._observe,
                clock=self.app.clock,
                desk=self.app.rollouts.shadows,
            )
            self.metrics.gateway = self.gateway
            retired = self.gateway.retired
            self._witness = await self.app.rollouts.witness(retired.obey, retired.take)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the gateway, then the app. Harmless when it is not open."""
        if not self._open:
            return
        self._open = False
        for end in self._ends:
            end()
        self._ends.clear()
        if self._meters is not None:
            self._meters.close()
        try:
            await close_changes(self.app)
            if self.pages is not None:
                await self.pages.close()
            if self.gateway is not None:
                await self.gateway.close()
            if self._witness is not None:
                await self._witness()
                self._witness = None
            await self._runner.close()
        finally:
            await self.app.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        send = patient(send) if scope["type"] == "http" else send
        with served(self.app.watch, scope, send, self._route_of(scope)) as send:
            await self._answer(scope, receive, send)

    def _route_of(self, scope: Scope) -> str | None:
        """As a trace shows it: "" when the API knows, None for pages, health and metrics."""
        if scope["type"] != "http":
            return None
        if self.gateway is not None and self._is_routed(scope):
            route = self._routes.match(scope["path"], scope["method"])
            return route.path if isinstance(route, Route) else None
        path = scope["path"]
        return "" if path.startswith(API + "/") and path != f"{API}/metrics" else None

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.gateway is not None and self._is_routed(scope):
            await self.gateway(scope, receive, send)
        elif self.pages is not None and not is_of_api(scope["path"]):
            await self.pages(scope, receive, send)
        else:
            await self.api(scope, receive, send)

    def _observe(self, observation: Observation) -> None:
        self.metrics.observed(observation)
        self.app.rollouts.observe(observation)

    async def _follow(self, holders: Mapping[str, SplitHolder]) -> None:
        """The present splits are known before the first request comes: it must not go to a
        baseline that has been replaced."""
        for name, holder in holders.items():
            began = self.app.clock.monotonic()
            document = await self.app.store.document("split", name)
            if document is not None:
                holder.offer(Split.from_json(document.body))
                holder.confirm(document.epoch, began)
            self._ends.append(self.app.rollouts.follow(name, holder.offer, holder.confirm))

    def _is_routed(self, scope: Scope) -> bool:
        path = scope["path"]
        if self.apart:
            return bool((scope.get("server") or ("", 0))[1] == self.apart)
        if scope["type"] != "http":  # the gateway says no to what is not HTTP
            return self.pages is None or not path.startswith(ui.SOCKET)
        return is_routed(self._routes, path, scope["method"])

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.open()
        except Exception as error:  # told to the server, which then does not start
            log.exception("the server cannot start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})


def build(
    app: Aura,
    config: GatewayConfig | None = None,
    *,
    worker: bool = True,
    dashboard: bool = False,
    apart: bool = False,
) -> Serving:
    """The ASGI application for an app, with a gateway when there is a configuration; `apart`: the
    gateway gets a port of its own, which `Serving.apart` is set to.

    Raises ConfigError for a route inside `/api/v1`, which Aura answers itself, or over a page of
    the dashboard, and for a baseline that the app has no workflow for; of another target without
    one it warns.
    """
    if config is not None:
        _require_workflows(app, config)
    if config is not None and not apart:
        check_routes(config.routes, pages() if dashboard else ())
    return Serving(app, config, worker=worker, dashboard=dashboard)


def _require_workflows(app: Aura, config: GatewayConfig) -> None:
    baselines = {route.baseline for route in config.routes}
    for name, spec in config.targets.items():
        if isinstance(spec, HttpSpec):
            continue
        try:
            app.catalog.named(spec.workflow, spec.version)
        except UnknownWorkflow as error:
            if name in baselines:
                raise ConfigError(f"the target {name}: {error.message}", hint=error.hint) from error
            log.warning("the target %s fails until the app has it: %s", name, error)
