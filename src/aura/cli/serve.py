"""`aura serve`: worker, gateway, HTTP API and dashboard on one port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aura.cli import process
from aura.cli.loading import load_app, opened
from aura.cli.options import AppDatabase, AppName, Json, LogFormat, MetricsPort, taking
from aura.cli.output import print_json_line
from aura.cli.ports import Ports, bound, gateway_socket, metrics_socket, serve_metrics
from aura.cli.tls import Front, tls_of, trusted_proxies
from aura.cli.worker import described
from aura.errors import ConfigError

if TYPE_CHECKING:
    from aura.app import Aura
    from aura.gateway import GatewayConfig
    from aura.server.serving import Serving

log = logging.getLogger("aura.cli")

MOST_SAID = 2**20
"""Bytes of what a page of the dashboard says at once."""

DRAIN = 10.0
"""Seconds that requests have to finish when the server stops."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `aura serve` is told."""

    target: AppName
    gateway: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Serve the routes of its `gateway:` section too."),
    ] = None
    gateway_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Serve the routes on this port alone, and nothing else there.",
            show_default=False,
        ),
    ] = None  # fmt: skip
    host: Annotated[
        str, typer.Option(help="An address; others than loopback need: aura token create.")
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8080
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Start runs, but let other processes execute them.")
    ] = False
    metrics_port: MetricsPort = None
    log_format: LogFormat = None
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Speak TLS with this certificate; SIGHUP reads it anew."),
    ] = None
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The key to it, without a passphrase.")
    ] = None
    trust_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="A proxy, or a network of them, that says who its clients are; may be repeated.",
            show_default=False,
        ),
    ] = None
    database: AppDatabase = None
    as_json: Json = False


@taking(ServeOptions)
def serve(options: ServeOptions) -> None:
    """Serve an app on one port: worker, HTTP API, dashboard and, when given, a gateway.

    The dashboard is at /, the API at /api/v1, health at /healthz and /readyz, metrics at /metrics.
    SIGTERM or Ctrl-C stops accepting, lets requests finish and hands runs
    back; a second one ends the process at once.

    \b
    Examples:
      aura serve research:app
      aura serve research:app --gateway aura.yaml --port 9000
      aura serve research:app --gateway aura.yaml --gateway-port 9000
      aura serve research:app --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
      aura serve research:app --trust-proxy 127.0.0.1
    """
    from aura.server.serving import build

    app = load_app(options.target, options.database)
    config = read_gateway(options.gateway) if options.gateway is not None else None
    apart = options.gateway_port is not None
    if apart and config is None:
        raise ConfigError("--gateway-port has no routes to serve", hint="Give --gateway FILE, too")
    front = Front(
        tls_of(options.tls_cert, options.tls_key), trusted_proxies(options.trust_proxy or ())
    )
    process.log_to_stderr(options.log_format)
    process.run(_guarded(app, options.host, front))
    serving = build(
        app, config, worker=not options.no_worker, dashboard=_has_dashboard(), apart=apart
    )
    with contextlib.ExitStack() as sockets:
        ports = Ports(
            sockets.enter_context(bound(options.host, options.port)),
            sockets.enter_context(gateway_socket(options.host, options.gateway_port)),
            sockets.enter_context(metrics_socket(options.metrics_port)),
        )
        process.run(_serve(serving, ports, front, options.as_json))


def _has_dashboard() -> bool:
    """Whether the dashboard can be served; says what to install if not."""
    from aura.server import ui

    if not ui.installed():
        log.info("there is no dashboard: it needs %s", ui.INSTALL)
    return ui.installed()


async def _guarded(app: Aura, host: str, front: Front) -> None:
    """Raises ConfigError when others could reach the API and nothing would hold them back."""
    from aura.server.hosts import is_loopback_name
    from aura.server.tokens import require_token

    if is_loopback_name(host):
        return
    async with opened(app):
        await require_token(app, host)
    if front.tls is None and not front.proxies:
        log.warning("%s is reached over plain HTTP: let a proxy with TLS stand before it", host)


def read_gateway(path: Path) -> GatewayConfig:
    """The `gateway:` section of a file. Raises ConfigError, also when it has none."""
    from aura.gateway import load_gateway

    config = load_gateway(path)
    if config is None:
        raise ConfigError(f"{path} has no `gateway:` section", hint="Add it, or omit --gateway")
    return config


async def _serve(
    serving: Serving,
    ports: Ports,
    front: Front,
    as_json: bool,
) -> None:
    url = front.url(ports.own)
    with process.stoppable() as stop, front.reloaded():
        async with serving, serve_metrics(serving.metrics, ports.metrics) as more:
            log.info("serving %s: %s", url, described(serving.app))
            if ports.gateway is not None:
                serving.apart = ports.gateway.getsockname()[1]
                more = {"gateway": front.url(ports.gateway), **more}
                log.info("the gateway at %s", more["gateway"])
            ready: dict[str, Any] = {"event": "ready", "pid": os.getpid(), "url": url, **more}
            await _until(stop, serving, ports, front, ready if as_json else {})
            log.info("stopping: handing back what is under way")
        log.info("stopped")
        if as_json:
            print_json_line({"event": "stopped", "pid": os.getpid()})


async def _until(
    stop: process.Stop,
    serving: Serving,
    ports: Ports,
    front: Front,
    announced: dict[str, Any],
) -> None:
    """Serve until told to stop, then let requests finish. Raises what the server raises."""
    import uvicorn

    from aura.gateway import server_config
    from aura.server.changes import close_changes

    class Server(uvicorn.Server):
        """Says when it accepts; signals are the process's own business."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if announced:
                print_json_line(announced)

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    config = server_config(serving)
    if serving.pages is not None:
        config.ws, config.ws_max_size = "auto", MOST_SAID
    config.lifespan = "off"  # it is open already: what hinders that is told as an error of its own
    config.timeout_graceful_shutdown = round(DRAIN)
    front.configure(config)
    server = Server(config)
    running = asyncio.create_task(server.serve(sockets=ports.served))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await close_changes(serving.app)  # its listeners would keep their connections
    server.should_exit = True
    await running
