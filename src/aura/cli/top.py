"""`aura top`: the whole at a glance, live."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import console, print_json, show
from aura.cli.top_picture import picture
from aura.client import Client
from aura.clock import Clock, SystemClock
from aura.errors import AccessDenied, InvalidInput
from aura.server.glance import Glance, Source, glance, of_app

QUIT = frozenset({b"q", b"Q", b"\x1b", b"\x03", b"\x04"})
"""Keys that end it: q, Escape, Ctrl-C, Ctrl-D."""


def top(
    url: Annotated[
        str | None,
        typer.Option(
            "--url", envvar="AURA_URL", help="Ask a server, not the database.", show_default=False
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", envvar="AURA_TOKEN", show_default=False,
            help="The server's token; better in AURA_TOKEN than on the command line.",
        ),
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between looks.")] = 1.0,
    database: Database = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Watch the whole live: runs, throughput, latency, queues, workers, rollouts.

    q ends it. In a pipe it is shown once, and with --json it is one object.

    \b
    Examples:
      aura top
      aura top --url http://127.0.0.1:8080 --every 2
      aura top --json
    """
    if url is not None and database is not None:
        raise InvalidInput("a server and a database are given", hint="Give --url or --database")
    live = not as_json and sys.stdout.isatty()
    process.run(_top(_source(url, token, database), every, live, as_json))


async def _top(
    opened_source: contextlib.AbstractAsyncContextManager[tuple[Source, Clock]],
    every: float,
    live: bool,
    as_json: bool,
) -> None:
    async with opened_source as (source, clock):
        try:
            seen = await glance(source, clock.now())
        except AccessDenied as error:
            if error.code != "token-missing":
                raise
            hint = "Set AURA_TOKEN to one that `aura token create` has printed"
            raise AccessDenied("the server wants a token", code=error.code, hint=hint) from error
        if as_json:
            print_json(seen)
        elif not live:
            show(picture(seen))
        else:
            await _follow(source, clock, every, seen)


async def _follow(source: Source, clock: Clock, every: float, seen: Glance) -> None:
    with (
        process.stoppable() as stop,
        _keys(lambda: stop.hear(0)),
        Live(console=console(), screen=True, auto_refresh=False) as screen,
    ):
        while not stop.is_set():
            hint = Text("q or Ctrl-C ends it", "dim")
            screen.update(Group(picture(seen), Text(), hint), refresh=True)
            await process.until(stop, clock, every)
            if not stop.is_set():
                seen = await glance(source, clock.now(), seen)


@asynccontextmanager
async def _source(
    url: str | None, token: str | None, database: str | None
) -> AsyncIterator[tuple[Source, Clock]]:
    """Where to look, and the clock to look by. Raises AuraError."""
    if url is None:
        async with opened(bare_app(database)) as app:
            yield of_app(app), app.time
        return
    async with Client(url, token=token, patience=5.0) as client:
        yield client, SystemClock()


@contextlib.contextmanager
def _keys(quit_: Callable[[], None]) -> Iterator[None]:
    """Call it when a key is pressed that ends the program; keys are not shown meanwhile."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import os
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    loop = asyncio.get_running_loop()

    def read() -> None:
        if QUIT & {bytes((one,)) for one in os.read(terminal, 64)}:
            quit_()

    tty.setcbreak(terminal)
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
