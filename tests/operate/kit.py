"""An app whose steps leave lines in a file, worker processes for it, and commands of documents."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aura import Aura, Config
from tests.cli.conftest import Process
from tests.tidy_rules import ROOT, blocks

APP = '''
import asyncio
import os
import pathlib
from aura import Aura, Config, step

HERE = pathlib.Path(__file__).parent
RELEASE = int(os.environ.get("RELEASE", "1"))
LEASE = float(os.environ["LEASE"])
app = Aura("shop", config=Config(lease=LEASE, poll=0.05, grace=30.0))


def write(line: str) -> None:
    file = os.open(HERE / "ledger", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(file, f"{line}\\n".encode())
    os.close(file)


@step
async def take(order: str) -> None:
    write(f"take {order}")


@step
async def hold(order: str) -> None:
    """Until the gate is open."""
    write(f"hold {order}")
    while not (HERE / "gate").exists():
        await asyncio.sleep(0.01)


@step
async def send(order: str) -> None:
    write(f"send {order}")


@app.workflow(version="1.0.0")
async def order(id: str) -> str:
    await take(id)
    await hold(id)
    await send(id)
    return f"1.0.0 {id}"


if RELEASE > 1:
    @app.workflow(version="1.1.0", name="order")
    async def order_11(id: str) -> str:
        await take(id)
        await send(id)
        return f"1.1.0 {id}"
'''


def write_app(folder: Path) -> None:
    (folder / "shop.py").write_text(APP)


def ledger(folder: Path) -> Counter[str]:
    path = folder / "ledger"
    return Counter(path.read_text().splitlines() if path.exists() else ())


@contextmanager
def worker(
    folder: Path, database: str, *, release: int = 1, lease: float = 120.0
) -> Iterator[Process]:
    """A worker that has begun; killed when the block ends and it is still there. Its lease is long:
    on a slow machine it is not to lose its runs."""
    process = Process(
        folder, "worker", "shop:app", "--json",
        AURA_DATABASE_URL=database, RELEASE=str(release), LEASE=str(lease),
    )  # fmt: skip
    try:
        assert process.line()["event"] == "ready"
        yield process
    finally:
        process.close()


def client_of(database: str, version: str = "1.0.0") -> Aura:
    """The same app, as it is known where nothing of it is run."""
    app = Aura("shop", config=Config(database=database))

    @app.workflow(version=version)
    async def order(id: str) -> str:
        raise AssertionError("workers run it")

    return app


def commands(page: str, heading: str) -> list[str]:
    """The shell blocks of one chapter of a document."""
    text = (ROOT / page).read_text()
    start = text.index(f"\n## {heading}\n")
    end = text.find("\n## ", start + 1)
    return [block.code for block in blocks("bash", {page: text[start : end if end > 0 else None]})]


def shell(code: str, folder: Path, **environment: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], cwd=folder, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
