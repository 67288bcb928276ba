"""Which paths stay Aura's own beside a gateway on the same port.

    /api/v1 and below            always; a route inside of it is refused
    /healthz /readyz /metrics    unless a route names exactly that path; `/*` does not take them,
                                 and below /api/v1 they are found in any case
    the dashboard's pages        always: a route that would hide one is refused when the server
                                 starts. Without a dashboard there is nothing to hide

Who wants all paths for a gateway gives it a port of its own (`aura serve --gateway-port`): then
nothing of Aura is on that port, and nothing of the gateway on the other one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from importlib import import_module

from aura.errors import ConfigError
from aura.gateway.config import Route
from aura.gateway.routes import Routes
from aura.server import ui
from aura.server.api import API, HEALTH

log = logging.getLogger("aura.server")

PLAIN = frozenset({*(one for one in HEALTH if not one.startswith(API)), "/metrics"})
"""What load balancers and Prometheus ask for."""


def pages() -> tuple[str, ...]:
    """The paths of the dashboard's pages and of what they are made of, with `{...}` for any
    segment; none where it is not installed."""
    if not ui.installed():
        return ()
    from aura.server.ui.pages import MODULES, PAGES

    for name in MODULES:
        import_module(name)
    more = "/login", "/logout", f"{ui.SOCKET}socket.io/", "/_nicegui/{file}", "/_aura/{file}"
    return (*PAGES, *more)


def is_of_api(path: str) -> bool:
    """Whether the API answers there, if no route does."""
    return path == API or path.startswith(API + "/") or path in PLAIN


def is_routed(routes: Routes, path: str, method: str) -> bool:
    """Whether a path is the gateway's."""
    if path == API or path.startswith(API + "/"):
        return False
    if path in PLAIN and not routes.names(path):
        return False
    return bool(routes.match(path, method))


def check_routes(routes: Iterable[Route], pages: Iterable[str]) -> None:
    """Raises ConfigError for a route inside of the API, and for one that would hide a page of the
    dashboard (their paths, with `{...}` for any segment)."""
    routes = tuple(routes)
    for route in routes:
        bare = route.path.removesuffix("/*")
        if bare == API or bare.startswith(API + "/"):
            raise ConfigError(
                f"the route {route.path} lies inside {API}, where Aura's own API is",
                hint="Serve it under another path",
            )
        if route.path.endswith("/*") and f"{API}/".startswith(f"{bare}/"):
            log.warning("the route %s gets all its paths but those below %s", route.path, API)
    served = Routes(routes)
    for page in pages:
        path = re.sub(r"\{[^}]*\}", "x", page)
        taken = served.match(path, "GET")
        if isinstance(taken, Route):
            shown = page.replace(":segment", "")
            raise ConfigError(
                f"the route {taken.path} would hide the dashboard at {shown}",
                hint="Give the gateway a port of its own (--gateway-port), or this route another "
                "path",
            )
