"""Who comes in: without tokens this machine, with tokens who has one; and what pages may do."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.ui.kit import ROOT, Site, Tabs, connected, picture, served, show

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
        text = token(found, "ann", "admin")
        found.api.headers["authorization"] = f"Bearer {text}"
        yield found


@pytest.fixture(scope="module")
def admin(site: Site) -> str:
    """The text of a token that may do everything."""
    return str(site.api.headers["authorization"]).removeprefix("Bearer ")


def log_in(tab: Page, text: str, path: str = "/") -> None:
    tab.goto(path)
    tab.get_by_label("Token").fill(text)
    tab.get_by_role("button", name="Log in").click()


def come_in(tab: Page, text: str, path: str = "/") -> None:
    """Log in, and wait for the page."""
    log_in(tab, text, path)
    tab.wait_for_url(lambda url: "/login" not in url)
    connected(tab)


def session(site: Site, text: str) -> str:
    """The cookie of a new session."""
    answer = httpx.post(
        f"{site.url}/login", data={"token": text}, headers={"origin": site.url}, timeout=60
    )
    assert answer.status_code == 303, answer.text
    return answer.headers["set-cookie"].partition(";")[0]


def test_who_has_no_token_sees_the_login_page_and_nothing_else(site: Site, tab: Page) -> None:
    tab.goto("/runs?state=failed")
    expect(tab.get_by_role("heading", name="Log in")).to_be_visible()
    assert tab.url.endswith("/login?next=%2Fruns%3Fstate%3Dfailed")
    picture(tab, "login")
    with httpx.Client(base_url=site.url, timeout=60) as client:
        for path in (
            *("/", "/runs", "/runs/x", "/raw/runs/x", "/audit", "/nowhere", "/_nicegui/x/y.js"),
            *("/_nicegui_ws/socket.io/?client_id=x", "/_nicegui/auto/static/x"),
        ):
            answer = client.get(path)
            assert answer.status_code in (401, 426), path
            assert "run" not in answer.text, path


def test_a_token_opens_a_session_and_its_revocation_ends_it(site: Site, tab: Page) -> None:
    text = token(site, "bob", "operator")
    come_in(tab, text, "/?from=a-link")
    expect(tab.get_by_role("heading", name="Overview")).to_be_visible()
    assert tab.url.endswith("/?from=a-link")
    kept = [one for one in tab.context.cookies() if one["name"] == "aura_session"]
    assert [(one["httpOnly"], one["sameSite"]) for one in kept] == [(True, "Strict")]
    assert text not in str(kept)
    command(site, "token", "revoke", "bob", "--reason", "he has left")
    expect(tab.get_by_role("heading", name="Log in")).to_be_visible()
    assert httpx.get(
        f"{site.url}/runs", cookies={kept[0]["name"]: kept[0]["value"]}, timeout=60
    ).status_code == 401  # fmt: skip


def test_a_logout_ends_the_session_everywhere(site: Site, admin: str, tabs: Tabs) -> None:
    tab = tabs.open()
    come_in(tab, admin)
    kept = {str(one["name"]): str(one["value"]) for one in tab.context.cookies()}
    other = tab.context.new_page()
    show(other, "/runs")
    tab.get_by_role("button", name="Log out").click()
    expect(tab.get_by_role("heading", name="Log in")).to_be_visible()
    expect(other.get_by_role("heading", name="Log in")).to_be_visible()
    assert httpx.get(f"{site.url}/runs", cookies=kept, timeout=60).status_code == 401


def test_a_role_sees_what_it_may_do(site: Site, tab: Page) -> None:
    site.start("approval", "asks", text="please")
    come_in(tab, token(site, "eve", "viewer"), "/runs/asks")
    cancel = tab.get_by_role("button", name="Cancel", exact=True)
    expect(cancel).to_be_disabled()
    assert cancel.get_attribute("title") == "needs the role operator; you are viewer"
    expect(tab.get_by_role("link", name="Audit log")).to_have_count(0)
    answer = tab.goto("/audit")
    assert answer is not None
    assert answer.status == 403
    expect(tab.get_by_role("alert")).to_contain_text("needs the role admin")


def test_a_limited_token_sees_the_runs_of_its_workflows_only(site: Site, tab: Page) -> None:
    site.start("research", "theirs", text="x")
    site.start("letter", "mine", size=24)
    come_in(tab, token(site, "guest", "operator", "--workflow", "letter"), "/runs")
    expect(tab.get_by_role("link", name="mine", exact=True)).to_be_visible()
    expect(tab.get_by_role("link", name="theirs")).to_have_count(0)
    for path in ("/runs/theirs", "/raw/runs/theirs"):
        answer = tab.goto(path)
        assert answer is not None
        assert answer.status == 404
    for path in ("/", "/runs?workflow=research"):
        answer = tab.goto(path)
        assert answer is not None
        assert answer.status == 403
        expect(tab.get_by_role("alert")).to_be_visible()


def test_pages_of_others_neither_log_in_nor_connect(site: Site, admin: str) -> None:
    kept = session(site, admin)
    form = {"token": admin}
    for origin in ("http://evil.example", "null", site.url.replace("127.0.0.1", "localhost"), ""):
        told = {"origin": origin} if origin else {}
        for path in ("/login", "/logout"):
            answer = httpx.post(site.url + path, data=form, headers=told, timeout=60)
            assert answer.status_code == 403, (origin, path)
            assert "set-cookie" not in answer.headers
    page = httpx.get(f"{site.url}/runs", headers={"cookie": kept}, timeout=60)
    [client] = set(re.findall(r"client_id.{1,9}?([0-9a-f-]{36})", page.text))
    assert handshake(site, client, kept, site.url) == 101
    assert handshake(site, client, kept, "http://evil.example") == 403
    assert handshake(site, client, kept, "") == 403
    assert handshake(site, client, "", site.url) == 403
    assert handshake(site, client, session(site, admin), site.url) == 403  # another session's page
    assert handshake(site, "made-up", kept, site.url) == 403
    for path in ("", "x", "socket.io", "socket.iox/"):  # nothing is there
        assert handshake(site, client, kept, site.url, path) == 403


def handshake(site: Site, client: str, cookie: str, origin: str, path: str = "socket.io/") -> int:
    """The status with which a page's connection is answered."""
    with socket.create_connection((urlsplit(site.url).hostname, urlsplit(site.url).port)) as wire:
        wire.settimeout(60)
        query = f"client_id={client}&tab_id=t&document_id=d&implicit_handshake=true"
        lines = [
            f"GET /_nicegui_ws/{path}?{query}&EIO=4&transport=websocket HTTP/1.1",
            f"Host: {urlsplit(site.url).netloc}", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
            *([f"Origin: {origin}"] if origin else []), *([f"Cookie: {cookie}"] if cookie else []),
        ]  # fmt: skip
        wire.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(wire.recv(100).split()[1])


def test_a_link_from_elsewhere_keeps_who_is_logged_in(site: Site, admin: str, tabs: Tabs) -> None:
    tab = tabs.open()
    come_in(tab, admin)
    elsewhere = site.url.replace("127.0.0.1", "localhost")  # another site to a browser
    tab.goto(f"{elsewhere}/login")
    tab.evaluate(f"location.href = {json.dumps(site.url + '/runs?state=failed')}")
    expect(tab.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    assert tab.url.endswith("/runs?state=failed")
    tabs.faults.clear()  # it was asked elsewhere here, on purpose


def test_browsers_are_told_to_keep_calm(site: Site, admin: str) -> None:
    kept = {"cookie": session(site, admin)}
    with httpx.Client(base_url=site.url, timeout=60) as client:
        page = client.get("/runs", headers=kept)
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        for rule in ("default-src 'none'", "frame-ancestors 'none'", "connect-src 'self'"):
            assert rule in policy
        [nonce] = re.findall(r"'nonce-([^']+)'", policy)
        scripts = re.findall(r"<script[^>]*>", page.text)
        assert scripts
        assert all(f'nonce="{nonce}"' in one for one in scripts)
        assert nonce not in client.get("/runs", headers=kept).text
        for path in ("/runs", "/login", "/raw/runs/x", "/_aura/aura.css", "/nowhere"):
            headers = client.get(path, headers=kept).headers
            assert headers["x-content-type-options"] == "nosniff", path
            assert headers["x-frame-options"] == "DENY", path
            assert headers["referrer-policy"] == "same-origin", path
            assert "camera=()" in headers["permissions-policy"], path
        told = {"origin": site.url, "x-forwarded-proto": "https"}
        answer = client.post("/login", data={"token": admin}, headers=told)
        assert answer.headers["set-cookie"].startswith("__Host-aura_session=")
        assert "; Secure" in answer.headers["set-cookie"]


def test_a_login_leads_inside_only(site: Site, admin: str) -> None:
    for target in ("//evil.example", "https://evil.example", "/\\evil.example", "/login", "x"):
        answer = httpx.post(
            f"{site.url}/login", params={"next": target}, data={"token": admin},
            headers={"origin": site.url}, timeout=60,
        )  # fmt: skip
        assert (answer.status_code, answer.headers["location"]) == (303, "/"), target


def test_nonsense_is_refused_in_a_sentence(site: Site) -> None:
    with httpx.Client(base_url=site.url, headers={"origin": site.url}, timeout=60) as client:
        assert client.post("/login", content=b"x" * 5000).status_code == 413
        assert client.post("/login", content="token=ü".encode()).status_code == 413
        assert client.post("/runs").status_code == 405
        assert client.get("/", headers={"cookie": 'x="; ;=a; aura_session=odd'}).status_code in (
            303,
            401,
        )


def test_secrets_by_name_are_masked_in_pages(site: Site, admin: str, tab: Page) -> None:
    site.start("masked", "hides", cookie="swordfish", text="open")
    come_in(tab, admin, "/runs/hides?step=0%2Fkeeps%231")
    expect(tab.locator(".payload").first).to_contain_text('"cookie": "***"')
    assert "swordfish" not in tab.content()
    raw = tab.goto("/raw/runs/hides?part=input")
    assert raw is not None
    assert raw.text().count("***") == 1
    assert "swordfish" not in raw.text()


def test_guessing_locks_out_here_and_at_the_api(site: Site, tab: Page) -> None:
    """The last one: afterwards the address has to wait."""
    for _ in range(6):
        log_in(tab, "aura_0123456789ab_" + "x" * 43)
        expect(tab.get_by_role("alert")).to_be_visible()
    expect(tab.get_by_role("alert")).to_contain_text("too many wrong tokens")
    wrong = {"authorization": "Bearer aura_0123456789ab_" + "y" * 43}
    for _ in range(3):  # the wait may be over by then; the next one is longer
        answer = httpx.get(f"{site.url}/api/v1/runs", headers=wrong, timeout=60)
        if answer.status_code == 429:
            break
    assert (answer.status_code, answer.json()["code"]) == (429, "locked-out")
