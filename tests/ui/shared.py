"""One tab for all tests of a module: what pages are made of is loaded once and not in each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page

from tests.ui.kit import Site, Tabs, connected, show


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
