"""Alerts: who is told what, signed, tried again, and never with a secret in what is written."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from aura import Aura
from aura.delivery import alerts
from aura.delivery.alerts import Alert, deliver
from aura.delivery.channels import Channel, channels_from, channels_json, load_channels
from aura.delivery.plan import parse_plan
from aura.engine import Retry
from aura.errors import AlertFailed, ConfigError, NonRetryable, PlanError, RunFailed
from tests.delivery.rollout_kit import TEXT, app_on, ended, plan, short, traffic, wait_for

SECRET = "a-key-that-nobody-may-see"  # noqa: S105


class Hook:
    """A web server that takes alerts; `failing` of them it does not take."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.failing = 0
        self.status = 503
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.failing:
            self.failing -= 1
            return web.Response(status=self.status)
        self.taken.append(({k.lower(): v for k, v in request.headers.items()}, body))
        return web.Response()


@pytest_asyncio.fixture
async def hook() -> AsyncIterator[Hook]:
    made = Hook()
    server = web.Application()
    server.router.add_post("/{path:.*}", made.take)
    runner = web.AppRunner(server, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/services/T00/{SECRET}"
    yield made
    await runner.cleanup()


async def told(app: Aura, alert: str) -> Any:
    """The result of the run that tells it, which another run starts."""
    give_up = asyncio.get_running_loop().time() + 60
    while await app.store.run(f"alert-{alert}") is None:
        assert asyncio.get_running_loop().time() < give_up, f"nobody told of {alert}"
        await asyncio.sleep(0.01)
    return await app.run(f"alert-{alert}").result(timeout=60)


async def test_a_trip_is_told_with_its_evidence(
    database: str, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook is down at first; neither the rollback nor its run waits for it."""
    monkeypatch.setenv("HOOK_URL", hook.url)
    monkeypatch.setenv("HOOK_KEY", SECRET)
    hook.failing = 2
    channel = Channel(kind="webhook", url_env="HOOK_URL", secret_env="HOOK_KEY")  # noqa: S106
    given = plan(stages=plan().stages[1:], alerts=(channel, Channel(kind="log")))
    async with app_on(database) as app, traffic(app) as made:
        made.failing["b"] = 1.0
        await app.rollouts.start(given)
        status = await ended(app)
        assert await app.run(status.run).result(timeout=60) == "rolled-back"
        assert await told(app, f"{status.run}-1") == "told webhook $HOOK_URL, log"
        ((headers, body),) = hook.taken
        document = json.loads(body)
        assert headers["x-aura-event"] == "rollback"
        assert headers["x-aura-delivery"] == f"{status.run}-1/0"
        key = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert headers["x-aura-signature"] == f"sha256={key}"
        assert (document["kinds"], document["name"]) == (["rollback", "trip"], "t")
        assert document["guard"] == status.guard == "errors"
        assert document["reason"] == status.reason
        details = document["details"]
        assert details["arms"]["b"]["errors"] == status.stages[0].candidate.errors
        (errors,) = [one for one in details["evidence"] if one["guard"] == "errors"]
        assert errors["verdict"] == "trip"
        journal = await app.store.journal(f"alert-{status.run}-1")
        written = b"".join(part or b"" for entry in journal for part in entry[5:8])
        assert SECRET.encode() not in written


async def test_a_hold_without_evidence_is_told(database: str) -> None:
    given = short(alerts=(Channel(kind="log", on=("not-enough",)),))
    async with app_on(database) as app:
        await app.rollouts.start(given)
        status = await wait_for(app, lambda one: one.state == "held")
        assert await told(app, f"{status.run}-1") == "told log"
        await app.rollouts.order("t", "rollback")
        await ended(app)  # nobody wants to hear of an ordered one
        assert await app.store.run(f"alert-{status.run}-2") is None


async def test_a_channel_that_refuses_does_not_hinder_the_others(
    database: str, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    hook.failing, hook.status = 1, 404
    caplog.set_level(logging.DEBUG)
    async with app_on(database) as app:
        alert = Alert(id="one", kinds=("hold",), name="t", reason="why")
        await app.rollouts.alerts.tell(alert, (Channel(kind="webhook", url=hook.url), LOG))
        with pytest.raises(
            RunFailed, match=r"1 of 2 channels.*refused the alert: status 404"
        ) as no:
            await told(app, "one")
        assert SECRET not in str(no.value)
        assert SECRET not in no.value.traceback
        assert SECRET not in caplog.text
        assert "hold of t: why" in caplog.text


LOG = Channel(kind="log")
ALERT = Alert(id="x", kinds=("rollback",), name="t", reason="why", at=1.0)


async def test_a_command_gets_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "page.py"
    script.write_text(
        "import pathlib, sys\npathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())\n"
    )
    out = tmp_path / "a file; with $(odd) characters"
    await deliver(ALERT, command(sys.executable, str(script), str(out)), 0)
    assert json.loads(out.read_bytes())["reason"] == "why"
    script.write_text("import sys\nsys.exit('no pager')\n")
    with pytest.raises(AlertFailed, match="ended with 1: no pager"):
        await deliver(ALERT, command(sys.executable, str(script)), 0)
    script.write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(AlertFailed, match=r"took more than 0.2 s"):
        await deliver(ALERT, command(sys.executable, str(script), timeout=0.2), 0)
    with pytest.raises(AlertFailed, match="cannot be run"):
        await deliver(ALERT, command(str(tmp_path / "nothing")), 0)
    monkeypatch.setenv(alerts.NO_COMMANDS, "off")
    with pytest.raises(NonRetryable, match="is not run: AURA_ALERT_COMMANDS is off"):
        await deliver(ALERT, command(sys.executable), 0)


def command(*words: str, timeout: float = 30.0) -> Channel:
    return Channel(kind="command", command=words, timeout=timeout)


async def test_what_cannot_be_reached_is_named_without_its_secret() -> None:
    closed = Channel(kind="webhook", url=f"http://127.0.0.1:1/{SECRET}")
    with pytest.raises(AlertFailed) as no:
        await deliver(ALERT, closed, 0)
    assert "webhook 127.0.0.1" in str(no.value)
    assert SECRET not in str(no.value)
    assert no.value.__suppress_context__
    with pytest.raises(AlertFailed, match="NOT_SET_HERE is not set on this worker"):
        await deliver(ALERT, Channel(kind="webhook", url_env="NOT_SET_HERE"), 0)
    assert Retry(attempts=3).again(1, no.value)


SECTION = """
alerts:
  - log
  - log: {on: [complete]}
  - webhook: https://example.com/hook
  - webhook: {url_env: PAGER, secret_env: KEY, on: [rollback, emergency], timeout: 3s}
  - command: [page, "--team", x]
  - command: {run: [page], timeout: 1m}
"""


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "aura.yaml"
    path.write_text(SECTION)
    found = load_channels(path)
    assert [one.kind for one in found] == ["log", "log", *["webhook"] * 2, *["command"] * 2]
    assert (found[3].on, found[3].timeout) == (("rollback", "emergency"), 3.0)
    assert found[4].command == ("page", "--team", "x")
    assert found[5].timeout == 60.0
    assert channels_from(channels_json(found)) == found
    assert found[0].wants(("rollback",))
    assert not found[0].wants(("complete",))
    assert found[1].wants(("complete",))
    both = parse_plan(TEXT + "  alerts: [log]\n" + SECTION)
    assert both.alerts == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- pager: x", "an alert is a mapping"),
        ("- page", "an alert is 'page'"),
        ("- webhook: ftp://x", "url cannot be used"),
        ("- webhook: {on: [hold]}", "one of url and url_env"),
        ("- webhook: {url: 'http://x', url_env: Y}", "one of url and url_env"),
        ("- webhook: {url: 'http://x', secret: Y}", "Did you mean 'secret_env'"),
        ("- command: rm -rf /", "Write a list"),
        ("- command: []", "the command is empty"),
        ("- log: {on: [fire]}", "a kind of alert is 'fire'"),
        ("- log: {timeout: 3}", "its unit"),
    ],
)
def test_bad_sections(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "aura.yaml"
    path.write_text(f"alerts:\n  {text}\n")
    with pytest.raises(ConfigError, match=r"aura.yaml:2: .*"):
        load_channels(path)
    with pytest.raises(ConfigError) as no:
        load_channels(path)
    assert said in str(no.value)
    with pytest.raises(PlanError):
        parse_plan(TEXT + f"  alerts:\n    {text}\n")
