"""docs/operate/upgrade.md: two workers are replaced one after the other, under steady traffic."""

from __future__ import annotations

import asyncio
import itertools
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.engine.kit import until
from tests.operate.kit import client_of, ledger, worker, write_app


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))


class Traffic:
    """Starts orders one after the other until it is told to stop."""

    def __init__(self, database: str, version: str) -> None:
        self.app = client_of(database, version)
        self.version = version
        self.started: list[str] = []
        self._on = True

    async def run(self) -> None:
        async with self.app.client():
            for n in itertools.count():
                if not self._on:
                    break
                name = f"{self.version}-{n}"
                await self.app.start("order", name, id=name)
                self.started.append(name)
                await asyncio.sleep(0.02)
            for name in self.started:
                assert await self.app.run(name).result(60) == f"{self.version} {name}"

    async def stop(self) -> None:
        self._on = False


@pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)
async def test_workers_are_replaced_under_traffic_and_nothing_is_lost(
    database: str, tmp_path: Path
) -> None:
    write_app(tmp_path)
    (tmp_path / "gate").touch()
    old = Traffic(database, "1.0.0")
    with ExitStack() as stack:
        first, second = (stack.enter_context(worker(tmp_path, database)) for _ in range(2))
        going = asyncio.create_task(old.run())
        await until(lambda: _sent(tmp_path, old) >= 5)
        for one in (first, second):
            assert await asyncio.to_thread(one.stop, signal.SIGTERM) == 0
            await _goes_on(tmp_path, old)
            await asyncio.to_thread(stack.enter_context, worker(tmp_path, database, release=2))
        new = Traffic(database, "1.1.0")  # which only the new workers have
        newer = asyncio.create_task(new.run())
        await until(lambda: _sent(tmp_path, new) >= 5)
        await old.stop()
        await new.stop()
        await asyncio.gather(going, newer)
    lines = ledger(tmp_path)
    for order in (*old.started, *new.started):
        assert lines[f"take {order}"] == lines[f"send {order}"] == 1
    for order in old.started:
        assert lines[f"hold {order}"] == 1  # it had time to end


async def _goes_on(folder: Path, traffic: Traffic) -> None:
    """Another worker takes the orders."""
    before = _sent(folder, traffic)
    await until(lambda: _sent(folder, traffic) >= before + 5)


def _sent(folder: Path, traffic: Traffic) -> int:
    lines = ledger(folder)
    return sum(lines[f"send {one}"] for one in list(traffic.started))
