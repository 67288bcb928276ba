"""Requests made up from the OpenAPI document: whatever is sent, answers are documented and no
fault of the server. The same requests every time."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, assume, given, settings

from aura.errors import RunFailed
from aura.gateway import server_config
from aura.server import changes_api, limits
from aura.server.api import openapi_of
from aura.server.limits import Rates
from aura.server.serving import Serving, build
from aura.server.tokens import create
from tests.server import reference
from tests.server.kit import make_app
from tests.server.sensible import MEANING, SLEEPS, make_sense
from tests.server.test_authorisation import ROUTES

EXAMPLES = 4
"""Requests per route that fit the document, and as many that do not."""
LISTS = {"attribute", "kind"}
"""Parameters of queries that may be given several times."""

SCHEMA = schemathesis.openapi.from_dict(openapi_of(build(make_app()).api))
OPERATIONS: dict[tuple[str, str], Any] = {
    (one.method.upper(), one.path): one
    for one in (cast("Any", found).ok() for found in SCHEMA.get_all_operations())
}


class Server:
    """A server in a thread of its own, with a run that has ended: the one of the examples."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(limits, "FREE_GUESSES", 1_000_000)
        patch.setattr(changes_api, "LONGEST", 0.01)  # what is live ends at once
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.token = ""
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        self._listener.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        app = make_app()
        app.queue("slow", concurrency=1)
        serving: Serving = build(app)
        serving.door.rates = Rates(rate=1e6, burst=1e6)
        async with serving:
            with suppress(RunFailed):  # so that there is something to try again
                await (await app.start("broken", "durable", id="doc-17")).result(60)
            for nap in SLEEPS[:2]:
                await app.start("naps", 3_600.0, id=nap)
            await app.schedules.create("nightly", "research", ["durable"], cron="0 3 * * *")
            await app.emit("orders", {"id": 1})
            _, self.token = await create(app, "tester", "admin")
            config = server_config(serving)
            config.lifespan = "off"
            server = uvicorn.Server(config)
            running = asyncio.create_task(server.serve(sockets=[self._listener]))
            self._ready.set()
            await self._stop.wait()
            server.should_exit = True
            await running


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch, Server(patch) as running:
        yield running


def test_the_document_has_every_route() -> None:
    shown = {(method, path) for method, path in ROUTES if path != "/api/v1/metrics"}
    assert set(OPERATIONS) == shown | {("GET", "/healthz"), ("GET", "/readyz")}


def test_bodies_have_examples() -> None:
    schemas = SCHEMA.raw_schema["components"]["schemas"]
    for path, methods in SCHEMA.raw_schema["paths"].items():
        for method, told in methods.items():
            if "requestBody" in told:
                body = told["requestBody"]["content"]["application/json"]["schema"]
                name = body["$ref"].rpartition("/")[2]
                assert schemas[name]["examples"], f"{method} {path}: {name}"


@pytest.mark.parametrize("route", list(OPERATIONS), ids=" ".join)
def test_answers_are_as_documented(server: Server, route: tuple[str, str]) -> None:
    modes = schemathesis.GenerationMode
    operation = OPERATIONS[route]
    token = {"Authorization": f"Bearer {server.token}"}
    _try(server, operation, modes.POSITIVE, headers=token)
    if operation.path_parameters or operation.query or operation.body:  # there is what to get wrong
        _try(server, operation, modes.NEGATIVE, headers=token)


@pytest.mark.parametrize("route", list(OPERATIONS), ids=" ".join)
def test_strangers_are_answered_as_documented(server: Server, route: tuple[str, str]) -> None:
    _try(server, OPERATIONS[route], schemathesis.GenerationMode.POSITIVE, examples=1)


def _try(server: Server, operation: Any, mode: Any, examples: int = EXAMPLES, **asked: Any) -> None:
    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def probe(case: Any) -> None:
        if mode is schemathesis.GenerationMode.POSITIVE:
            make_sense((operation.method.upper(), operation.path), case)
        else:  # a query has texts alone: parts of others are sent as parameters that may well fit
            plain = {name: one for name, one in (case.query or {}).items() if name not in LISTS}
            assume(not any(isinstance(one, dict | list) for one in plain.values()))
        case.call_and_validate(base_url=server.url, **asked)

    probe()


def test_sense_is_put_into_routes_that_there_are() -> None:
    assert set(MEANING) <= set(OPERATIONS)
    assert all(why and mends for why, mends in MEANING.values())


def test_a_port_that_speaks_nonsense_is_answered_or_closed(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    for sent in (b"\x00\xff" * 50 + b"\r\n\r\n", b"GET /\xff HTTP/9.9\r\n\r\n"):
        with closing(socket.create_connection(("127.0.0.1", port), 60)) as connection:
            answer = b""
            with suppress(ConnectionResetError):
                connection.sendall(sent)
                answer = connection.recv(1_000)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


def test_the_reference_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "api.md"
    assert page.read_text() == reference.text(), "run: python -m tests.server.reference"
