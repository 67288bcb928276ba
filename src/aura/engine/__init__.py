"""Run workflows: replay, steps, retries, leases. What other rooms may use is named here."""

from aura.engine.definition import Registry, Resolver, Workflow
from aura.engine.durable import cancelled
from aura.engine.handle import Results, Run
from aura.engine.lent import borrow, here
from aura.engine.queues import Queue, Queues
from aura.engine.receive import receive
from aura.engine.retry import Retry
from aura.engine.shadow import no_order_of_a_shadow
from aura.engine.step import Step, own_step, step
from aura.engine.subscriptions import Event
from aura.engine.succession import continue_as_new
from aura.engine.transaction import Transaction
from aura.engine.worker import Worker, WorkerOptions

__all__ = [
    "Event",
    "Queue",
    "Queues",
    "Registry",
    "Resolver",
    "Results",
    "Retry",
    "Run",
    "Step",
    "Transaction",
    "Worker",
    "WorkerOptions",
    "Workflow",
    "borrow",
    "cancelled",
    "continue_as_new",
    "here",
    "no_order_of_a_shadow",
    "own_step",
    "receive",
    "step",
]
