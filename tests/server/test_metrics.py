"""`/metrics`: what is counted, that it is bounded, and that a scrape always has an answer."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

import aura
from aura import Aura, Config, step
from aura.delivery.decide import RolloutState
from aura.delivery.observation import Observation
from aura.delivery.split import Arm, Split
from aura.delivery.status import Event, RolloutStatus, nothing_seen, status_of
from aura.errors import RunParked, StoreUnavailable
from aura.gateway import GatewayConfig, parse_gateway
from aura.server import instruments, metrics, store_metrics
from aura.server.instruments import OTHER, Spec
from aura.server.metrics import Metrics, metrics_only
from aura.server.serving import Serving, build
from aura.server.store_metrics import Rollbacks, StoreMetrics
from aura.store.base import Document, Entry, PutDocument, RunRecord
from tests.delivery.rollout_kit import ended, plan, traffic, wait_for
from tests.engine.kit import until
from tests.server.kit import Gate, client, make_app


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))


both = pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)


class Scrape:
    """What one scrape has found."""

    def __init__(self, text: str) -> None:
        self.families = {one.name: one for one in text_string_to_metric_families(text)}
        self.samples: list[Sample] = [s for one in self.families.values() for s in one.samples]

    def all(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {frozenset(s.labels.items()): s.value for s in self.samples if s.name == name}

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.all(name).get(frozenset(labels.items()))


async def scraped(http: httpx.AsyncClient, path: str = "/metrics") -> Scrape:
    answer = await http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return Scrape(answer.text)


def look_again(serving: Serving) -> None:
    """What is known of the store is not fresh any more."""
    serving.metrics.store._looked = None


class Flaky:
    left = 1


@step(retries=2)
async def flaky() -> str:
    if Flaky.left:
        Flaky.left -= 1
        raise ConnectionError("once")
    return "there"


@step
async def charge(cents: int) -> int:
    return cents


@step
async def refund(cents: int) -> None:
    pass


def shop(database: str) -> Aura:
    app = Aura("shop", config=Config(database=database, poll=0.05))
    Flaky.left = 1

    @app.workflow(version="1.0.0")
    async def order(fails: bool = False) -> str:
        async with aura.saga() as saga:
            await saga.step(charge, 5, compensate=refund)
            if fails:
                raise ValueError("no")
        await flaky()
        await aura.emit("orders.paid", {"n": 1})
        return str(await aura.receive("go", type=str))

    @app.subscribe("orders.paid", group="mail")
    async def mail(payload: dict[str, int]) -> None:
        raise ValueError("the post is closed")

    return app


@both
async def test_runs_steps_signals_sagas_and_events_are_counted(database: str) -> None:
    app = shop(database)
    async with build(app) as serving, client(serving) as http:
        run = await app.start("order", id="o")
        await run.signal("go", "on", priority="critical")
        assert await run.result(60) == "on"
        with pytest.raises(aura.RunFailed):
            await (await app.start("order", True)).result(60)
        await app.emit("plain", 1)
        before = app.committer.counts.commits, app.committer.counts.entries
        found = await scraped(http)
        took = "aura_workflow_duration_seconds_count"
        assert found(took, workflow="order", outcome="completed") == 1
        assert found(took, workflow="order", outcome="failed") == 1
        tries = "aura_step_duration_seconds_count"
        assert found(tries, workflow="order", step="flaky", outcome="retried") == 1
        assert found(tries, workflow="order", step="flaky", outcome="ok") == 1
        assert found(tries, workflow="order", step="charge", outcome="ok") == 2
        undone = "aura_saga_compensations_total"
        assert found(undone, workflow="order", outcome="ok") == 1
        for end in ("completed", "compensated"):
            assert found("aura_sagas_total", workflow="order", saga="saga", outcome=end) == 1
        assert found("aura_signal_latency_seconds_count", priority="critical") == 1
        for topic in ("orders.paid", "plain"):
            assert found("aura_bus_publish_seconds_count", topic=topic) == 1
        assert (found("aura_checkpoint_writes_total") or 0) >= before[0] > 0
        assert found("aura_journal_entries_total") == before[1] > 0
        assert found("aura_store_up") == 1
        assert found("aura_workers") == 1
        assert found("process_cpu_seconds_total") is not None
        bounds = found.all("aura_step_duration_seconds_bucket")
        whole = frozenset(
            {"workflow": "order", "step": "charge", "outcome": "ok", "le": "+Inf"}.items()
        )
        assert bounds[whole] == 2


@step(retries=1)
async def stuck(cents: int) -> None:
    raise OSError("the bank is away")


async def test_a_saga_that_parks_its_run_is_counted() -> None:
    app = Aura("shop", config=Config(database=":memory:"))

    @app.workflow(version="1.0.0")
    async def order(pivot: bool) -> None:
        async with aura.saga("half way") as saga:
            await saga.step(charge, 5, compensate=stuck, pivot=pivot)
            raise ValueError("no")

    async with build(app) as serving, client(serving) as http:
        for pivot in (False, True):
            with pytest.raises(RunParked):
                await (await app.start("order", pivot)).result(60)
        found = await scraped(http)
        parked = found("aura_sagas_total", workflow="order", saga="half way", outcome="parked")
        assert parked == 2
        assert found("aura_saga_compensations_total", workflow="order", outcome="failed") == 1


@both
async def test_queues_and_dead_letters_are_read_from_the_store(database: str) -> None:
    app = Aura("idle", config=Config(database=database))
    app.queue("gpu", concurrency=1)

    @app.workflow(version="1.0.0")
    async def idle() -> None: ...

    async with build(app, worker=False) as serving, client(serving) as http:
        await app.start(idle)
        await app.start(idle, queue="gpu")
        await app.start(idle, queue="gpu")
        found = await scraped(http)
        assert found("aura_queue_depth", queue="default", state="pending") == 1
        assert found("aura_queue_depth", queue="gpu", state="pending") == 2
        assert found("aura_queue_depth", queue="gpu", state="running") == 0
        assert found("aura_workers") == 0


@both
async def test_a_group_that_is_behind_shows(database: str) -> None:
    app = Aura("bus", config=Config(database=database, poll=0.05))

    @app.subscribe("t", group="g", retries=0)
    async def handle(payload: int) -> None:
        raise ValueError("never")

    async with build(app) as serving, client(serving) as http:
        await app.emit("t", 1)
        async with asyncio.timeout(60):
            while (await scraped(http))("aura_dead_letters", topic="t", group="g") != 1:
                look_again(serving)
                await asyncio.sleep(0.02)
        found = await scraped(http)
        assert found("aura_bus_lag", topic="t", group="g") is not None
        assert found("aura_bus_oldest_seconds", topic="t", group="g") is not None


GATEWAY = """
gateway:
  freshness: 60s
  targets:
    old: {workflow: answer, version: 1.0.0}
    new: {workflow: answer, version: 2.0.0}
  routes:
    - {path: /x, split: s, baseline: old, unit: {header: x-user}, fallback: false}
    - {path: /saved, split: saved, baseline: old, unit: {header: x-user}, sla: 60s}
"""


def gateway() -> GatewayConfig:
    config = parse_gateway(GATEWAY)
    assert config is not None
    return config


def answering(database: str) -> Aura:
    app = Aura("answering", config=Config(database=database, poll=0.05))

    @app.workflow(version="1.0.0", name="answer")
    async def old(text: str) -> dict[str, str]:
        return {"text": text}

    @app.workflow(version="2.0.0", name="answer")
    async def new(text: str) -> dict[str, str]:
        if text == "bad":
            raise ValueError("the new one cannot do that")
        return {"text": text.upper()}

    return app


async def put(app: Aura, *splits: Split) -> None:
    for split in splits:
        await app.committer.submit(PutDocument("split", split.name, split.to_json()))


async def test_a_gateway_counts_by_arm() -> None:
    app = answering(":memory:")
    async with build(app, gateway()) as serving, client(serving) as http:
        arms = (Arm("old", 0.0), Arm("new", 1.0))
        mirrored = (Arm("old", 1.0), Arm("new", 0.0))
        await put(app, Split("s", 3, "seed", arms), Split("saved", 4, "seed", arms))
        assert serving.gateway is not None
        known = serving.gateway.known
        await until(lambda: [one.epoch for one in known()] == [3, 4])
        for path, text in (("/x", "a"), ("/x", "bad"), ("/saved", "bad"), ("/saved", "a")):
            await http.post(path, json={"text": text}, headers={"x-user": "u"})
        found = await scraped(http)
        requests = "aura_gateway_requests_total"
        assert found(requests, split="s", arm="new", outcome="ok") == 1
        assert found(requests, split="s", arm="new", outcome="failed") == 1
        assert found(requests, split="saved", arm="new", outcome="fallback") == 1
        assert found("aura_gateway_fallbacks_total", reason="error") == 1
        assert found("aura_gateway_user_failures_total", split="s", arm="new") == 1
        assert found("aura_gateway_user_failures_total", split="saved", arm="new") is None
        assert found("aura_gateway_latency_seconds_count", split="s", arm="new") == 2
        assert found("aura_gateway_split_epoch", split="s") == 3
        assert found("aura_gateway_split_lapsed", split="s") == 0
        assert found("aura_rollout_epoch", split="saved") == 4
        assert found("aura_rollout_weight", split="s", arm="new") == 1
        assert found("aura_gateway_incidents_total", what="units_missing") == 0

        await put(app, Split("s", 5, "seed", mirrored, mirror="new"))
        await until(lambda: known()[0].epoch == 5)
        for user in ("u", "v"):
            await http.post("/x", json={"text": "a"}, headers={"x-user": user})
        shadows = serving.gateway.shadows
        await until(lambda: shadows.sent == 2 and not shadows._running)
        found = await scraped(http)
        assert found("aura_shadow_mismatches_total", split="s", arm="new") == 2
        assert found("aura_shadow_copies_total", outcome="sent") == 2
        assert found(requests, split="s", arm="old", outcome="ok") == 2
        assert found(requests, split="s", arm="new", outcome="ok") == 1  # copies are no requests


@both
async def test_a_rollout_under_way_and_rolled_back(database: str) -> None:
    app = Aura("test", config=Config(database=database, poll=0.05))
    async with build(app) as serving, client(serving) as http, traffic(app) as made:
        guarded = plan()
        stages = tuple(replace(one, min_requests=10**9) for one in guarded.stages[1:])
        await app.rollouts.start(replace(guarded, stages=stages))
        await wait_for(app, lambda one: bool(one.evidence) and one.stages[0].candidate.requests > 0)
        look_again(serving)
        found = await scraped(http)
        assert found("aura_rollout_state", rollout="t", state="running") == 1
        assert found("aura_rollout_state", rollout="t", state="rolled-back") == 0
        assert found("aura_rollout_weight", split="t", arm="b") == pytest.approx(0.3)
        assert (found("aura_rollout_requests", rollout="t", split="t", arm="b") or 0) > 0
        guard = {"rollout": "t", "split": "t", "arm": "b"}
        names = {one.guard for one in (await app.rollouts.status("t")).evidence}
        assert {dict(key)["guard"] for key in found.all("aura_guard_evidence")} == names
        assert found("aura_guard_limit", **guard, guard=min(names)) is not None
        assert found("aura_rollbacks_total", rollout="t") == 0
        made.failing["b"] = 1.0
        await ended(app)
        look_again(serving)
        found = await scraped(http)
        assert found("aura_rollout_state", rollout="t", state="rolled-back") == 1
        assert found("aura_rollout_weight", split="t", arm="b") == 0
        assert found("aura_rollbacks_total", rollout="t") == 1
        assert (found("aura_rollout_errors", rollout="t", split="t", arm="b") or 0) > 0
        assert (found("aura_rollout_epoch", split="t") or 0) >= 2


def status(number: int, *what: str, done: float = 1.0) -> RolloutStatus:
    made = plan(name="a-b")
    seen = nothing_seen(made)
    history = tuple(Event(1.0, each, "", "", done) for each in what)
    return status_of(
        made, f"rollout-a-b-{number}", RolloutState(0, "running", 1.0), seen, "", history
    )


async def test_rollbacks_are_counted_over_rollouts_of_one_name() -> None:
    past = {
        f"rollout-a-b-{number}": Document("rollout-past", "", 1, one.to_json(), 0.0)
        for number, one in ((1, status(1, "start", "rollback")), (2, status(2, "rollback")))
    }

    async def look(kind: str, name: str) -> Document | None:
        return past.get(name) if kind == "rollout-past" else None

    counted = Rollbacks()
    for one, total in (
        (status(1, "start"), 0),
        (status(1, "start", "rollback"), 1),
        (status(1, "start", "rollback"), 1),
        (status(4, "start"), 2),  # the second one came and went between two looks
        (status(4, "start", "rollback"), 3),
    ):
        await counted.learn(look, [one])
        assert counted.totals["a-b"] == total
    late = Rollbacks()
    await late.learn(look, [status(1, "rollback", done=0.0)])  # an order that came too late
    assert late.totals["a-b"] == 0


# -- what is away, and what is odd -----------------------------------------------------------------


async def test_without_the_database_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app()
    async with build(app) as serving, client(serving) as http:
        await (await app.start("research", "abc")).result(60)
        assert (await scraped(http))("aura_store_up") == 1

        async def away(*_: object) -> None:
            raise StoreUnavailable("it is away")

        monkeypatch.setattr(app.store, "documents", away)
        look_again(serving)
        found = await scraped(http)
        assert found("aura_store_up") == 0
        assert found.all("aura_queue_depth") == {}
        took = "aura_workflow_duration_seconds_count"
        assert found(took, workflow="research", outcome="completed") == 1

        async def hangs(*_: object) -> None:
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(store_metrics, "PATIENCE", 0.05)
        monkeypatch.setattr(app.store, "documents", hangs)
        look_again(serving)
        assert (await scraped(http))("aura_store_up") == 0

        async def breaks(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(app.store, "documents", breaks)
        look_again(serving)
        assert (await scraped(http))("aura_store_up") == 0
        monkeypatch.undo()
        look_again(serving)
        assert (await scraped(http))("aura_store_up") == 1


async def test_many_who_ask_cost_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app()
    async with build(app) as serving, client(serving) as http:
        asked: list[str] = []
        documents = app.store.documents

        async def counting(kind: str) -> list[Document]:
            asked.append(kind)
            return await documents(kind)

        monkeypatch.setattr(app.store, "documents", counting)
        monkeypatch.setattr(store_metrics, "FRESH", 3_600.0)
        await asyncio.gather(*(http.get("/metrics") for _ in range(20)))
        assert asked.count("experiment") == asked.count("split") == 1


async def test_a_document_that_cannot_be_read_is_left_out() -> None:
    app = make_app()
    async with build(app) as serving, client(serving) as http:
        for kind in ("split", "rollout", "experiment"):
            await app.committer.submit(PutDocument(kind, "odd", b"no"))
        await put(app, Split("s", 1, "seed", (Arm("a", 1.0),)))
        found = await scraped(http)
        assert found("aura_store_up") == 1
        assert found("aura_rollout_weight", split="s", arm="a") == 1


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "application/openmetrics-text; version=x", "text/plain;version=1.0.0;x", ";"],
)
async def test_whatever_is_accepted_gets_an_answer(accept: str) -> None:
    async with build(make_app()) as serving, client(serving) as http:
        answer = await http.get("/metrics", headers={"accept": accept})
        assert answer.status_code == 200
        assert "aura_store_up 1.0" in answer.text


async def test_open_metrics_for_who_asks_for_it() -> None:
    async with build(make_app()) as serving, client(serving) as http:
        wanted = "application/openmetrics-text; version=1.0.0"
        answer = await http.get("/metrics", headers={"accept": wanted})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")


@pytest.mark.parametrize("path", ["/*", "/metrics"])
async def test_it_is_found_under_a_gateway_that_takes_all_paths(path: str) -> None:
    """It gives way to a route that names it."""
    config = parse_gateway(GATEWAY.replace("path: /x", f"path: {path}"))
    async with build(answering(":memory:"), config) as serving, client(serving) as http:
        arm = (await http.get("/metrics")).headers.get("x-aura-arm")
        assert arm == ("old" if path == "/metrics" else None)
        assert (await scraped(http, "/api/v1/metrics"))("aura_store_up") == 1
    async with build(make_app()) as serving, client(serving, "evil.example") as http:
        assert (await http.get("/metrics")).status_code == 403


async def test_runs_that_are_under_way_are_counted() -> None:
    gate = Gate()
    app = make_app(gate=gate)
    async with build(app) as serving, client(serving) as http:
        run = await app.start("gated")
        await gate.reached.wait()
        assert (await scraped(http))("aura_runs_executing") == 1
        assert (await scraped(http))("aura_queue_depth", queue="default", state="running") == 1
        gate.open.set()
        await run.result(60)
        await until(lambda: app.executing == 0)
        assert (await scraped(http))("aura_runs_executing") == 0


async def test_several_apps_in_one_process_have_their_own() -> None:
    one, two = build(make_app()), build(make_app())
    async with one, two, client(one) as first, client(two) as second:
        await (await one.app.start("research", "abc")).result(60)
        took = {"workflow": "research", "outcome": "completed"}
        assert (await scraped(first))("aura_workflow_duration_seconds_count", **took) == 1
        assert (await scraped(second))("aura_workflow_duration_seconds_count", **took) is None


async def test_apps_of_one_worker_are_counted_together(tmp_path: Path) -> None:
    apps = [make_app(str(tmp_path / "aura.db")), shop(str(tmp_path / "aura.db"))]
    both_of_them = Metrics(*apps)
    for app in apps:
        app.watch = both_of_them
    async with apps[0], apps[1]:
        await (await apps[0].start("research", "abc")).result(60)
        with pytest.raises(aura.RunFailed):
            await (await apps[1].start("order", True)).result(60)
        least = sum(app.committer.counts.commits for app in apps)
        text, _ = await both_of_them.text()
    found = Scrape(text.decode())
    took = "aura_workflow_duration_seconds_count"
    assert found(took, workflow="research", outcome="completed") == 1
    assert found(took, workflow="order", outcome="failed") == 1
    assert (found("aura_checkpoint_writes_total") or 0) >= least > 0


async def test_a_port_for_metrics_alone() -> None:
    app = make_app()
    async with app.client():
        for here, host, code in (
            (True, "localhost:9464", 200),
            (True, "evil.example", 403),
            (False, "node7.example:9464", 200),
        ):
            transport = httpx.ASGITransport(metrics_only(Metrics(app), here=here))
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as http:
                answer = await http.get("/metrics")
                assert answer.status_code == code
                assert ("aura_store_up 1.0" in answer.text) == (code == 200)
                assert (await http.get("/api/v1/runs")).status_code in (404, 403)
                assert (await http.post("/metrics")).status_code in (405, 403)


# -- cardinality -----------------------------------------------------------------------------------


async def test_ten_thousand_names_are_no_labels() -> None:
    """Names of workflows, steps, topics, splits, arms and units may come from anywhere."""
    app = Aura("many", config=Config(database=":memory:"))
    counted = Metrics(app)
    async with app.client():
        await app.committer.submit(PutDocument("other", "x", b"{}"))
        record = (await start_one(app))._replace(state="completed")
        for n in range(10_000):
            name = f"n{n}"
            counted.settled(record._replace(workflow=name, id=name))
            counted.recorded(name, entry(f"0/{name}#1", name))
            counted.recorded(name, entry(f"0/~{name}#1", name))
            counted.emitted(name, 0.1)
            one = Observation(name, 1, name, name, 1.0, n % 2 == 0, 0.1, user_ok=False)
            counted.observed(one)
            counted.observed(replace(one, shadow=True, differences=("a",)))
        text, _ = await counted.text()
    found = Scrape(text.decode())
    for family in found.families.values():
        sets = {
            tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
            for sample in family.samples
        }
        closed = 3 if any("outcome" in dict(one) for one in sets) else 1
        assert len(sets) <= (instruments.MOST + 1) * closed, family.name
    assert len(text) < 2_000_000
    over = 10_000 - instruments.MOST
    requests = found.all("aura_gateway_requests_total")
    assert sum(requests.values()) == 10_000
    others = [n for key, n in requests.items() if ("split", OTHER) in key]
    assert sum(others) == over
    took = "aura_workflow_duration_seconds_count"
    assert found(took, workflow=OTHER, outcome="completed") == over
    assert found("aura_shadow_mismatches_total", split=OTHER, arm=OTHER) == over


async def test_ten_thousand_things_in_the_store_are_no_labels() -> None:
    app = Aura("many", config=Config(database=":memory:"))

    @app.workflow(version="1.0.0")
    async def idle() -> None: ...

    async with app.client():
        splits = [Split(f"s{n}", 1, "x", (Arm("a", 1.0), Arm("b", 0.0))) for n in range(10_000)]
        await app.store.commit(
            [PutDocument("split", one.name, one.to_json(), None) for one in splits]
        )
        known = StoreMetrics(app)
        await known.refresh()
        for family in known.families():
            assert len(family.samples) <= 2 * (instruments.MOST + 1), family.name


def entry(key: str, run: str) -> Entry:
    return Entry(run, 1, key, "step", "", None, b"1", None, 1, 1.0, 1.5)


async def start_one(app: Aura) -> RunRecord:
    @app.workflow(version="1.0.0")
    async def nothing() -> None: ...

    return await (await app.start(nothing)).record()


# -- the document ----------------------------------------------------------------------------------

DOCUMENT = Path(__file__).parents[2] / "docs" / "operate" / "metrics.md"
ROW = re.compile(r"^\| `(aura_\w+)` \| (\w+) \| ([^|]*) \|", re.MULTILINE)


async def test_the_document_lists_what_is_exported() -> None:
    specs = {
        one.name: one for module in (metrics, store_metrics) for one in vars(module).values()
        if isinstance(one, Spec)
    }  # fmt: skip
    written = {
        name: (kind, labels.strip()) for name, kind, labels in ROW.findall(DOCUMENT.read_text())
    }
    assert written == {
        one.name: (one.kind, ", ".join(f"`{label}`" for label in one.labels) or "-")
        for one in specs.values()
    }
    async with build(answering(":memory:"), gateway()) as serving, client(serving) as http:
        text = (await http.get("/metrics")).text
        exported = set(re.findall(r"^# TYPE (aura_\w+) ", text, re.MULTILINE))
    assert exported == set(specs)
