"""Run workflows: replay, steps, retries, leases. What other rooms may use is named here."""

from aura.engine.definition import Registry, Resolver, Workflow
from aura.engine.handle import Results, Run
from aura.engine.retry import Retry
from aura.engine.step import Step, step
from aura.engine.worker import Worker, WorkerOptions

__all__ = [
    "Registry",
    "Resolver",
    "Results",
    "Retry",
    "Run",
    "Step",
    "Worker",
    "WorkerOptions",
    "Workflow",
    "step",
]
