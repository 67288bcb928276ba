"""The engine in many seeded worlds: AURA_SIMULATION_SEEDS of them, 20,000 if it says nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.crowd import play_many, replay_command
from tests.simulation.world import World

ROOT = Path(__file__).resolve().parents[2]
SEEDS = int(os.environ.get("AURA_SIMULATION_SEEDS", "20000"))


@pytest.mark.timeout(120 + SEEDS // 10)
def test_nothing_is_wrong_in_any_world() -> None:
    failures = play_many(range(SEEDS))
    said = [
        f"{complaints[0]}\n    replay it with: {replay_command(seed)}"
        for seed, complaints in sorted(failures.items())
    ]
    assert not failures, "\n".join(said)


def _digest_elsewhere(seed: int, hash_seed: int) -> str:
    done = subprocess.run(
        [sys.executable, *replay_command(seed).split()[1:], "--digest"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return done.stdout.strip()


def test_a_seed_replays_exactly_here_and_in_other_processes() -> None:
    seeds = range(40)
    first = [_played(seed) for seed in seeds]
    second = [_played(seed) for seed in reversed(seeds)]
    assert first == second[::-1]
    for seed in (3, 17):
        for hash_seed in (1, 4711):
            assert _digest_elsewhere(seed, hash_seed) == first[seed][0]
    assert len({digest for digest, _ in first}) == len(seeds)


def _played(seed: int) -> tuple[str, list[str]]:
    world = World(seed)
    complaints = world.play()
    assert not complaints
    return world.digest(), world.trace


def test_the_worlds_have_all_the_trouble_that_they_should() -> None:
    """Otherwise twenty thousand of them would prove little."""
    worlds = [World(seed) for seed in range(150)]
    for world in worlds:
        assert not world.play()
    trace = "\n".join(line for world in worlds for line in world.trace)
    for what in (
        "meets busy", "meets full", "meets conflict", "meets cut", "meets ack-lost",
        "meets dies-before-commit", "meets dies-after-commit", "dies", "stops", "stands still",
        "a clock jumps", "signal of", "cancel of", "result of", "RunCancelled of", "refused",
        "repeated", "update of", "turns of", "updates of", "handles event", "sweeps",
    ):  # fmt: skip
        assert what in trace, what
    errands = [(world, errand) for world in worlds for errand in world.errands]
    assert sum(errand.key is not None for _, errand in errands) > 20, "hardly any queue"
    anew = [len(world.history.bases(errand.id)) - 1 for world, errand in errands]
    assert sum(anew) > 20, "hardly any run began anew"
    ticks = [one for world in worlds for one in world.history.lines if one.run[:6] == "pulse@"]
    assert len(ticks) > 20, "hardly any schedule"
    epochs = [line.epoch for world in worlds for line in world.history.lines]
    assert sum(epoch > 1 for epoch in epochs) > 150, "hardly any run was taken over"
    acts = {str(act[0]) for world in worlds for errand in world.errands for act in errand.plan}
    assert len(acts) > 10
