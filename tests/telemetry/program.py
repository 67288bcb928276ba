"""A worker that is killed half-way: `python -m tests.telemetry.program DATABASE FOLDER`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from aura import Aura, Config, step

FOLDER = Path(sys.argv[2] if len(sys.argv) > 2 else ".")


@step(idempotent=True)
async def first(text: str) -> str:
    return text


@step(idempotent=True)
async def second(text: str) -> str:
    (FOLDER / f"reached-{os.getpid()}").touch()
    while not (FOLDER / "open").exists():
        await asyncio.sleep(0.02)
    return text


def make(database: str) -> Aura:
    app = Aura("moved", config=Config(database=database, lease=1.0, poll=0.1))

    @app.workflow(version="1.0.0")
    async def inner(text: str) -> str:
        return await first(text)

    @app.workflow(version="1.0.0")
    async def outer(text: str) -> str:
        text = await first(text)
        text = await inner(text)
        text = await second(text)
        return await first(text)

    return app


async def main() -> None:
    async with make(sys.argv[1]):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
