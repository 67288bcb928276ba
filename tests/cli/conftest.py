"""A small project in a folder of its own; the command line in this process, or as another one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aura.cli.main import main

PROJECT = '''
import asyncio
import os
import pathlib
import aura
from aura import Aura, Config, step

app = Aura("research", config=Config(grace=float(os.environ.get("GRACE", 0.5)), lease=1.0))


@step(idempotent=True)
async def measure(text: str) -> int:
    return len(text)


@step
async def mark(path: str, line: str) -> None:
    with open(path, "a") as file:
        file.write(f"{line} in {os.getpid()}" + chr(10))


@step
async def wait_for(path: str) -> str:
    """Returns when the file is there, which another process makes; says that it has begun."""
    pathlib.Path(path + ".awaited").touch()
    while not pathlib.Path(path).exists():
        await asyncio.sleep(0.01)
    return "seen"


@step
def blocks_forever(path: str) -> None:
    import threading
    pathlib.Path(path).touch()
    threading.Event().wait()


@step(retries=1)
async def flaky(path: str) -> str:
    if not pathlib.Path(path).exists():
        pathlib.Path(path).touch()
        raise ConnectionError("the first try fails")
    return "second"


@app.workflow(version="1.0.0")
async def research(text: str, times: int = 1) -> dict[str, int] | str:
    lengths = await asyncio.gather(*(measure(text) for _ in range(times)))
    return {"length": sum(lengths)}


@app.workflow(version="1.1.0", name="research")
async def research_11(text: str, times: int = 1) -> str:
    return text.upper()


@app.workflow(version="1.0.0")
async def broken(text: str) -> str:
    raise ValueError(text)


@app.workflow(version="1.0.0")
async def tries_twice(path: str) -> str:
    return await flaky(path)


@app.workflow(version="1.0.0")
async def echo(value: bytes, id: str = "") -> str:
    return f"{value!r} {id}"


@app.workflow(version="1.0.0")
async def holds(path: str) -> str:
    await mark(path + ".log", "began")
    seen = await wait_for(path)
    await mark(path + ".log", "ended")
    return seen


@app.workflow(version="1.0.0")
async def stuck(path: str) -> None:
    await blocks_forever(path)


@app.workflow(version="1.0.0")
async def talks() -> list[object]:
    aura.set_state("phase", "asking")
    pen = aura.stream("words")
    pen.write("one")
    pen.write({"two": "\\x1b[31m"})
    heard = [await aura.receive("go")]
    update = await aura.receive_update("add", type=int)
    update.answer(update.value + 1)
    pen.write("three")
    return heard
'''

GATEWAY = """
gateway:
  routes:
    - path: /research
      methods: [POST]
      split: research
      unit: {header: x-user}
      baseline: research@1.0.0
      sla: 5s
  targets:
    research@1.0.0: {workflow: research, version: 1.0.0}
    research@1.1.0: {workflow: research, version: 1.1.0}
    broken: {workflow: broken, version: 1.0.0}
"""

PLAN = """
rollout:
  name: next
  split: research
  baseline: research@1.0.0
  candidate: research@1.1.0
  guards: [errors: {}]
  stages: [50%, 100%]
  defaults: {min_requests: 3, min_time: 200ms, max_time: 5m}
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """All of stdout as one JSON document."""
        return json.loads(self.out)


Aura = Callable[..., Ended]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder: `research.py` with an app, `aura.yaml`, no database yet."""
    (tmp_path / "research.py").write_text(PROJECT)
    (tmp_path / "aura.yaml").write_text(GATEWAY + PLAN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AURA_DATABASE_URL", raising=False)
    monkeypatch.delenv("AURA_DEBUG", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    root, own = logging.getLogger(), logging.getLogger("aura")
    before = list(root.handlers), root.level, own.level
    yield tmp_path
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def aura(project: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Aura:
    """The command line in this process: `aura("runs", "list")`."""

    def run(*arguments: str) -> Ended:
        capfdbinary.readouterr()
        sys.modules.pop("research", None)  # every process imports it anew
        code = main(arguments)
        said = capfdbinary.readouterr()
        return Ended(code, said.out.decode(), said.err.decode())

    return run


class Process:
    """The command line as a process of its own."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.log = folder / f"{arguments[0]}-{os.urandom(3).hex()}.log"
        with self.log.open("w") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "aura.cli.main", *arguments],
                cwd=folder,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def line(self) -> Any:
        """The next line of its stdout, which is JSON."""
        assert self.popen.stdout is not None
        text = self.popen.stdout.readline()
        assert text, f"it ended: {self.log.read_text()}"
        return json.loads(text)

    def stop(self, number: int) -> int:
        """Send a signal; the exit code (negative: the signal ended it)."""
        self.popen.send_signal(number)
        return self.popen.wait(60)

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()


Spawn = Callable[..., Process]


@pytest.fixture
def spawn(project: Path) -> Iterator[Spawn]:
    """Start `aura ...` as a process; none outlives the test."""
    started: list[Process] = []

    def start(*arguments: str, **environment: str) -> Process:
        started.append(Process(project, *arguments, **environment))
        return started[-1]

    yield start
    for process in started:
        process.close()
