"""The peers' figures beside our own: runs their scripts in their environment."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.install import install

PEERS_OF_STORE = {
    "sqlite": ("langgraph", "dbos"),
    "postgres": ("absurd", "langgraph", "dbos"),
}
SCENARIOS = ("workflows-1", "workflows-100", "sequential-1000", "fanout-1000")
_PEERS = Path(__file__).parent / "peers"
_TIMEOUT = 90.0  # seconds for one script, its start included


def run_peers(
    store: str, database: str, scenarios: Sequence[str] = SCENARIOS, repeats: int = 1
) -> list[dict[str, Any]]:
    """Measure every peer that has this store, one after the other.

    `store` is "sqlite" or "postgres", `database` the path of a SQLite file (its folder is used) or
    a PostgreSQL URL (each script makes a database of its own there). A scenario is `workflows-N`
    (10-step no-op workflows, N at a time), `sequential-N` or `fanout-N`. One dict for each peer and
    scenario, of the repeat with the median rate: {peer, version, store, scenario, concurrency,
    steps, steps_per_second, seconds, p50_ms, p95_ms}; p50 and p95 are None for a fan-out. What
    failed in every repeat is {peer, store, scenario, error}.
    """
    return [
        _median([_run(peer, store, database, scenario) for _ in range(repeats)])
        for peer in PEERS_OF_STORE[store]
        for scenario in scenarios
    ]


def _run(peer: str, store: str, database: str, scenario: str) -> dict[str, Any]:
    failed = {"peer": peer, "store": store, "scenario": scenario}
    return run_script(f"peer_{peer}.py", ("--database", database, "--scenario", scenario), failed)


def run_script(script: str, arguments: Sequence[str], failed: dict[str, Any]) -> dict[str, Any]:
    """The figures that a peer's script prints, run in the peers' environment.

    `script` is a file of `benchmarks/peers/`. When it fails or takes too long: `failed` and
    "error", which is the end of what it wrote about that.
    """
    command: list[str | Path] = [install(), _PEERS / script, "--json", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except subprocess.TimeoutExpired:
        return {**failed, "error": f"no result after {_TIMEOUT:.0f} s"}
    except subprocess.CalledProcessError as error:
        return {**failed, "error": str(error.stderr).strip()[-2_000:] or str(error)}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _median(repeats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    measured = sorted(
        (figures for figures in repeats if "error" not in figures),
        key=lambda figures: float(figures["steps_per_second"]),
    )
    if not measured:
        return repeats[0]
    middle = statistics.median_low([figures["steps_per_second"] for figures in measured])
    return next(figures for figures in measured if figures["steps_per_second"] == middle)
