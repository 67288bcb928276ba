"""Run workflows: replay, steps, retries, leases. What other rooms may use is named here."""

from aura.engine.attributes import taken_attributes
from aura.engine.definition import Registry, Resolver, Workflow, check_signal_name
from aura.engine.durable import cancelled
from aura.engine.faults import ended_error
from aura.engine.fork import fork_id
from aura.engine.handle import Deadline, Results, Run
from aura.engine.ids import checked_id, new_run_id
from aura.engine.lent import borrow, here
from aura.engine.queues import Queue, Queues, named, place
from aura.engine.receive import receive
from aura.engine.retry import Retry
from aura.engine.shadow import no_order_of_a_shadow
from aura.engine.step import Step, own_step, step
from aura.engine.subscriptions import Event
from aura.engine.succession import continue_as_new
from aura.engine.transaction import Transaction
from aura.engine.worker import Worker, WorkerOptions
from aura.store.base import SETTLED, Priority, RunFilter, RunState, Sent
from aura.store.queues import Placement

__all__ = [
    "Deadline",
    "Event",
    "Placement",
    "Priority",
    "Queue",
    "Queues",
    "Registry",
    "Resolver",
    "Results",
    "Retry",
    "Run",
    "RunFilter",
    "RunState",
    "SETTLED",
    "Sent",
    "Step",
    "Transaction",
    "Worker",
    "WorkerOptions",
    "Workflow",
    "borrow",
    "cancelled",
    "check_signal_name",
    "checked_id",
    "continue_as_new",
    "ended_error",
    "fork_id",
    "here",
    "named",
    "new_run_id",
    "no_order_of_a_shadow",
    "own_step",
    "place",
    "receive",
    "step",
    "taken_attributes",
]
