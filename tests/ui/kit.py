"""A served app, a real browser, and what every page has to keep to.

site    `aura serve` as a process of its own, one per module
tab     a page of a browser; at the end of each test it has made no request elsewhere, and no
        script failed or was refused by the page's policy
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect

from tests.tools import tool

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
PATIENCE = 60_000.0
"""Milliseconds that a page may take on a slow machine."""

expect.set_options(timeout=PATIENCE)

Scheme = Literal["light", "dark"]


@dataclass
class Site:
    """A served app: its address, and an HTTP client of its API."""

    url: str
    folder: Path
    log: Path
    process: subprocess.Popen[str]
    api: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.api = httpx.Client(base_url=f"{self.url}/api/v1", timeout=60.0)

    def start(self, workflow: str, id: str, /, **arguments: Any) -> str:
        """Start a run; its id."""
        body = {"workflow": workflow, "input": arguments, "id": id}
        answer = self.api.post("/runs", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def ended(self, id: str) -> dict[str, Any]:
        """The run, once it has ended or is parked."""
        for _ in range(10):
            found = self.api.get(f"/runs/{id}/result", params={"timeout": 30}).json()
            if found["settled"]:
                return dict(found["run"])
        raise AssertionError(f"run {id} does not end: {found}")

    def until(self, path: str, holds: Callable[[Any], bool], **query: str) -> Any:
        """What the API says once that holds."""
        give_up = time.monotonic() + PATIENCE / 1000
        while not holds(found := self.api.get(path, params=query).json()):
            assert time.monotonic() < give_up, found
            time.sleep(0.05)
        return found

    def said(self) -> str:
        """What the server has logged."""
        return self.log.read_text()


@contextmanager
def served(
    folder: Path, target: str, *options: str, environment: dict[str, str] | None = None
) -> Iterator[Site]:
    """`aura serve TARGET`, in a folder of its own, on a free port."""
    log = folder / "serve.log"
    own = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
    with log.open("w") as said:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "aura.cli.main", "serve", target),
                *("--port", "0", "--json", *options),
            ],
            cwd=folder,
            env={**own, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = json.loads(line or "{}")
        assert "url" in ready, f"the server does not start: {line}{log.read_text()}"
        site = Site(ready["url"], folder, log, process)
        try:
            yield site
        finally:
            site.api.close()
    finally:
        process.terminate()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def launched(playwright: Playwright) -> Browser:
    """A real Chromium."""
    as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return playwright.chromium.launch(
        executable_path=tool("chromium"),
        args=[*as_root, "--disable-gpu", "--disable-dev-shm-usage"],
        timeout=PATIENCE,
    )


@dataclass
class Tabs:
    """Tabs of a browser, each with storage of its own; `faults` is what went wrong in them."""

    browser: Browser
    origin: str
    faults: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def open(
        self, path: str = "", *, scheme: Scheme = "light", width: int = 1280, height: int = 800
    ) -> Page:
        """A new tab, with a page in it if there is a path."""
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme,
            reduced_motion="reduce", base_url=self.origin,
        )  # fmt: skip
        context.set_default_timeout(PATIENCE)
        self.contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        tab.on("console", self._heard)
        tab.on("request", self._asked)
        if path:
            show(tab, path)
        return tab

    def close(self) -> None:
        for context in self.contexts:
            context.close()

    def _heard(self, message: Any) -> None:
        refused = "Content Security Policy" in message.text
        if refused or (message.type == "error" and "Failed to load resource" not in message.text):
            self.faults.append(f"console: {message.text}")

    def _asked(self, request: Any) -> None:
        asked = urlsplit(request.url)
        if asked.scheme in ("data", "blob", "about"):
            return
        if asked.netloc != urlsplit(self.origin).netloc:
            self.faults.append(f"asked elsewhere: {request.url}")


def show(tab: Page, path: str) -> None:
    """Open a page and wait until it is connected."""
    tab.goto(path)
    connected(tab)


def connected(tab: Page) -> None:
    """Wait until the page has its connection."""
    tab.wait_for_function("window.did_handshake === true")


def pictured() -> bool:
    """Whether pictures are wanted."""
    return bool(os.environ.get("AURA_SCREENSHOTS"))


def picture(tab: Page, name: str, *, whole: bool = False) -> None:
    """A picture for the documentation, when pictures are wanted (make screenshots)."""
    if pictured():
        tab.mouse.move(0, 0)
        tab.evaluate("scrollTo(0, 0)")
        tab.screenshot(path=IMAGES / f"{name}.png", full_page=whole)


def fits(tab: Page) -> bool:
    """Whether nothing is wider than the window."""
    return bool(tab.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def texts(tab: Page, selector: str) -> list[str]:
    """The texts of all such elements, without line breaks."""
    return [re.sub(r"\s+", " ", one).strip() for one in tab.locator(selector).all_inner_texts()]
