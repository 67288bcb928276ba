"""All pages together, as NiceGUI serves them. It keeps its pages per process, so there is one."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from nicegui import app as pages_app
from nicegui import context, ui
from starlette.types import Receive, Scope, Send

from aura.app import Aura
from aura.errors import AuraError
from aura.gateway import GatewayConfig
from aura.gateway.problems import Problem
from aura.server.access import Caller, Door, Needs, admit
from aura.server.metrics import Metrics
from aura.server.problems import Refused, problem_of
from aura.server.trends import Trends
from aura.server.ui import shell
from aura.server.ui.front import Front, Opened
from aura.server.ui.pages import MODULES, PAGES, Page
from aura.server.ui.parts import problem
from aura.server.ui.raw import serve_raw
from aura.server.ui.visit import Looks, Visit

log = logging.getLogger("aura.server")

STATIC = Path(__file__).parent / "static"
PATIENCE = 30.0
"""Seconds that a page may take until it is given up."""

LONGEST_NAME = 100
"""Characters of a name in the title of a page."""

WATCH = 1.0
"""Seconds between two looks at whether a page's session is still good."""

HEAD = (
    '<link rel="stylesheet" href="/_aura/aura.css">'
    '<link rel="stylesheet" href="/_aura/delivery.css">'
    '<script src="/_aura/shell.js"></script>'
)


class Dashboard:
    """The pages as an ASGI application; open it before it is called, once per process."""

    def __init__(
        self, app: Aura, door: Door, metrics: Metrics, gateway: GatewayConfig | None = None
    ) -> None:
        self._app = app
        self._gateway = gateway
        self._trends = Trends(app, metrics)
        self._looks = Looks(app.clock.monotonic)
        self._host = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        self._front = Front(self._host, door)
        self._ends = AsyncExitStack()
        for name in MODULES:
            import_module(name)
        for one in PAGES.values():
            self._serve(one)
        serve_raw(app)
        pages_app.add_static_files("/_aura", STATIC, max_cache_age=0)
        pages_app.config.socket_io_js_transports = ["websocket"]
        ui.add_head_html(HEAD, shared=True)
        ui.run_with(
            self._host, root=self._missing, title="Aura", dark=None, tailwind=False,
            favicon=STATIC / "favicon.svg", show_welcome_message=False, language="en-US",
            message_history_length=100, gzip_middleware_factory=None,
        )  # fmt: skip

    async def open(self) -> None:
        """Begin to serve."""
        await self._ends.enter_async_context(self._host.router.lifespan_context(self._host))
        self._trends.open()
        self._ends.push_async_callback(self._trends.close)

    async def close(self) -> None:
        """Stop serving."""
        await self._ends.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._front(scope, receive, send)

    def _serve(self, one: Page) -> None:
        @ui.page(one.path, title=f"{one.title} · Aura", response_timeout=PATIENCE)
        async def show(request: Request) -> None:
            await self._show(one, request, request.path_params)

    async def _missing(self, request: Request) -> None:
        await self._show(_NOWHERE, request, {})

    async def _show(self, one: Page, request: Request, given: dict[str, Any]) -> None:
        caller: Caller = request.scope["aura.caller"]
        session: Opened = request.scope["aura.session"]
        with shell.frame(one, caller, self._app.name, logged_in=bool(session.key)) as said:
            visit = Visit(
                self._app, self._trends, self._gateway, caller, request, session, self._looks, said
            )  # fmt: skip
            ui.timer(WATCH, visit.watch, immediate=False)
            try:
                await admit(self._app, caller, one.needs, "this page", given.get("run_id"))
                await one.build(visit, **given)
                if given:
                    ui.page_title(title_of(one, given))
            except (AuraError, Refused) as error:
                context.client.status_code = problem_of(error).status
                problem(error)
            except Exception as error:
                log.exception("the page %s failed", request.url.path[:200])
                context.client.status_code = 500
                problem(error)


def title_of(one: Page, given: dict[str, Any]) -> str:
    """What the tab says: of a page about one thing its name first, so tabs can be told apart."""
    named = " · ".join(str(value)[:LONGEST_NAME] for value in given.values())
    return f"{named} · {one.title} · Aura"


async def _nothing(visit: Visit) -> None:
    path = visit.request.url.path[:200]
    raise Refused(Problem(404, "not-found", f"there is no page at {path}"))


_NOWHERE = Page("", "Not found", Needs("viewer", "body"), "", _nothing)
