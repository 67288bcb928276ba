"""The main job, told with real processes: start, replace, crash, two bad releases.

legacy ◀── gateway ◀── clients          legacy      examples.research.legacy
              │ runs                    gateway     aura serve ... --no-worker
              ▼                         worker-a/b  aura worker ...
           database ◀── worker-a        this        traffic, rollouts, and the one with
                    ◀── worker-b                    the SIGKILL
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

from aura.app import Aura, Config
from aura.cli.demo import crash
from aura.cli.demo.checkout import Workspace
from aura.cli.demo.figures import Release
from aura.cli.demo.model import Mood, Process, Scene
from aura.cli.demo.processes import Child, Children, aura_command, free_port
from aura.cli.demo.script import Script
from aura.cli.demo.traffic import Traffic
from aura.clock import Clock
from aura.delivery.plan import Plan
from aura.delivery.status import Event, RolloutStatus
from aura.errors import AuraError, DemoFailed

LEASE = "2"
"""Seconds that a worker's runs are its own without a sign of life: short, so that the demo is."""

WITNESS = "aura.cli.demo.witness"
APP = f"{WITNESS}:app"
"""The example's app; its name is all that is needed here."""

STEPS = "AURA_DEMO_STEPS"
READY_WITHIN = 40.0
_MOODS: dict[str, Mood] = {"rollback": "bad", "hold": "bad", "complete": "good"}


@dataclass(slots=True)
class Recorded:
    """What the story leaves behind."""

    main: Release | None = None
    canaries: list[Release] = field(default_factory=list)
    kill: crash.Kill | None = None
    takeover: float | None = None
    errors: list[str] = field(default_factory=list)


class Demo:
    """The company of processes and the order of events. `play`, look at `recorded`, `close`."""

    def __init__(self, workspace: Workspace, script: Script, scene: Scene, clock: Clock) -> None:
        from examples.research.corpus import sample_queries

        self.workspace = workspace
        self.script = script
        self.scene = scene
        self.recorded = Recorded()
        self.app = Aura("demo", config=Config(database=workspace.database))
        self.legacy_url = f"http://127.0.0.1:{free_port()}"
        self.url = f"http://127.0.0.1:{free_port()}"
        self.traffic = Traffic(f"{self.url}/research", sample_queries(), clock, scene)
        self._clock = clock
        env = {"AURA_DATABASE_URL": workspace.database, "PYTHONPATH": str(workspace.root)}
        env["AURA_EXAMPLE_LEDGER"] = str(workspace.ledger)
        env[STEPS] = str(workspace.steps)
        self.children = Children(workspace.root, workspace.logs, env, clock)
        self._workers: dict[str, Child] = {}
        self._sending: asyncio.Task[None] | None = None
        self._told: set[tuple[str, float, str]] = set()
        self._open = False

    # -- the order of events ---------------------------------------------------------------

    async def play(self) -> None:
        """Everything, to the end; what keeps it from going on is recorded, not raised."""
        try:
            await self._begin()
            await self._replace_legacy()
            for plan in self.script.canaries:
                await self._calm(f"all on 2.0.0; next: {plan.name}")
                self._note(f"{plan.candidate} is shipped as a canary", "info")
                release = await self._roll_out(plan)
                self.recorded.canaries.append(release)
            await self._calm("all on 2.0.0 again")
        except AuraError as error:
            self.recorded.errors.append(str(error))
            self._note(str(error), "bad")
        finally:
            await self._stop_sending()

    async def close(self) -> None:
        """End all that is still running."""
        try:
            await self._stop_sending()
            await self.traffic.close()
            if self._open:
                self._open = False
                await self.app.close()
            await self.children.close()
        finally:
            self.children.kill()

    async def _begin(self) -> None:
        """Start the processes, wait until each is ready, and let the clients come."""
        self._phase("starting the legacy service, the gateway and two workers")
        port = self.legacy_url.rpartition(":")[2]
        self.workspace.write_config(int(port))
        legacy = [sys.executable, "-m", "examples.research.legacy", "--port", port]
        self._show("legacy", self.children.start("legacy", legacy))
        for name in ("worker-a", "worker-b"):
            self._start_worker(name)
        serve = [*aura_command(), "serve", APP, "--gateway", str(self.workspace.config)]
        serve += ["--port", self.url.rpartition(":")[2], "--no-worker"]
        self._show("gateway", self.children.start("gateway", serve))
        await self.app.open(worker=False)
        self._open = True
        await asyncio.gather(
            self._ready("legacy", lambda: self._answers(f"{self.legacy_url}/healthz")),
            self._ready("gateway", lambda: self._answers(f"{self.url}/readyz")),
            *(self._ready(name, self._works(name)) for name in self._workers),
        )
        self._note("all processes are ready; clients send requests to the gateway", "good")
        self.scene.rate = self.script.rate
        self._sending = asyncio.create_task(self.traffic.run())
        await self._calm("all on the legacy service")

    async def _replace_legacy(self) -> None:
        """The rollout of 2.0.0, in whose middle a worker is killed."""
        attack = asyncio.create_task(self._crash())
        try:
            self.recorded.main = await self._roll_out(self.script.main)
            await attack
        finally:
            attack.cancel()
            with contextlib.suppress(asyncio.CancelledError, AuraError):
                await attack
        if self.recorded.main.status.state != "completed":
            raise DemoFailed(
                f"2.0.0 was not rolled out: {self.recorded.main.status.reason}",
                hint="Is the machine busy with something else? Look at demo/report.html",
            )

    async def _crash(self) -> None:
        """Kill a worker in the middle of the stage, and start another when its runs are taken."""
        while not self._is_middle(self.scene.status):
            await self._clock.sleep(0.05)
        found = await crash.strike(
            self.app, list(self._workers.values()), self.traffic, self._clock
        )
        self.recorded.kill = found
        name = next(name for name, child in self._workers.items() if child.pid == found.pid)
        self.scene.processes[name].state = "killed"
        del self._workers[name]
        also = sum(run.workflow != "research" for run in found.runs)
        self._note(
            f"{name} killed with SIGKILL, {len(found.runs)} runs under way"
            + (", one of them the rollout itself" if also else ""),
            "crash",
        )
        seconds = await crash.taken_over(self.app, found, self._clock)
        self.recorded.takeover = seconds
        other = ", ".join(self._workers)
        self._note(f"{other} has taken its runs over, {seconds:.1f} s after the kill", "good")
        self._start_worker("worker-c")
        await self._ready("worker-c", self._works("worker-c"))

    def _is_middle(self, status: RolloutStatus | None) -> bool:
        """Whether the stage in which the worker is killed is under way."""
        if status is None or status.stage != self.script.crash_stage:
            return False
        stage = self.script.main.stages[status.stage_index]
        return status.stages[status.stage_index].candidate.requests >= stage.min_requests / 3

    async def _roll_out(self, plan: Plan) -> Release:
        """Start a rollout and follow it to its end. Raises DemoFailed when it does not end."""
        self._phase(f"rollout {plan.name}: {plan.baseline} → {plan.candidate}")
        status = await self.app.rollouts.start(plan)
        give_up = self._clock.monotonic() + self.script.limit
        while not (status.ended and status.history[-1].done):
            self.scene.status = status
            self._tell(status)
            self.children.check()
            if status.state == "held" or self._clock.monotonic() > give_up:
                raise DemoFailed(
                    f"rollout {plan.name} does not end: {status.state} in stage {status.stage}, "
                    f"{status.reason}",
                    hint="Is the machine busy with something else? Run the demo again",
                )
            await self._clock.sleep(0.1)
            status = await self.app.rollouts.status(plan.name)
        self.scene.status = status
        self._tell(status)
        return Release(plan, status)

    # -- the parts ---------------------------------------------------------------------------

    def _start_worker(self, name: str) -> None:
        argv = [*aura_command(), "worker", APP]
        self._workers[name] = self.children.start(name, argv, {"AURA_LEASE": LEASE})
        self._show(name, self._workers[name])

    async def _ready(self, name: str, test: Callable[[], Awaitable[bool]]) -> None:
        give_up = self._clock.monotonic() + READY_WITHIN
        while not await test():
            self.children.check()
            if self._clock.monotonic() > give_up:
                raise DemoFailed(
                    f"{name} was not ready in {READY_WITHIN:g} s",
                    hint=f"Look at {self.workspace.logs / name}.log",
                )
            await self._clock.sleep(0.05)
        self.scene.processes[name].state = "ready"

    async def _answers(self, url: str) -> bool:
        patience = aiohttp.ClientTimeout(2.0)
        try:
            async with aiohttp.ClientSession(timeout=patience) as client, client.get(url) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _works(self, name: str) -> Callable[[], Awaitable[bool]]:
        async def known() -> bool:
            pids = [json.loads(one.info).get("pid") for one in await self.app.store.workers()]
            return self._workers[name].pid in pids

        return known

    async def _calm(self, phase: str) -> None:
        """Only traffic, for a moment."""
        self._phase(phase)
        await self._clock.sleep(self.script.calm)
        self.children.check()

    async def _stop_sending(self) -> None:
        if self._sending is not None:
            self._phase("waiting for the last answers")
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
            self._sending = None
            await self.traffic.drain()

    # -- what is said --------------------------------------------------------------------------

    def _phase(self, text: str) -> None:
        self.scene.phase = text

    def _note(self, text: str, mood: Mood = "info") -> None:
        self.scene.note(self._clock.now(), text, mood)

    def _show(self, name: str, child: Child) -> None:
        self.scene.processes[name] = Process(name, child.pid)

    def _tell(self, status: RolloutStatus) -> None:
        """Say what is new in a rollout's history."""
        for event in status.history:
            mark = (status.name, event.at, event.what)
            if mark not in self._told:
                self._told.add(mark)
                self.scene.note(event.done or event.at, sentence(status, event), mood_of(event))


def mood_of(event: Event) -> Mood:
    """How good the news are."""
    return _MOODS.get(event.what, "info")


def sentence(status: RolloutStatus, event: Event) -> str:
    """An event of a rollout in words."""
    if event.what == "start":
        return f"{status.name}: begins, {event.reason}"
    if event.what == "rollback" and event.since:
        took = (event.done - event.since) * 1000
        return f"{status.name}: guard tripped, traffic back {took:.0f} ms later: {event.reason}"
    if event.what in ("advance", "complete"):
        return f"{status.name}: {event.reason}"
    return f"{status.name}: {event.what}: {event.reason}"
