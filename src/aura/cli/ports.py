"""Ports that a command serves on: the listening socket, and a server that stops when it is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aura.errors import ConfigError

if TYPE_CHECKING:
    from aura.server.metrics import Metrics

log = logging.getLogger("aura.cli")


@contextlib.contextmanager
def bound(host: str, port: int, option: str = "--port") -> Iterator[socket.socket]:
    """A listening socket. Raises ConfigError when the port cannot be had; `option` names it."""
    bare = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((bare, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} of {host} cannot be had: {error.strerror}",
                hint=f"Choose another with {option}; 0 takes any free one",
            ) from error
        yield listener


def url_of(listener: socket.socket) -> str:
    """Where it listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def address(text: str) -> tuple[str, int]:
    """Host and port of `9464` (of this machine only) or `0.0.0.0:9464`. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ConfigError(
            f"--metrics-port is {text!r}", hint="Give a port, as in 9464, or 0.0.0.0:9464"
        )
    return host or "127.0.0.1", int(port)


@dataclass(frozen=True, slots=True)
class Ports:
    """The sockets of a server: its own one, and those that the gateway and metrics have apart."""

    own: socket.socket
    gateway: socket.socket | None = None
    metrics: socket.socket | None = None

    @property
    def served(self) -> list[socket.socket]:
        """Those that the server itself answers."""
        return [self.own] if self.gateway is None else [self.own, self.gateway]


@contextlib.contextmanager
def gateway_socket(host: str, port: int | None) -> Iterator[socket.socket | None]:
    """The socket of the gateway's own port; None when it has none. Raises ConfigError."""
    if port is None:
        yield None
        return
    with bound(host, port, "--gateway-port") as listener:
        yield listener


@contextlib.contextmanager
def metrics_socket(text: str | None) -> Iterator[socket.socket | None]:
    """The socket of a metrics-only port; None when none is wanted. Raises ConfigError."""
    if text is None:
        yield None
        return
    with bound(*address(text), "--metrics-port") as listener:
        yield listener


@contextlib.asynccontextmanager
async def serve_metrics(
    metrics: Metrics | None, listener: socket.socket | None
) -> AsyncIterator[dict[str, str]]:
    """Serve nothing but metrics while the block lasts; what to say of it when it is ready."""
    if metrics is None or listener is None:
        yield {}
        return
    import uvicorn

    from aura.gateway import server_config
    from aura.server.hosts import is_loopback_name
    from aura.server.metrics import metrics_only

    class Server(uvicorn.Server):
        """Signals are the process's own business."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    here = is_loopback_name(listener.getsockname()[0])
    config = server_config(metrics_only(metrics, here=here))
    config.lifespan = "off"
    listener.listen()  # who is told that it is ready may come before the server has begun
    config.timeout_graceful_shutdown = 1
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="aura-metrics")
    url = f"{url_of(listener)}/metrics"
    log.info("metrics at %s%s", url, "" if here else ", for whoever reaches that address")
    try:
        yield {"metrics": url}
    finally:
        server.should_exit = True
        await serving
