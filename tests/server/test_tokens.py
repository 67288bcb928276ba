"""Tokens: who is let in, who is not, and that nobody ever sees a secret."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from aura import Aura, Config
from aura.errors import ConfigError, StoreUnavailable, TokenError
from aura.gateway.headers import Origin, for_target
from aura.server import tokens
from aura.server.limits import FREE_GUESSES, LONGEST_LOCK, MOST_ADDRESSES, Guesses, Rates
from aura.server.serving import Serving, build
from aura.server.tokens import Token, create, require_token, revoke
from aura.store.base import PutDocument
from tests.server.kit import client, make_app
from tests.server.test_api import problem


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def serving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    monkeypatch.setattr(tokens, "FRESH", 0.0)  # each request looks at the database
    async with build(make_app(), worker=False) as opened:
        yield opened


def bearing(serving: Serving, text: str, address: str = "127.0.0.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=serving, raise_app_exceptions=False, client=(address, 1))
    headers = {"authorization": f"Bearer {text}"} if text else {}
    return httpx.AsyncClient(transport=transport, base_url="http://aura.example", headers=headers)


async def ask(serving: Serving, text: str, address: str = "127.0.0.1") -> httpx.Response:
    async with bearing(serving, text, address) as http:
        return await http.get("/api/v1/runs")


async def test_tokens_are_made_shown_without_secret_and_revoked(database: str) -> None:
    async with Aura("a", config=Config(database=database)).client() as app:
        made, text = await create(app, "ci", "operator", workflows=("research",), seconds=60)
        [kept] = await app.store.documents(tokens.KIND)
        secret = text.split("_", 2)[2]
        assert len(secret) == 43
        assert secret.encode() not in kept.body
        known = (await tokens.load(app))[made.id]
        assert (known, known.opens(secret), known.opens(secret[::-1])) == (made, True, False)
        with pytest.raises(TokenError, match="already"):
            await create(app, "ci", "viewer")
        assert (await revoke(app, made.id)).state(app.time.now()) == "revoked"
        with pytest.raises(TokenError, match="no live token ci"):
            await revoke(app, "ci")
        again, other = await create(app, "ci", "viewer")
        assert (again.id, other) != (made.id, text)


@pytest.mark.parametrize(
    ("name", "role", "workflows"),
    [("a", "root", ()), ("", "viewer", ()), ("a b", "viewer", ()), ("a", "admin", ("w",))],
)
async def test_what_is_no_token_is_refused(
    name: str, role: str, workflows: tuple[str, ...]
) -> None:
    async with make_app().client() as app:
        with pytest.raises(TokenError):
            await create(app, name, role, workflows=workflows)


async def test_a_secret_given_as_a_name_is_not_repeated() -> None:
    async with make_app().client() as app:
        _, text = await create(app, "a", "viewer")
        with pytest.raises(TokenError) as refused:
            await revoke(app, text)
        assert text not in str(refused.value)


def test_a_token_ends_at_its_time() -> None:
    token = Token("0" * 12, "a", "viewer", (), "0" * 64, 10.0, 20.0)
    assert [token.state(at) for at in (10, 19.9, 20)] == ["live", "live", "expired"]
    assert replace(token, revoked_at=15.0).state(12) == "revoked"


async def test_from_the_first_token_on_every_request_needs_one(serving: Serving) -> None:
    async with client(serving) as http:
        assert (await http.get("/api/v1/runs")).status_code == 200
        made, text = await create(serving.app, "ann", "viewer")
        refused = await http.get("/api/v1/runs")
        assert problem(refused) == (401, "token-missing")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert problem(await http.get("/api/v1/no/such/page")) == (401, "token-missing")
        assert (await http.get("/healthz")).status_code == 200
    assert (await ask(serving, text)).status_code == 200
    await revoke(serving.app, made.id)
    assert problem(await ask(serving, text)) == (401, "token-revoked")
    assert problem(await ask(serving, "")) == (401, "token-missing")  # it stays shut


async def test_an_expired_token_says_that_it_is(serving: Serving) -> None:
    _, text = await create(serving.app, "ann", "admin", seconds=1e-6)
    assert problem(await ask(serving, text)) == (401, "token-expired")
    assert problem(await ask(serving, text[:-1] + "x")) == (401, "token-invalid")


async def test_a_new_token_is_good_at_once_though_tokens_are_kept_in_mind(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = await create(serving.app, "ann", "viewer")
    monkeypatch.setattr(tokens, "FRESH", 3_600.0)
    monkeypatch.setattr(tokens, "_NEW", 0.0)
    assert (await ask(serving, first)).status_code == 200
    _, second = await create(serving.app, "bob", "viewer")
    assert (await ask(serving, second)).status_code == 200


async def test_a_revocation_is_obeyed_though_tokens_are_kept_in_mind(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = await create(serving.app, "ann", "viewer")
    monkeypatch.setattr(tokens, "FRESH", 3_600.0)
    assert (await ask(serving, text)).status_code == 200
    await revoke(serving.app, "ann")
    assert (await ask(serving, text)).status_code == 200  # it has not looked yet
    monkeypatch.setattr(tokens, "FRESH", 0.0)
    assert problem(await ask(serving, text)) == (401, "token-revoked")


async def test_nobody_is_let_in_while_the_tokens_cannot_be_read(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(kind: str) -> Any:
        raise StoreUnavailable("the database is away")

    monkeypatch.setattr(serving.app.store, "documents", away)
    async with client(serving) as http:
        assert problem(await http.get("/api/v1/gateway")) == (503, "store-unavailable")


async def test_without_tokens_other_machines_are_refused_whatever_they_call_us(
    serving: Serving,
) -> None:
    transport = httpx.ASGITransport(app=serving, client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        assert problem(await http.get("/api/v1/runs")) == (403, "host-not-allowed")


MALFORMED = [
    "x", "aura_", "aura_0123456789ab_short", "aura_0123456789AB_" + "a" * 43,
    "aura_0123456789ab_" + "a" * 44, "a" * 50_000, "aura_0123456789ab_" + "é" * 43,
]  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: text[:20])
async def test_malformed_tokens_are_refused(serving: Serving, text: str) -> None:
    await create(serving.app, "ann", "viewer")
    async with bearing(serving, "") as http:
        told = await http.get(
            "/api/v1/runs", headers=[(b"authorization", f"Bearer {text}".encode())]
        )
        assert problem(told) == (401, "token-invalid")
        basic = await http.get("/api/v1/runs", headers={"authorization": "Basic YTpi"})
        assert problem(basic) == (401, "token-invalid")


async def test_guessing_locks_an_address_out_but_not_its_neighbours(serving: Serving) -> None:
    _, text = await create(serving.app, "ann", "viewer")
    _, late = await create(serving.app, "bob", "viewer")
    assert (await ask(serving, text, "192.0.2.1")).status_code == 200
    wrong = text[:-5] + "wrong"
    for _ in range(FREE_GUESSES):
        assert problem(await ask(serving, wrong[:18] + "z" * 43, "192.0.2.1"))[0] == 401
    locked = await ask(serving, late, "192.0.2.1")  # right, but too late
    assert problem(locked) == (429, "locked-out")
    assert int(locked.headers["retry-after"]) >= 1
    assert (await ask(serving, text, "192.0.2.1")).status_code == 200  # known from there
    assert (await ask(serving, late, "192.0.2.2")).status_code == 200


async def test_a_token_that_asks_too_often_has_to_wait(serving: Serving) -> None:
    _, text = await create(serving.app, "ann", "viewer")
    serving.door.rates = Rates(rate=1e-6, burst=2)
    answers = [await ask(serving, text) for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert problem(answers[-1]) == (429, "rate-limited")
    assert int(answers[-1].headers["retry-after"]) > 1


async def test_secrets_are_nowhere(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    _, text = await create(serving.app, "ann", "admin")
    secret = text.split("_", 2)[2]
    shown = []
    async with bearing(serving, text) as http:
        pages = ("runs", "status", "audit", "runs/nobody", "no/page", "openapi.json")
        shown += [(await http.get(f"/api/v1/{path}")).text for path in pages]
        shown.append((await http.post("/api/v1/runs", json={"workflow": secret[:5]})).text)
    shown.append((await ask(serving, text + "x")).text)
    assert secret not in "".join(shown) + caplog.text
    assert not [m for m in await serving.app.store.feed("audit") if secret.encode() in m.payload]


async def test_other_hosts_need_a_token_first() -> None:
    async with make_app().client() as app:
        for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.3.2.1"):
            await require_token(app, host)
        exposed = ("0.0.0.0", "::", "192.168.1.5", "example.org", "", "::ffff:8.8.8.8")
        for host in exposed:
            with pytest.raises(ConfigError, match="no token yet"):
                await require_token(app, host)
        made, _ = await create(app, "ann", "admin")
        for host in exposed:
            await require_token(app, host)
        body = json.dumps(asdict(replace(made, expires_at=1.0)))
        await app.committer.submit(PutDocument(tokens.KIND, made.id, body.encode()))
        with pytest.raises(ConfigError, match="no token yet"):
            await require_token(app, "0.0.0.0")


@pytest.mark.parametrize(
    "scheme", [b"Bearer ", b"bearer ", b"BEARER  ", b"Token ", b"", b"Bearer\t"]
)
def test_the_gateway_keeps_tokens_to_itself(scheme: bytes) -> None:
    origin = Origin("192.0.2.1", "http")
    ours = (b"authorization", scheme + b"aura_0123456789ab_" + b"x" * 43)
    theirs = (b"authorization", b"Bearer of good news")
    passed = for_target([ours, theirs, (b"x-user", b"u")], origin)
    assert [one for one in passed if one[0] in (b"authorization", b"x-user")] == [
        theirs, (b"x-user", b"u"),
    ]  # fmt: skip


# -- limits, pure --------------------------------------------------------------------------------


def test_each_wrong_token_locks_for_twice_as_long() -> None:
    guesses = Guesses()
    waits = []
    for number in range(FREE_GUESSES + 12):
        guesses.wrong("192.0.2.1", 0.0)
        waits.append(guesses.locked("192.0.2.1", 0.0))
        assert guesses.locked("192.0.2.2", 0.0) == 0, number
    assert waits[: FREE_GUESSES - 1] == [0.0] * (FREE_GUESSES - 1)
    assert waits[FREE_GUESSES - 1 :][:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == LONGEST_LOCK
    assert guesses.locked("192.0.2.1", LONGEST_LOCK) == 0
    guesses.wrong("192.0.2.1", 10_000.0)
    assert guesses.locked("192.0.2.1", 10_000.0) == 0  # long ago is forgotten


def test_guessers_are_told_apart_by_network_and_memory_is_bounded() -> None:
    guesses = Guesses()
    for host in range(FREE_GUESSES):
        guesses.wrong(f"2001:db8::{host:x}", 0.0)
    assert guesses.locked("2001:db8::ffff", 0.0) > 0
    assert guesses.locked("2001:db8:0:1::1", 0.0) == 0
    for number in range(MOST_ADDRESSES + 100):
        guesses.wrong(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(guesses) == MOST_ADDRESSES


def test_rates_give_back_what_time_brings() -> None:
    rates = Rates(rate=2.0, burst=3.0, most=2)
    assert [rates.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert rates.take("a", 0.5) == 0.0
    assert rates.take("a", 0.5) == 0.5
    assert [rates.take("a", 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert rates.take("a", 0.0) > 0  # a clock that went back gives nothing
