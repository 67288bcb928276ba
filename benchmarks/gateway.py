"""What the gateway adds to a call: the same steady load directly and through it, by turns.

    python -m benchmarks.gateway [--rate 200] [--seconds 5] [--rounds 5] [--json]
    python -m benchmarks.gateway --shadow        ... and with every request copied to a candidate
    python -m benchmarks.gateway --clients       the HTTP clients a gateway could be built on

Three processes: a target (uvicorn, a small JSON echo), the gateway in front of it, and this one,
which sends requests at fixed moments whether or not earlier ones were answered (open loop), so
that a stall is charged to every request that had to wait for it. The latency of a request counts
from the moment at which it was due. The figure to reach: at most 3 ms more at the 95th percentile
at 200 requests per second.

With `--shadow` a second gateway copies each request to a second target and compares the answers;
`shadow` is what that adds to the users' requests. The copies take processor time of the machine
that the users' requests would have had: on few cores that is seen, beyond that nothing waits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import uvicorn
import uvloop

from aura.clock import SystemClock
from aura.delivery.split import Arm, Split
from aura.gateway import (
    Gateway,
    GatewayConfig,
    HttpSpec,
    HttpTarget,
    Request,
    Route,
    WorkflowSpec,
    server_config,
)
from aura.gateway.build import build_holders, build_targets
from aura.gateway.client import Receive, Scope, Send
from aura.gateway.units import UnitSource

HOST = "127.0.0.1"
BODY = json.dumps({"query": "what is a context manager", "limits": [1, 2, 3] * 10}).encode()
FIELDS = {"content-type": "application/json", "x-user-id": "u1"}
WARM_UP = 100  # requests before anything is counted
QUANTILES = (50, 95, 99)

Call = Callable[[], Awaitable[None]]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The target: reads the JSON and answers with it."""
    body = b""
    more = scope["type"] == "http"
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = json.dumps({"ok": True, "echo": json.loads(body or b"null")}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def serve_target(port: int) -> None:
    """The target's process."""
    config = server_config(echo, host=HOST, port=port)
    config.lifespan = "off"
    uvicorn.Server(config).run()


def serve_gateway(port: int, behind: int, mirror: int | None) -> None:
    """The gateway's process; with `mirror` that port gets a copy of each request."""
    route = Route(
        "/echo", split="echo", baseline="echo", unit=UnitSource("header", "x-user-id"), sla=1.0
    )
    targets: dict[str, HttpSpec | WorkflowSpec] = {"echo": HttpSpec(f"http://{HOST}:{behind}")}
    if mirror is not None:
        targets["copy"] = HttpSpec(f"http://{HOST}:{mirror}")
    config = GatewayConfig((route,), targets)
    clock = SystemClock()
    holders = build_holders(config)
    if mirror is not None:
        arms = (Arm("echo", 1.0), Arm("copy", 0.0))
        holders["echo"].offer(Split("echo", 1, "seed", arms, mirror="copy"))
    gateway = Gateway(
        config,
        targets=build_targets(config, runner=None, clock=clock),
        splits=holders,
        observe=lambda _: None,
        clock=clock,
    )
    uvicorn.Server(server_config(gateway, host=HOST, port=port)).run()


# -- processes ---------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextlib.contextmanager
def process(*arguments: object) -> Iterator[None]:
    """This module in another process, until the block ends; the second argument is its port."""
    command = [sys.executable, "-m", "benchmarks.gateway", *map(str, arguments)]
    child = subprocess.Popen(command)
    try:
        wait_for(int(str(arguments[1])), child)
        yield
    finally:
        child.terminate()
        child.wait(10)


def wait_for(port: int, child: subprocess.Popen[bytes]) -> None:
    """Return when the port takes connections."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if child.poll() is not None:
            raise RuntimeError(f"the server on port {port} ended with {child.returncode}")
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 0.2):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


# -- load --------------------------------------------------------------------------------------


async def open_loop(call: Call, rate: float, seconds: float) -> list[float]:
    """Latencies in seconds of calls that are due at a steady rate."""
    taken: list[float] = []

    async def one(due: float) -> None:
        await call()
        taken.append(time.perf_counter() - due)

    begin = time.perf_counter() + 0.01
    async with asyncio.TaskGroup() as group:
        for index in range(int(rate * seconds)):
            due = begin + index / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            group.create_task(one(due))
    return taken


@contextlib.asynccontextmanager
async def target_client(port: int) -> AsyncIterator[Call]:
    """aiohttp as the gateway uses it."""
    target = HttpTarget(f"http://{HOST}:{port}")
    fields = tuple((name.encode(), value.encode()) for name, value in FIELDS.items())
    request = Request("/echo", "POST", b"/echo", fields, BODY, announced=True)

    async def call() -> None:
        answer = await target.call(request)
        async for _ in answer.parts():
            pass
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}")

    try:
        yield call
    finally:
        await target.close()


@contextlib.asynccontextmanager
async def aiohttp_client(port: int) -> AsyncIterator[Call]:
    """aiohttp, streaming as a gateway would."""
    url = f"http://{HOST}:{port}/echo"
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def call() -> None:
            async with session.post(url, data=BODY, headers=FIELDS) as response:
                async for _ in response.content.iter_any():
                    pass
                response.raise_for_status()

        yield call


@contextlib.asynccontextmanager
async def httpx_client(port: int) -> AsyncIterator[Call]:
    """httpx, streaming as a gateway would."""
    url = f"http://{HOST}:{port}/echo"
    async with httpx.AsyncClient(trust_env=False) as client:

        async def call() -> None:
            async with client.stream("POST", url, content=BODY, headers=FIELDS) as response:
                async for _ in response.aiter_raw():
                    pass
                response.raise_for_status()

        yield call


def quantiles(taken: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {f"p{q}": round(cuts[q - 1] * 1000, 3) for q in QUANTILES}


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each quantile over the rounds."""
    return {f"p{q}": round(statistics.median(r[f"p{q}"] for r in rounds), 3) for q in QUANTILES}


# -- measurements ------------------------------------------------------------------------------


async def by_turns(ports: dict[str, int], rate: float, seconds: float, rounds: int) -> Any:
    """{name: the quantiles of each round} for the same load on each port, by turns."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ports}
    async with contextlib.AsyncExitStack() as stack:
        calls = {
            name: await stack.enter_async_context(aiohttp_client(port))
            for name, port in ports.items()
        }
        for call in calls.values():
            await open_loop(call, rate, WARM_UP / rate)
        for _ in range(rounds):
            for name, call in calls.items():
                found[name].append(quantiles(await open_loop(call, rate, seconds)))
    return found


def measure(rate: float, seconds: float, rounds: int) -> dict[str, Any]:
    """Direct and through the gateway: medians over the rounds, and what the gateway adds."""
    target, gateway = free_ports(2)
    with process("--target", target), process("--gateway", gateway, "--behind", target):
        ports = {"direct": target, "gateway": gateway}
        found = uvloop.run(by_turns(ports, rate, seconds, rounds))
    direct, through = medians(found["direct"]), medians(found["gateway"])
    added = {name: round(through[name] - direct[name], 3) for name in direct}
    return {
        "rate": rate,
        "seconds": seconds,
        "rounds": rounds,
        "direct_ms": direct,
        "gateway_ms": through,
        "added_ms": added,
        "each_round_ms": found,
    }


def measure_shadow(rate: float, seconds: float, rounds: int) -> dict[str, Any]:
    """Two gateways in front of one target, of which one copies everything to another target."""
    target, candidate, plain, shadow = free_ports(4)
    with contextlib.ExitStack() as servers:
        servers.enter_context(process("--target", target))
        servers.enter_context(process("--target", candidate))
        servers.enter_context(process("--gateway", plain, "--behind", target))
        servers.enter_context(
            process("--gateway", shadow, "--behind", target, "--mirror", candidate)
        )
        ports = {"gateway": plain, "shadow": shadow}
        found = uvloop.run(by_turns(ports, rate, seconds, rounds))
    without, copied = medians(found["gateway"]), medians(found["shadow"])
    return {
        "rate": rate,
        "seconds": seconds,
        "rounds": rounds,
        "gateway_ms": without,
        "shadow_ms": copied,
        "added_ms": {name: round(copied[name] - without[name], 3) for name in without},
        "each_round_ms": found,
    }


async def client_costs(port: int, count: int) -> dict[str, dict[str, float]]:
    """Quantiles and processor time in ms per call for each client, one call after the other."""
    found: dict[str, dict[str, float]] = {}
    clients: dict[str, Any] = {
        "HttpTarget": target_client,
        "aiohttp": aiohttp_client,
        "httpx": httpx_client,
    }
    for name, client in clients.items():
        async with client(port) as call:
            for _ in range(WARM_UP):
                await call()
            began, taken = time.process_time(), []
            for _ in range(count):
                at = time.perf_counter()
                await call()
                taken.append(time.perf_counter() - at)
            cost = (time.process_time() - began) / count * 1000
        found[name] = {**quantiles(taken), "cpu": round(cost, 3)}
    return found


def measure_clients(count: int) -> dict[str, dict[str, float]]:
    """The clients side by side against one target."""
    (target,) = free_ports(1)
    with process("--target", target):
        return uvloop.run(client_costs(target, count))


def report(found: dict[str, Any]) -> str:
    """The figures as a table."""
    names = ("direct", "gateway", "shadow", "added")
    rows = [(name, f"{name}_ms") for name in names if f"{name}_ms" in found]
    lines = [
        f"{found['rate']:g} requests/s, {found['rounds']} rounds of {found['seconds']:g} s each, "
        "medians of the rounds, ms",
        f"{'':10}" + "".join(f"{f'p{q}':>10}" for q in QUANTILES),
    ]
    for name, key in rows:
        lines.append(f"{name:10}" + "".join(f"{found[key][f'p{q}']:10.3f}" for q in QUANTILES))
    return "\n".join(lines)


def report_clients(found: dict[str, dict[str, float]]) -> str:
    """The clients' figures as a table."""
    columns = [*(f"p{q}" for q in QUANTILES), "cpu"]
    lines = ["one call after the other, ms", f"{'':20}" + "".join(f"{c:>10}" for c in columns)]
    for name, figures in found.items():
        lines.append(f"{name:20}" + "".join(f"{figures[c]:10.3f}" for c in columns))
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.gateway")
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", action="store_true", help="compare HTTP clients instead")
    parser.add_argument("--shadow", action="store_true", help="what copying everything adds")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--target", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--gateway", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--behind", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--mirror", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print, or be one of the servers."""
    given = arguments()
    if given.target:
        serve_target(given.target)
    elif given.gateway:
        serve_gateway(given.gateway, given.behind, given.mirror)
    elif given.clients:
        clients = measure_clients(1000)
        print(json.dumps(clients) if given.json else report_clients(clients))
    else:
        what = measure_shadow if given.shadow else measure
        found = what(given.rate, given.seconds, given.rounds)
        print(json.dumps(found) if given.json else report(found))


if __name__ == "__main__":
    main()
