"""What `aura demo` does, from the checkout to the exit code."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aura.cli.demo.checkout import Workspace, find_checkout, locked, prepare
from aura.cli.demo.figures import Story, passed, promises, report
from aura.cli.demo.gather import gather
from aura.cli.demo.live import Screen, summary
from aura.cli.demo.model import Scene
from aura.cli.demo.page import page
from aura.cli.demo.script import script_of
from aura.cli.demo.story import Demo
from aura.cli.output import print_json
from aura.cli.process import Stop, run, stoppable
from aura.clock import SystemClock


@dataclass(frozen=True, slots=True)
class Options:
    """`keep` leaves everything running, `quick` is the shortened form, `as_json` prints the report
    on stdout and everything else on stderr; `folder` takes the files."""

    keep: bool = False
    quick: bool = False
    as_json: bool = False
    folder: Path | None = None


def run_demo(options: Options) -> int:
    """Run it; 0 when every promise was kept, 1 when not, 128 + n when stopped by signal n."""
    root = find_checkout(Path.cwd())
    with locked((options.folder or root / "demo").resolve()):
        return run(_perform(options, prepare(root, options.folder)))


async def _perform(options: Options, workspace: Workspace) -> int:
    clock = SystemClock()
    scene = Scene(began=clock.now())
    screen = Screen(scene, clock, sys.stderr if options.as_json else None)
    drawing = asyncio.create_task(screen.run())
    await asyncio.sleep(0)  # the first picture comes before anything that takes time
    script = script_of(workspace.plans(), quick=options.quick)
    demo = Demo(workspace, script, scene, clock)
    try:
        with stoppable() as stop:
            story = await _unless_stopped(_play(demo, scene, clock), stop)
            await _end(drawing, screen)
            if story is None:
                return 128 + stop.signal
            _tell(options, workspace, screen, story)
            if options.keep:
                screen.console.print(pages(demo), soft_wrap=True)
                await stop.wait()
            return 0 if passed(story) else 1
    finally:
        await _end(drawing, screen)
        await demo.close()


async def _play(demo: Demo, scene: Scene, clock: SystemClock) -> Story:
    await demo.play()
    scene.phase = "reading what was recorded"
    story = await gather(demo, scene, clock)
    scene.phase = "done"
    return story


async def _unless_stopped(work: Any, stop: Stop) -> Any:
    """The work's result, or None when the user stopped it before."""
    doing = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        stopping.cancel()
        doing.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)


async def _end(drawing: asyncio.Task[None], screen: Screen) -> None:
    """Stop drawing; harmless the second time."""
    if not drawing.done():
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        screen.close()


def _tell(options: Options, workspace: Workspace, screen: Screen, story: Story) -> None:
    """Write both reports and the summary."""
    found = report(story)
    text = json.dumps(found, indent=2, ensure_ascii=False)
    (workspace.folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (workspace.folder / "report.html").write_text(page(story), encoding="utf-8")
    screen.console.print(summary(promises(story), numbers(found)))
    screen.console.print(f"\nReport: {workspace.folder / 'report.html'}", soft_wrap=True)
    if options.as_json:
        print_json(found)


def numbers(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The report's figures as lines of (name, value)."""
    latency = found["latency"]
    yield "requests", f"{found['requests']} of {found['users']} users in {found['seconds']} s"
    yield (
        "p50 / p95",
        (
            f"legacy {_ms(latency['legacy_p50_ms'])} / {_ms(latency['legacy_p95_ms'])}, "
            f"2.0.0 {_ms(latency['new_p50_ms'])} / {_ms(latency['new_p95_ms'])}"
        ),
    )
    crash = found["crash"]
    if crash["takeover_ms"] is not None:
        yield (
            "crash",
            (
                f"{crash['killed_runs']} runs of the killed worker, taken over after "
                f"{crash['takeover_ms'] / 1000:.1f} s"
            ),
        )
    for one in found["rollbacks"]:
        yield f"release {one['version']}", _on_the_air(one)


def _on_the_air(one: dict[str, Any]) -> str:
    """What a bad release did to its users."""
    return (
        f"{one['requests_on_bad_arm']} requests of {one['users_on_bad_arm']} users; failed there: "
        f"{one['failed_on_bad_arm']}, answered by 2.0.0 instead: {one['fallbacks']}, users who saw "
        f"an error: {one['users_with_errors']}"
    )


def pages(demo: Demo) -> str:
    """What can be looked at while it is kept running, and how to stop it."""
    body = json.dumps({"query": "the lambda expression"})
    return "\n".join(
        (
            "",
            "Everything is still running:",
            f"  report    {(demo.workspace.folder / 'report.html').as_uri()}",
            f"  gateway   curl -i -H 'content-type: application/json' -H 'x-user-id: me' "
            f"-d '{body}' {demo.url}/research",
            f"  API       {demo.url}/api/v1/status",
            f"  logs      {demo.workspace.logs}",
            "Stop it with Ctrl-C.",
        )
    )


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"
