"""Malformed HTTP against `aura serve` in a process of its own: nothing crashes it, nothing of one
request becomes another one at the target, and its answers say that the client is at fault."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from tests.gateway.conftest import Servers
from tests.gateway.raw import CASES, SECRET, SESSION, Recorder, head, provoke

SEED = 17
ROUNDS = 30  # of as many requests as there are kinds
AT_ONCE = 12
PATIENCE = 0.2  # seconds in which an answer that comes is looked at; later ones are not missed
CODES = frozenset({200, 400, 403, 404, 405, 408, 411, 413, 414, 415, 417, 421, 426, 431})

GATEWAY = """
gateway:
  max_body: 1MiB
  body_timeout: 1s
  routes:
    - {path: /work/*, split: work, unit: {header: x-user}, baseline: target}
  targets:
    target: {http: "http://127.0.0.1:PORT", timeout: 20s}
"""
APP = "from aura import Aura\n\napp = Aura('fuzzed')\n"


async def started(folder: Path, target: int) -> tuple[asyncio.subprocess.Process, str]:
    """`aura serve`, and its address."""
    (folder / "fuzzed.py").write_text(APP)
    (folder / "aura.yaml").write_text(GATEWAY.replace("PORT", str(target)))
    program = "from aura.cli.main import main; import sys; sys.exit(main())"
    given = ("serve", "fuzzed:app", "--gateway", "aura.yaml", "--port", "0", "--json")
    with (folder / "stderr").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, *given, cwd=folder, stdout=-1, stderr=errors
        )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        line = await process.stdout.readline()
    assert line, (folder / "stderr").read_text()
    return process, json.loads(line)["url"]


async def test_malformed_requests(tmp_path: Path) -> None:
    servers, target, other = Servers(), Recorder(), Recorder()
    other_port = await servers.raw(other)
    process, url = await started(tmp_path, await servers.raw(target))
    try:
        await _good_requests(int(url.rpartition(":")[2]), target)
        statuses = await _fuzz(url, f"127.0.0.1:{other_port}".encode())
        assert process.returncode is None
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await servers.close()
    _check(statuses, target, other)
    errors = (tmp_path / "stderr").read_text()
    assert "Traceback" not in errors, errors[-3_000:]


async def _good_requests(port: int, target: Recorder) -> None:
    """What the fuzzing looks for would be seen: of good requests all arrives but what is Aura's."""
    data = head(SECRET, SESSION, b"Connection: close", b"Content-Length: 2") + b"{}"
    others = data.replace(b"Bearer aura_", b"Bearer other_").replace(b"aura_session=", b"session=")
    for one in (data, others):
        assert await provoke(port, one, random.Random(3), 60.0) == [200]
    mine, theirs = target.seen
    assert mine.all(b"authorization") == []
    assert mine.all(b"cookie") == [b"a=1; b=aura_session"]
    assert theirs.all(b"authorization")[0].startswith(b"Bearer other_")
    assert theirs.all(b"cookie") == [b"a=1; session=s3cret; __Host-session=x; b=aura_session"]


async def _fuzz(url: str, other: bytes) -> Counter[int]:
    """The statuses of all answers. After each round a good request has to be answered."""
    statuses: Counter[int] = Counter()
    port = int(url.rpartition(":")[2])
    room = asyncio.Semaphore(AT_ONCE)
    slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]

    async def one(number: int) -> None:
        chance = random.Random(f"{SEED}-{number}")
        data = CASES[number % len(CASES)](chance, other)
        async with room:
            statuses.update(await provoke(port, data, chance, PATIENCE))

    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for number in range(0, ROUNDS * len(CASES), 3 * len(CASES)):
            await asyncio.gather(*(one(number + at) for at in range(3 * len(CASES))))
            for _, writer in slow:  # those that never come to the end of their head
                writer.write(b"a" if number else b"GET /work/slow HTTP/1.1\r\nX: ")
            body = b"x" * (number + 1)
            answer: Any = await http.post("/work/good", content=body, headers={"x-user": "u"})
            assert (answer.status_code, answer.json()) == (200, {"length": len(body)})
    for _, writer in slow:
        writer.transport.abort()
    return statuses


def _check(statuses: Counter[int], target: Recorder, other: Recorder) -> None:
    assert set(statuses) <= CODES, statuses
    assert statuses[400] > 50, "most of it is nonsense"
    assert target.wrong == []
    assert other.connections == 0, "a client has chosen where a request goes"
    del target.seen[:2]  # the good ones at first
    good = [one for one in target.seen if one.path == b"/work/good"]
    assert len(good) == ROUNDS // 3
    for one in target.seen:
        assert one.path.startswith(b"/work/"), one
        assert b"smuggled" not in one.path.partition(b"?")[0] or b".." in one.path, one
        assert not any(b"aura_0" in value or b"s3cret" in value for _, value in one.fields), one
        assert len(one.all(b"host")) == 1
        assert not one.all(b"injected")
        assert not one.all(b"http2-settings")
