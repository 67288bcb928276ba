"""An app to serve, and an HTTP client that speaks to it without a socket."""

from __future__ import annotations

import asyncio

import httpx

import aura
from aura import Aura, Config, step
from aura.server.serving import Serving


@step(retries=1)
async def measure(text: str) -> int:
    return len(text)


class Gate:
    """Lets tests hold a run at a known place."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()


def make_app(database: str = ":memory:", gate: Gate | None = None) -> Aura:
    app = Aura("served", config=Config(database=database))

    @app.workflow(version="1.0.0")
    async def research(text: str, times: int = 1) -> dict[str, int]:
        lengths = await asyncio.gather(*(measure(text) for _ in range(times)))
        return {"length": sum(lengths)}

    @app.workflow(version="1.0.0")
    async def named(id: str, version: int = 3, *, note: str = "") -> str:
        return f"{id}/{version}/{note}"

    @app.workflow(version="1.0.0")
    async def broken(text: str) -> str:
        raise ValueError(text)

    @app.workflow(version="1.0.0")
    async def naps(seconds: float) -> str:
        await aura.sleep(seconds)
        return "awake"

    @app.workflow(version="1.0.0")
    async def gated() -> str:
        assert gate is not None
        gate.reached.set()
        await gate.open.wait()
        return "through"

    return app


def client(serving: Serving, host: str = "127.0.0.1:8080") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=serving, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}")
