"""One served app and one browser per module; see kit.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.ui.kit import PATIENCE, Site, Tabs, launched, served
from tests.ui.shared import Shared

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = launched(playwright)
        yield found
        found.close()


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The app that the module names as `TARGET`, served without tokens."""
    folder: Path = tmp_path_factory.mktemp("site")
    with served(folder, getattr(request.module, "TARGET", "tests.ui.program:app")) as found:
        yield found


@pytest.fixture
def tabs(browser: Browser, site: Site) -> Iterator[Tabs]:
    found = Tabs(browser, site.url)
    yield found
    found.close()
    assert found.faults == []


@pytest.fixture
def tab(tabs: Tabs) -> Page:
    """One tab of 1280 by 800, light."""
    return tabs.open()


@pytest.fixture(scope="module")
def everybody(browser: Browser, site: Site) -> Iterator[Shared]:
    """Tabs of one login for each role, kept for the whole module."""
    found = Shared(browser, site)
    yield found
    found.tabs.close()


@pytest.fixture
def shared(everybody: Shared) -> Iterator[Shared]:
    """The same, for one test: nothing may go wrong in them meanwhile."""
    with everybody.watched() as found:
        yield found
