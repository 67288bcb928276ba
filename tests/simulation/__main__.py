"""Play seeds: `python -m tests.simulation --seeds 1000000 --from 20000`, or one with its trace:
`python -m tests.simulation --seed 4711`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time

from tests.simulation.crowd import play_many, replay_command
from tests.simulation.world import World


def main() -> int:
    given = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    given.add_argument("--seeds", type=int, default=1_000, help="how many (1000)")
    given.add_argument("--from", dest="first", type=int, default=0, help="the first one (0)")
    given.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given.add_argument("--seed", type=int, help="play this one and show what happened in it")
    given.add_argument("--digest", action="store_true", help="with --seed: only its digest")
    asked = given.parse_args()
    if asked.seed is not None:
        return _one(asked.seed, only_digest=asked.digest)
    began = time.monotonic()
    failures = play_many(range(asked.first, asked.first + asked.seeds), asked.processes)
    for seed, complaints in sorted(failures.items()):
        print(f"seed {seed}: {complaints[0]}")
        print(f"    replay it with: {replay_command(seed)}")
    took = time.monotonic() - began
    print(f"{asked.seeds} seeds in {took:.1f} s: {len(failures)} with complaints")
    return min(len(failures), 1)


def _one(seed: int, *, only_digest: bool) -> int:
    world = World(seed)
    if not only_digest:
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s: %(message)s")
    complaints = world.play()
    if not only_digest:
        print("\n".join(map(str, world.errands)))
        print("\n".join(world.trace))
        print("\n".join(complaints) or "no complaints")
    print(world.digest())
    return min(len(complaints), 1)


if __name__ == "__main__":
    sys.exit(main())
