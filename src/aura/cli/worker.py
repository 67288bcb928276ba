"""`aura worker`: execute runs until told to stop."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import load_app, opened
from aura.cli.options import AppDatabase, Json, LogFormat, MetricsPort
from aura.cli.output import print_json_line, redact
from aura.cli.ports import metrics_socket, serve_metrics
from aura.engine.queues import offer, read_resources
from aura.errors import ConfigError

if TYPE_CHECKING:
    from aura.server.metrics import Metrics

log = logging.getLogger("aura.cli")


def worker(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="MODULE:APP...", help="One or more apps.", show_default=False),
    ],
    database: AppDatabase = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A tag that queues may require.", show_default=False),
    ] = None,
    resource: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=AMOUNT", help="What its runs may use in all.", show_default=False
        ),
    ] = None,
    metrics_port: MetricsPort = None,
    log_format: LogFormat = None,
    as_json: Json = False,
) -> None:
    """Execute runs of one or more apps until SIGTERM or Ctrl-C.

    The first signal lets steps that are under way end and hands the rest
    back; a second one ends the process at once. Any number of workers may
    share a database.

    \b
    Examples:
      aura worker research:app
      aura worker research:app billing:app
      aura worker research:app --database postgresql://aura@db/aura
      aura worker research:app --tag gpu --resource gpu=2
      aura worker research:app --metrics-port 9464
    """
    apps = [load_app(target, database) for target in dict.fromkeys(targets)]
    _offer(apps, tag or [], resource or [])
    _require_one_database(apps)
    process.log_to_stderr(log_format)
    with metrics_socket(metrics_port) as apart:
        process.run(_work(apps, apart, as_json))


def _offer(apps: list[Aura], tags: list[str], resources: list[str]) -> None:
    """Give the apps' workers these, in place of what their settings say."""
    found = read_resources(resources)
    offer(tags, found)  # refuses what is none
    for app in apps:
        if tags:
            app.config = replace(app.config, tags=frozenset(tags))
        if found:
            app.config = replace(app.config, resources=found)


def _watched(apps: list[Aura]) -> Metrics:
    from aura.server.metrics import Metrics

    metrics = Metrics(*apps)
    for app in apps:
        app.watch = metrics
    return metrics


async def _work(apps: list[Aura], apart: socket.socket | None, as_json: bool) -> None:
    from aura.server.meters import offered

    metrics = _watched(apps) if apart is not None or apps[0].traced else None
    with process.stoppable() as stop:
        async with AsyncExitStack() as stack:
            for app in apps:
                await stack.enter_async_context(opened(app, worker=True))
                log.info("worker started: %s", described(app))
            meters = None if metrics is None else offered(metrics)
            if meters is not None:
                stack.callback(meters.close)
            said = await stack.enter_async_context(serve_metrics(metrics, apart))
            if as_json:
                names = [app.name for app in apps]
                print_json_line({"event": "ready", "pid": os.getpid(), "apps": names} | said)
            await stop.wait()
            log.info("stopping: steps under way may end (%g s)", max(a.config.grace for a in apps))
        log.info("worker stopped")
        if as_json:
            print_json_line({"event": "stopped", "pid": os.getpid()})


def described(app: Aura) -> str:
    """An app, its workflows and its database, on one line."""
    own = [f"{name} {version}" for name, version in app.registry.versions()]
    names = ", ".join(name for name in own if not name.startswith("aura."))
    return f"app {app.name} ({names or 'no workflows'}) on {redact(app.config.database)}"


def _require_one_database(apps: list[Aura]) -> None:
    databases = {app.config.database for app in apps}
    if len(databases) > 1:
        found = "; ".join(f"{app.name}: {redact(app.config.database)}" for app in apps)
        raise ConfigError(
            f"the apps use different databases ({found})",
            hint="Run one worker for each, or name one with --database",
        )
