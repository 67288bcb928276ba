"""What goes wrong in a world, arranged from its seed before it begins."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.disk import Fault

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

END = 2.5  # seconds for which there is trouble

_STORE_FAULTS: tuple[Fault, ...] = ("busy", "full", "conflict", "cut", "ack-lost")


def arrange(world: World, random: Random) -> None:
    """Most kinds of trouble are absent from most worlds, so that what is there gets its chance."""
    weather = world.weather
    weather.latency = random.choice((0.0002, 0.001, 0.001, 0.01))
    weather.slow = random.choice((0.0, 0.0, 0.05))
    weather.in_order = random.random() < 0.7
    weather.at_once = random.random() < 0.5
    weather.deaf = random.choice((0.0, 0.0, 0.3))
    for fault in _STORE_FAULTS:
        if random.random() < 0.3:
            weather.chances[fault] = random.choice((0.01, 0.05, 0.2))
    workers = [one for one in world.processes if one.worker]
    for kind in (_deaths, _kills, _stops, _pauses, _outages, _wrong_clocks):
        if random.random() < 0.4:
            kind(world, random, workers)
    world.universe.at(END, lambda: _peace(world))


def _peace(world: World) -> None:
    world.log("peace")
    world.weather.calm = True
    for process in world.processes:
        process.loop.awake = not process.loop.dead


def _deaths(_: World, random: Random, workers: list[Process]) -> None:
    """Deaths at the boundary of a commit or claim."""
    for worker in workers:
        worker.restart_after = random.choice((0.01, 0.3, 2.0))
        for _number in range(random.randint(0, 3)):
            kind: Fault = random.choice(("dies-before-commit", "dies-after-commit"))
            worker.fate.append((random.choice((2, 5, 10, 20, 40)) + random.randint(0, 9), kind))


def _any_time(random: Random) -> float:
    return random.uniform(0.0, END)


def _each(
    world: World, random: Random, workers: list[Process], do: Callable[[Process], None]
) -> None:
    for _ in range(random.randint(1, 4)):
        chosen = random.choice(workers)
        world.universe.at(_any_time(random), lambda chosen=chosen: do(chosen))  # type: ignore[misc]


def _kills(world: World, random: Random, workers: list[Process]) -> None:
    """Deaths at any time."""
    _each(world, random, workers, lambda worker: worker.kill())


def _stops(world: World, random: Random, workers: list[Process]) -> None:
    """Processes that are stopped properly, as for an update."""
    _each(world, random, workers, lambda worker: worker.stop())


def _pauses(world: World, random: Random, workers: list[Process]) -> None:
    """Processes that stand still for longer than their lease."""

    def pause(worker: Process) -> None:
        loop = worker.loop
        if loop.dead:
            return
        world.log(f"{worker.name} stands still")
        loop.awake = False
        world.universe.at(world.universe.now + random.uniform(0.1, 3.0), wake(loop))

    def wake(loop: object) -> Callable[[], None]:
        def again() -> None:
            for worker in workers:
                if worker.loop is loop and not worker.loop.dead:
                    worker.loop.awake = True

        return again

    _each(world, random, workers, pause)


def _outages(world: World, random: Random, workers: list[Process]) -> None:
    """The database is away for some time, for one process or all."""
    for _ in range(random.randint(1, 2)):
        began = _any_time(random)
        who = random.choice(["", *(worker.name for worker in workers)])
        world.outages.append((began, began + random.choice((0.05, 0.5, 2.0)), who))


def _wrong_clocks(world: World, random: Random, workers: list[Process]) -> None:
    """Clocks of processes and of the database that jump."""
    clocks = [world.clock, *(worker.clock for worker in workers)]
    for _ in range(random.randint(1, 3)):
        clock, by = random.choice(clocks), random.choice((-3.0, -0.5, 0.5, 3.0))

        def jump(clock: object = clock, by: float = by) -> None:
            for one in clocks:
                if one is clock:
                    one.offset += by
                    one.jumped = True
                    world.log(f"a clock jumps by {by:g} s")

        world.universe.at(_any_time(random), jump)
