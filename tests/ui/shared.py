"""One tab for all tests of a module: what pages are made of is loaded once and not in each test.
And tokens."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from playwright.sync_api import Browser, Page

from aura import Aura, Config
from aura.server import tokens
from tests.ui.kit import Site, Tabs, connected, show

KEY = f"k1:{base64.b64encode(b'key-' * 8).decode()}"


def token(site: Site, name: str, role: tokens.Role, *workflows: str) -> str:
    """A new token's text, made as whoever reaches the database makes it. In a thread of its own:
    the browser has the event loop of this one."""

    async def make() -> str:
        config = Config(database=str(site.folder / "aura.db"), encryption_keys=(KEY,))
        app = Aura("shop", config=config)
        await app.open(worker=False)
        try:
            return (await tokens.create(app, name, role, workflows=workflows))[1]
        finally:
            await app.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, make()).result(60)


class Shared:
    """Tabs by name: "" is the one of whoever needs no token, another name that of a role."""

    def __init__(self, browser: Browser, site: Site) -> None:
        self.site = site
        self.tabs = Tabs(browser, site.url)
        self._known: dict[str, Page] = {}

    def tab(self, role: str = "", path: str = "") -> Page:
        """The tab of a role, logged in, with that page in it."""
        if role not in self._known:
            self._known[role] = tab = self.tabs.open()
            if role:
                tab.goto(path or "/")
                tab.get_by_label("Token").fill(getattr(self.site, role))
                tab.get_by_role("button", name="Log in").click()
                connected(tab)
                return tab
        tab = self._known[role]
        tab.set_viewport_size({"width": 1280, "height": 800})
        if path:
            show(tab, path)
        return tab

    @contextmanager
    def watched(self) -> Iterator[Shared]:
        """No script fails meanwhile, and nothing is asked of others."""
        yield self
        faults = list(self.tabs.faults)
        self.tabs.faults.clear()
        assert faults == []
