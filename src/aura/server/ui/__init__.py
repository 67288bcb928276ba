"""The dashboard: pages for people, in the process that serves the API.

    pages.py     which pages there are (`@page`), and what each needs
    visit.py     what a page is given: the app, who looks, `live` values, and `act` for changes
    shell.py     the frame around every page
    parts.py     what pages are made of: cards, tables, badges, empty states, dialogs
    site.py      all of it, as NiceGUI serves it
    front.py     in front of it: login, sessions, headers, who may connect

It is an extra (`aura-workflows[ui]`); without it the API is served alone. Pages hold nothing that
the API has not: each calls the same functions (`aura.server.operations` and its neighbours).
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from aura.errors import MissingExtra

if TYPE_CHECKING:
    from aura.app import Aura
    from aura.gateway import GatewayConfig
    from aura.server.access import Door
    from aura.server.metrics import Metrics
    from aura.server.ui.site import Dashboard

SOCKET = "/_nicegui_ws/"
"""Below this path pages keep their connection."""
INSTALL = "pip install 'aura-workflows[ui]'"


def installed() -> bool:
    """Whether what the dashboard is made of is there."""
    return find_spec("nicegui") is not None


def dashboard(
    app: Aura, door: Door, metrics: Metrics, gateway: GatewayConfig | None = None
) -> Dashboard:
    """The dashboard of an app, as an ASGI application; one per process. Raises MissingExtra."""
    if not installed():
        raise MissingExtra("the dashboard is not installed", hint=f"Install it: {INSTALL}")
    from aura.server.ui.site import Dashboard

    return Dashboard(app, door, metrics, gateway)
