"""Queues as programs declare them: who defines one, and what cannot be."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aura import Aura, Config
from aura.errors import AuraError, ConfigError, InvalidInput, RegistrationError, UnknownQueue
from tests.engine.kit import World
from tests.engine.queue_kit import PATIENCE, Gate, opened, quiet, results, visiting


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_TAGS", "gpu, eu")
    monkeypatch.setenv("AURA_RESOURCES", "gpu=2,ram=64.5")
    config = Config()
    assert config.tags == {"gpu", "eu"}
    assert config.resources == {"gpu": 2.0, "ram": 64.5}
    monkeypatch.setenv("AURA_RESOURCES", "gpu")
    with pytest.raises(ConfigError, match="gpu=2"):
        Config()


@pytest.mark.parametrize(
    "settings", [{"tags": "gpu"}, {"tags": {""}}, {"resources": {"gpu": 0}}, {"resources": {"": 1}}]
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**settings)


# Definitions.


async def test_the_newest_worker_defines_a_queue(
    world: World, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    workflow = visiting(gate)
    old = world.app(workflow)
    old.queue("q", concurrency=1)
    await opened(world, old)
    runs = [await old.start(workflow, f"r{n}", queue="q") for n in range(3)]
    await gate.holds("r0")
    client = world.app(workflow)
    client.queue("q", concurrency=3)
    client.queue("only here", concurrency=4)
    await opened(world, client, worker=False)
    await quiet(world)
    assert gate.inside == ["r0"], "a client changes nothing"
    new = world.app(workflow)
    new.queue("q", concurrency=2)
    with caplog.at_level(logging.WARNING, "aura.queues"):
        await opened(world, new)
    assert "queue q has new limits" in caplog.text
    await gate.holds("r0", "r1")
    found = {one.name: (one.epoch, one.limits.concurrency) for one in await new.store.queues()}
    assert found == {"q": (2, 2), "only here": (1, 4)}
    gate.open = True
    await results(runs)


async def test_a_queue_that_another_process_has_declared(world: World, gate: Gate) -> None:
    workflow = visiting(gate)
    client = await world.open(workflow, worker=False)
    with pytest.raises(UnknownQueue, match=r"no queue q.*app\.queue\('q'\)"):
        await client.start(workflow, "a", queue="q")
    app = world.app(workflow)
    app.queue("q")
    await opened(world, app)
    gate.open = True
    run = await client.start(workflow, "a", queue="q")
    assert await run.result(timeout=PATIENCE) == "a"


@pytest.mark.parametrize(
    "limits",
    [
        {"concurrency": 0},
        {"concurrency": -1},
        {"concurrency": 1.5},
        {"concurrency": True},
        {"per_worker": "2"},
        {"per_key": 2**31},
        {"rate": (0, 60)},
        {"rate": (1, 0)},
        {"rate": (1, timedelta(seconds=-1))},
        {"rate": (1, float("nan"))},
        {"rate": 100},
        {"rate": (1,)},
        {"rate": (None, 60)},
        {"rate": (1, "minute")},
        {"requires": "gpu"},
        {"requires": {""}},
        {"requires": 5},
        {"resources": {"gpu"}},
        {"resources": {"gpu": 0}},
        {"resources": {"gpu": "2"}},
        {"name": ""},
        {"name": "a\nb"},
    ],
)
def test_limits_that_cannot_be(limits: dict[str, Any]) -> None:
    with pytest.raises(RegistrationError):
        Aura("test").queue(**{"name": "q", **limits})


@pytest.mark.parametrize("place", [{"key": "a"}, {"priority": "high"}])
async def test_the_default_queue_has_no_keys(
    memory: World, gate: Gate, place: dict[str, Any]
) -> None:
    app = await memory.open(visiting(gate))
    with pytest.raises(InvalidInput, match="default queue"):
        await app.start("flow", "a", queue=app.place(**place))


def test_a_queue_is_declared_once() -> None:
    app = Aura("test")
    assert app.queue("q", concurrency=1) is app.queue("q", concurrency=1)
    with pytest.raises(RegistrationError, match="twice"):
        app.queue("q", concurrency=2)


@pytest.mark.parametrize(
    "place",
    [
        {"priority": "urgent"},
        {"priority": 1.5},
        {"priority": 10_001},
        {"key": ""},
        {"key": "a\x00b"},
        {"key": 7},
        {"delay": -1},
        {"delay": "1"},
        {"delay": float("inf")},
        {"at": datetime(2030, 1, 1)},  # noqa: DTZ001  (that is what is refused)
        {"delay": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)},
        {"dedup": "x" * 501},
        {"debounce": 1},
        {"debounce": 0, "dedup": "x"},
        {"debounce": 1, "delay": 1, "dedup": "x"},
        {"debounce": (1, -1), "dedup": "x"},
        {"debounce": (1,), "dedup": "x"},
        {"debounce": (1, 2, 3), "dedup": "x"},
        {"debounce": "soon", "dedup": "x"},
        {"queue": ""},
    ],
)
def test_places_that_cannot_be(place: dict[str, Any]) -> None:
    with pytest.raises((InvalidInput, RegistrationError)) as caught:
        Aura("test").place(**place)
    assert isinstance(caught.value, AuraError)
