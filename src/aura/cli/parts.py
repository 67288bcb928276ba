"""The commands of `aura`, each in a module that is imported when it is wanted.

Most of what a command needs takes long to import, and all commands together the longest. So of the
tree only the branch is real that the command line names; the others have a name and a line of help.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer

DEMO = "aura.cli.demo"


@dataclass(frozen=True, slots=True)
class Part:
    """A command, or (`group`) several: where it is, and the line that the help of all has of it."""

    name: str
    module: str
    attribute: str
    help: str
    group: bool = False


PARTS = (
    Part("init", "aura.cli.init", "init",
         "Make a project: a workflow with its test, ready to run."),
    Part("serve", "aura.cli.serve", "serve",
         "Serve an app on one port: worker, HTTP API, dashboard and, when given, a gateway."),
    Part("worker", "aura.cli.worker", "worker",
         "Execute runs of one or more apps until SIGTERM or Ctrl-C."),
    Part("run", "aura.cli.run", "run", "Run a workflow and print its result as JSON."),
    Part("top", "aura.cli.top", "top",
         "Watch the whole live: runs, throughput, latency, queues, workers, rollouts."),
    Part("runs", "aura.cli.runs_group", "runs",
         "Look at runs, talk to them, cancel, fork, move and retry them.", True),
    Part("queues", "aura.cli.queues", "queues", "Look at queues and their limits.", True),
    Part("workers", "aura.cli.workers", "workers",
         "Look at the processes that execute runs.", True),
    Part("rollout", "aura.cli.backtest", "rollout",
         "Move traffic to a candidate, stage by stage.", True),
    Part("splits", "aura.cli.splits", "splits", "Where traffic goes now, split by split.", True),
    Part("rollback", "aura.cli.rollback", "rollback",
         "Send everybody back to the baseline at once, and keep them there."),
    Part("catalog", "aura.cli.catalog", "catalog",
         "Versions of workflows, and which fit which.", True),
    Part("apply", "aura.cli.apply", "apply",
         "Make the catalog and the plans what files say; applied again, nothing changes."),
    Part("experiment", "aura.cli.experiment", "experiment", "Find out which arm is better.", True),
    Part("flows", "aura.cli.flows", "flows",
         "Choices inside workflows: what was learnt about their arms.", True),
    Part("decommission", "aura.cli.decommission", "decommission",
         "Take a target out of service: `aura decommission FILE|TARGET`.", True),
    Part("shadow", "aura.cli.shadow", "shadow", "What copies of requests have shown.", True),
    Part("contract", "aura.cli.contract", "contract",
         "What answers of the old API look like.", True),
    Part("schedules", "aura.cli.schedules_put", "schedules",
         "Look at schedules, pause and trigger them.", True),
    Part("topics", "aura.cli.topics", "topics",
         "Topics of events and the groups that handle them.", True),
    Part("dlq", "aura.cli.dlq_group", "dlq",
         "Dead letters: events and runs that wait for a person.", True),
    Part("token", "aura.cli.token", "token", "Say who may use the HTTP API.", True),
    Part("audit", "aura.cli.audit_log", "audit",
         "Who changed what, when, why and from where.", True),
    Part("doctor", "aura.cli.doctor", "doctor",
         "Check database, durability, clocks, versions, workers and stuck runs."),
    Part("gc", "aura.cli.gc", "gc",
         "Delete ended runs and old observations, in small batches."),
    Part("replay", "aura.cli.replay", "replay",
         "Replay recorded runs against the code at hand and list what would diverge."),
    Part("promote", "aura.cli.bundles", "promote",
         "Move a whole app into another database, with runs in flight."),
    Part("demo", "aura.cli.demo_command", "demo",
         "See the main job end to end: a legacy service is replaced under live traffic."),
)  # fmt: skip


def add_parts(cli: typer.Typer, wanted: str | None) -> None:
    """Give the command its parts: `wanted` is the one that is going to be used, None for all."""
    for part in PARTS:
        if part.name == "demo" and importlib.util.find_spec(DEMO) is None:
            continue
        real = wanted in (None, part.name)
        found = getattr(importlib.import_module(part.module), part.attribute) if real else None
        if part.group:
            cli.add_typer(found or typer.Typer(help=part.help), name=part.name)
        else:
            cli.command(part.name)(found or _stub(part))


def wanted_part(words: Sequence[str]) -> str:
    """The part that a command line (without the program's name) uses; "" for none of them."""
    first = next((word for word in words if not word.startswith("-")), "")
    return first if any(part.name == first for part in PARTS) else ""


def _stub(part: Part) -> Any:
    def command() -> None:
        """Shown in the help of all commands, and never called."""

    command.__doc__ = part.help
    return command
