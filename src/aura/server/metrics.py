"""`/metrics` of one process: what its runs, its bus and its gateway do, and what lies in the store.

    runs ──Watch──▶ durations, counts ╮
    gateway ──observed──▶ counts      ├──▶ registry ──▶ text
    counters that exist anyway ───────┤
    the store ──(every FRESH s)──▶ facts ╯

What a process counts is its own, and begins at 0 with it. What lies in the store is the same in all
processes. Each app has a registry of its own: nothing here is global.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector

from aura.app import Aura
from aura.codec import plain
from aura.delivery.observation import Observation
from aura.engine.saga_report import parked_by
from aura.engine.traces import recorded_here, recorded_in
from aura.errors import CodecError
from aura.gateway import Gateway
from aura.gateway.guarded import GuardedTarget
from aura.resilience.breaker import KINDS
from aura.server.access import needs
from aura.server.hosts import host_of, is_loopback_name
from aura.server.instruments import FAST, LONG, MOST, WORK, Counts, Durations, Gauges, Spec
from aura.server.store_metrics import StoreMetrics
from aura.store.base import Entry, RunRecord

_MOST_NAMES = 10_000
ENDS = frozenset({"completed", "failed", "cancelled", "parked"})

WORKFLOWS = Spec(
    "aura_workflow_duration_seconds", "histogram",
    "From the start of a run to its end, with all its waits.", ("workflow", "outcome"), 1,
)  # fmt: skip
STEPS = Spec(
    "aura_step_duration_seconds", "histogram",
    "The tries of steps that ended in this process.", ("workflow", "step", "outcome"), 2,
)  # fmt: skip
SIGNALS = Spec(
    "aura_signal_latency_seconds", "histogram",
    "From the sending of a signal or update until its run took it.", ("priority",),
)  # fmt: skip
COMPENSATIONS = Spec(
    "aura_saga_compensations_total", "counter",
    "Compensations of sagas that ended in this process.", ("workflow", "outcome"), 1,
)  # fmt: skip
SAGAS = Spec(
    "aura_sagas_total", "counter",
    "Ends of sagas in this process, and runs that they parked.", ("workflow", "saga", "outcome"), 2,
)  # fmt: skip
PUBLISHING = Spec(
    "aura_bus_publish_seconds", "histogram",
    "From the emission of an event until it was durable.", ("topic",), 1,
)  # fmt: skip
REQUESTS = Spec(
    "aura_gateway_requests_total", "counter",
    "Requests by the arm that they were sent to.", ("split", "arm", "outcome"), 2,
)  # fmt: skip
LATENCIES = Spec(
    "aura_gateway_latency_seconds", "histogram",
    "How long arms took, also when another one has answered in their place.", ("split", "arm"), 2,
)  # fmt: skip
USER_FAILURES = Spec(
    "aura_gateway_user_failures_total", "counter",
    "Requests whose user got no good answer, by the arm that they were sent to.",
    ("split", "arm"), 2,
)  # fmt: skip
MISMATCHES = Spec(
    "aura_shadow_mismatches_total", "counter",
    "Copies whose answer differed from the baseline's, beyond noise.", ("split", "arm"), 2,
)  # fmt: skip
WRITES = Spec("aura_checkpoint_writes_total", "counter", "Commits to the database.")
SAVED = Spec(
    "aura_checkpoint_writes_saved_total", "counter",
    "Commits that were spared because entries could wait for each other.",
)  # fmt: skip
ENTRIES = Spec("aura_journal_entries_total", "counter", "Entries written to journals.")
COMMIT_FAILURES = Spec("aura_commit_failures_total", "counter", "Commits that failed.")
OLDEST_WRITE = Spec(
    "aura_checkpoint_wait_seconds", "gauge",
    "For how long the commit that is under way has been tried; 0 when there is none.",
)  # fmt: skip
TAKEN_OVER = Spec(
    "aura_runs_taken_over_total", "counter",
    "Runs that this process has taken from workers whose lease was over.",
)  # fmt: skip
RUNS_LOST = Spec(
    "aura_runs_lost_total", "counter", "Runs that this process had to give up with its lease."
)
LEASES_LOST = Spec(
    "aura_leases_lost_total", "counter", "How often this process could not hold its lease."
)
EXECUTING = Spec("aura_runs_executing", "gauge", "Runs that are under way in this process.")
LOST = Spec("aura_lost_observations_total", "counter", "Observations that were not written.")
UNWRITTEN = Spec("aura_observations_waiting", "gauge", "Observations that are not written yet.")
ACTIVE = Spec("aura_gateway_active", "gauge", "Requests that are under way in this gateway.")
FALLBACKS = Spec(
    "aura_gateway_fallbacks_total", "counter",
    "How often the baseline was started in a candidate's place.", ("reason",),
)  # fmt: skip
INCIDENTS = Spec(
    "aura_gateway_incidents_total", "counter", "What happened to requests otherwise.", ("what",)
)
OBEYED = Spec(
    "aura_gateway_split_epoch", "gauge", "The epoch that this gateway obeys.", ("split",), 1
)
LAPSED = Spec(
    "aura_gateway_split_lapsed", "gauge",
    "1 while the baseline serves because nobody could confirm the split.", ("split",), 1,
)  # fmt: skip
PUNCTUAL = Spec(
    "aura_gateway_sla_answers_total", "counter",
    "Answers of routes with an SLA: in time, or late.", ("split", "outcome"), 1,
)  # fmt: skip
BREAKERS = Spec(
    "aura_circuit_breaker_state", "gauge",
    "Of the breaker before a target: 0 closed, 1 half-open, 2 open.", ("target",), 1,
)  # fmt: skip
COPIES = Spec("aura_shadow_copies_total", "counter", "Copies for shadows.", ("outcome",))

_INCIDENTS = (
    "refused", "units_missing", "clients_gone", "unfinished", "lapsed", "metrics_refused",
)  # fmt: skip


class Metrics(Collector):
    """The metrics of a process, for the apps in it, which use one database. An app's `watch` is
    to be this, set before it is opened."""

    def __init__(self, *apps: Aura, most: int = MOST) -> None:
        self.apps = apps
        self.gateway: Gateway | None = None
        self.breakers: Mapping[str, GuardedTarget] = {}
        self._breakers = Gauges(BREAKERS, most=most)
        self.store = StoreMetrics(apps[0], most)
        self.workflows = Durations(WORKFLOWS, LONG, most)
        self.steps = Durations(STEPS, WORK, most)
        self.signals = Durations(SIGNALS, FAST, most)
        self.compensations = Counts(COMPENSATIONS, most)
        self.sagas = Counts(SAGAS, most)
        self.publishing = Durations(PUBLISHING, FAST, most)
        self.requests = Counts(REQUESTS, most)
        self.latencies = Durations(LATENCIES, WORK, most)
        self.user_failures = Counts(USER_FAILURES, most)
        self.mismatches = Counts(MISMATCHES, most)
        self._obeyed = Gauges(OBEYED, most=most)
        self._lapsed = Gauges(LAPSED, most=most)
        self._punctual = Gauges(PUNCTUAL, operator.add, most)
        self._names: dict[str, str] = {}
        self._writing = asyncio.Lock()  # the text is written in a thread: it may be long
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    # -- told by the engine and the gateway --------------------------------------------------

    def recorded(self, workflow: str, entry: Entry) -> None:
        """A run has submitted an entry to its journal."""
        kind, key = entry.kind, entry.key
        if kind == "step" or kind == "attempt":
            name = self._names.get(key) or self._name(key)
            outcome = "ok" if entry.error is None else "failed" if kind == "step" else "retried"
            seconds = entry.recorded_at - entry.started_at
            self.steps.add((workflow, name, outcome), seconds, recorded_here())
            if kind == "step" and name.startswith("~"):
                self.compensations.add(workflow, outcome)
        elif kind == "signal" and entry.input is not None and entry.output is not None:
            self._received(entry)
        elif kind == "value" and "/~~" in key and entry.output is not None:
            name = self._names.get(key) or self._name(key)
            self.sagas.add(workflow, name[2:], str(plain(entry.output)["end"]))

    def _name(self, key: str) -> str:
        """The step's name in its key, kept: runs of one workflow have the same keys."""
        if len(self._names) >= _MOST_NAMES:
            self._names.clear()
        return self._names.setdefault(key, key[key.find("/") + 1 : key.rfind("#")])

    def _received(self, entry: Entry) -> None:
        try:
            head = plain(entry.input)
            seconds = entry.recorded_at - head["sent_at"]
            self.signals.add((str(head["priority"]),), seconds, recorded_here())
        except (CodecError, KeyError, TypeError):
            return  # the journal is right for the run; it only is not counted

    def settled(self, run: RunRecord) -> None:
        """A run has left this process."""
        if run.state in ENDS:
            took = self.apps[0].time.now() - run.created_at
            self.workflows.add((run.workflow, run.state), took, recorded_in(run))
        if run.state == "parked" and run.error is not None:
            saga = parked_by(plain(run.error))
            if saga is not None:
                self.sagas.add(run.workflow, saga, "parked")

    def emitted(self, topic: str, seconds: float) -> None:
        """An event is durable."""
        self.publishing.add((topic,), seconds, recorded_here())

    def doing(self, *_: str | dict[str, str] | None) -> AbstractContextManager[object]:
        """Counted when it is over, by those who do it."""
        return nullcontext()

    def observed(self, one: Observation) -> None:
        """A request, or a copy of one, has shown how its arm does."""
        if one.shadow:
            if one.differences:
                self.mismatches.add(one.split, one.arm)
            return
        self.requests.add(one.split, one.arm, outcome_of(one))
        if one.error != "client-gone":
            self.latencies.add((one.split, one.arm), one.latency, recorded_here())
        if not one.user_ok:
            self.user_failures.add(one.split, one.arm)

    # -- asked by Prometheus -----------------------------------------------------------------

    async def text(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type. Never raises for a database that is away."""
        try:
            encode, kind = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none
            encode, kind = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        async with self._writing:
            await self.store.refresh()
            return await asyncio.to_thread(encode, self.registry), kind

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are known only with their values, and do not clash."""
        return ()

    @property
    def durations(self) -> tuple[Durations, ...]:
        """The histograms."""
        return self.workflows, self.steps, self.signals, self.publishing, self.latencies

    def collect(self) -> Iterator[Metric]:
        """Everything as it stands now; the store as it was read last."""
        yield from (one.family() for one in self.durations)
        yield from self.others()

    def others(self) -> Iterator[Metric]:
        """The counters and gauges."""
        counted = (self.sagas, self.requests, self.user_failures, self.mismatches)
        yield from (one.family() for one in (self.compensations, *counted))
        yield from self._written()
        yield from self._gateway()
        yield from self.store.families()

    def _written(self) -> Iterator[Metric]:
        counts = [app.committer.counts for app in self.apps if hasattr(app, "committer")]
        yield _single(WRITES, sum(one.commits for one in counts))
        yield _single(SAVED, sum(one.saved for one in counts))
        yield _single(ENTRIES, sum(one.entries for one in counts))
        yield _single(COMMIT_FAILURES, sum(one.failures for one in counts))
        oldest = [app.committer.oldest() for app in self.apps if hasattr(app, "committer")]
        yield _single(OLDEST_WRITE, max(oldest, default=0.0))
        turnovers = [app.turnover for app in self.apps]
        yield _single(TAKEN_OVER, sum(one.taken_over for one in turnovers))
        yield _single(RUNS_LOST, sum(one.runs_lost for one in turnovers))
        yield _single(LEASES_LOST, sum(one.leases_lost for one in turnovers))
        yield _single(EXECUTING, sum(app.executing for app in self.apps))
        yield _single(LOST, sum(app.rollouts.lost_observations for app in self.apps))
        yield _single(UNWRITTEN, sum(app.rollouts.waiting_observations for app in self.apps))

    def _gateway(self) -> Iterator[Metric]:
        gateway = self.gateway
        if gateway is None:
            return
        yield _single(ACTIVE, gateway.active)
        states = ((name, one.state.kind) for name, one in self.breakers.items())
        yield self._breakers.family(((name,), float(KINDS.index(kind))) for name, kind in states)
        counters = asdict(gateway.counters)
        for spec, names in (
            (FALLBACKS, {"error": "fallbacks_error", "late": "fallbacks_late"}),
            (INCIDENTS, {name: name for name in _INCIDENTS}),
        ):
            yield _several(spec, {label: counters[name] for label, name in names.items()})
        known = gateway.known()
        yield self._obeyed.family(((one.split,), one.epoch) for one in known)
        yield self._lapsed.family(((one.split,), one.lapsed) for one in known)
        yield self._punctual.family((key, n) for key, n in dict(gateway.punctual).items())
        shadows = gateway.shadows
        copies = {name: getattr(shadows, name) for name in ("sent", "skipped", "cut", "uncompared")}
        yield _several(COPIES, copies)


def outcome_of(one: Observation) -> str:
    """What became of a request on its arm."""
    if one.fallback:
        return "fallback"
    if one.error == "client-gone":
        return "client-gone"
    return "ok" if one.ok else "failed"


def _single(spec: Spec, value: float) -> Metric:
    return Gauges(spec).family([((), value)])


def _several(spec: Spec, values: dict[str, float]) -> Metric:
    return Gauges(spec).family(((label,), value) for label, value in values.items())


def metrics_route(metrics: Metrics, route_class: type[APIRoute] = APIRoute) -> APIRouter:
    """The route `/metrics`."""
    router = APIRouter(tags=["health"], route_class=route_class)

    @router.get(
        "/metrics", name="metrics", response_class=PlainTextResponse,
        openapi_extra=needs("viewer"),
    )  # fmt: skip
    async def show(request: Request) -> Response:
        """This process's metrics, for Prometheus."""
        text, kind = await metrics.text(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": kind})

    return router


def metrics_only(metrics: Metrics, *, here: bool) -> FastAPI:
    """An ASGI application that has nothing but `/metrics` and `/healthz`. When it is `here`, on a
    loopback address, it answers only to names of this machine, so that no web page can read it
    under a name of its own."""
    api = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    api.include_router(metrics_route(metrics))

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @api.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        if here and not is_loopback_name(host_of(request.headers.get("host", ""))):
            return PlainTextResponse("metrics are for localhost here, not for this Host\n", 403)
        response = await go_on(request)
        response.headers["cache-control"] = "no-store"
        response.headers["x-content-type-options"] = "nosniff"
        return response

    return api
