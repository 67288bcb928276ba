"""Who comes in: without tokens this machine, with tokens who has one; and what pages may do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.ui.kit import ROOT, Site, connected, picture, served

TARGET = "tests.ui.program:app"


def token(site: Site, name: str, role: str, *options: str) -> str:
    """A new token's text."""
    said = command(site, "token", "create", "--name", name, "--role", role, *options)
    return str(json.loads(said)["token"])


def command(site: Site, *arguments: str) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
    return subprocess.run(
        [sys.executable, "-m", "aura.cli.main", *arguments, "--json"],
        cwd=site.folder, env={**own, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True,
        text=True, timeout=120,
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With a token, so that nobody comes in without one."""
    folder: Path = tmp_path_factory.mktemp("site")
    with served(folder, TARGET) as found:
        found.admin = token(found, "ann", "admin")  # type: ignore[attr-defined]
        yield found


def log_in(tab: Page, text: str, path: str = "/") -> None:
    tab.goto(path)
    tab.get_by_label("Token").fill(text)
    tab.get_by_role("button", name="Log in").click()


def test_who_has_no_token_sees_the_login_page_and_nothing_else(site: Site, tab: Page) -> None:
    tab.goto("/runs?state=failed")
    expect(tab.get_by_role("heading", name="Log in")).to_be_visible()
    assert tab.url.endswith("/login?next=%2Fruns%3Fstate%3Dfailed")
    picture(tab, "login")
    with httpx.Client(base_url=site.url) as client:
        for path in ("/runs", "/_nicegui_ws/socket.io/?client_id=x", "/_nicegui/x/static/y.js"):
            assert client.get(path).status_code in (401, 426), path


def test_a_token_opens_a_session_and_its_revocation_ends_it(site: Site, tab: Page) -> None:
    text = token(site, "bob", "operator")
    log_in(tab, text, "/?from=a-link")
    connected(tab)
    expect(tab.get_by_role("heading", name="Overview")).to_be_visible()
    assert tab.url.endswith("/?from=a-link")
    kept = [one for one in tab.context.cookies() if one["name"] == "aura_session"]
    assert [(one["httpOnly"], one["sameSite"]) for one in kept] == [(True, "Strict")]
    assert text not in str(kept)
    command(site, "token", "revoke", "bob", "--reason", "he has left")
    expect(tab.get_by_role("heading", name="Log in")).to_be_visible()
