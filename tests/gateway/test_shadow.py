"""Copies for the candidate: compared, counted, and never in the user's way."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

from aura.gateway.client import Receive, Scope, Send
from aura.gateway.diff import rules_of
from aura.gateway.shadow import NotComparable, Recorded, ShadowLimits, compared
from tests.gateway.conftest import (
    Servers,
    Start,
    app_of,
    free_port,
    named,
    read_body,
    reply,
    split_of,
)


def answering(document: dict[str, Any], seen: list[dict[bytes, bytes]] | None = None) -> Any:
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        if seen is not None:
            seen.append(dict(scope["headers"]))
        await reply(send, document)

    return app_of(handle)


async def test_a_copy_is_compared_and_observed(start: Start, servers: Servers) -> None:
    to_legacy: list[dict[bytes, bytes]] = []
    to_new: list[dict[bytes, bytes]] = []
    running = await start(
        await servers.asgi(answering({"id": 1, "hits": [{"s": 1}, {"s": 2}], "t": 5}, to_legacy)),
        await servers.asgi(answering({"id": 2, "hits": [{"s": 3}, {"s": 4}], "u": 5}, to_new)),
        split=split_of(0.0, mirror=True),
        route={"rules": rules_of(ignore=["$.id"])},
    )
    response = await running.client.post("/", content=b"{}", headers={"idempotency-key": "k"})
    assert response.json()["id"] == 1
    user, shadow = await running.observations(2)
    assert (user.arm, user.shadow, user.differences) == ("legacy", False, ())
    assert (shadow.arm, shadow.shadow, shadow.ok) == ("new", True, True)
    assert shadow.differences == ("$.hits[*].s", "$.t", "$.u")
    report = running.gateway.shadows.desk.known("s", "new")
    assert report.fields["$.t"].examples[0].left == "5"
    assert (to_legacy[0][b"idempotency-key"], to_new[0][b"idempotency-key"]) == (b"k", b"shadow-k")
    assert to_new[0][b"x-aura-shadow"] == b"1"
    assert b"x-aura-shadow" not in to_legacy[0]


async def test_a_mirror_that_blocks_slows_nobody(start: Start, servers: Servers) -> None:
    """It answers when all users have been answered."""
    over = asyncio.Event()

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await over.wait()
        await reply(send, {})

    limits = ShadowLimits(concurrent=2, queue=3, timeout=600.0)
    running = await start(
        await servers.asgi(named("legacy")),
        await servers.asgi(app_of(hang)),
        split=split_of(0.0, mirror=True),
        shadow=limits,
    )
    for _ in range(20):
        response = await running.client.post("/", content=b"{}")
        assert response.json()["from"] == "legacy"
    shadows = running.gateway.shadows
    assert [o.shadow for o in await running.observations(20)] == [False] * 20
    assert shadows.skipped == 20 - (limits.concurrent + limits.queue)
    over.set()
    copies = [o for o in await running.observations(25) if o.shadow]
    assert [o.ok for o in copies] == [True] * 5
    assert shadows.sent + shadows.skipped == 20


async def test_a_mirror_that_does_not_answer_in_time_is_given_up(
    start: Start, servers: Servers
) -> None:
    left = asyncio.Event()

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    running = await start(
        await servers.asgi(named("legacy")),
        await servers.asgi(app_of(hang)),
        split=split_of(0.0, mirror=True),
        shadow=ShadowLimits(timeout=0.3),
    )
    assert (await running.client.post("/", content=b"{}")).json()["from"] == "legacy"
    _, copy = await running.observations(2)
    assert (copy.shadow, copy.ok, copy.error) == (True, False, "shadow-timeout")
    await asyncio.wait_for(left.wait(), 60)


async def test_a_mirror_that_is_down_or_fails_is_only_observed(
    start: Start, servers: Servers
) -> None:
    legacy = await servers.asgi(named("legacy"))
    down = await start(legacy, free_port(), split=split_of(0.0, mirror=True))
    assert (await down.client.get("/")).status_code == 200
    _, shadow = await down.observations(2)
    assert (shadow.ok, shadow.error) == (False, "target-unreachable")
    bad = await start(
        legacy,
        await servers.asgi(named("new", status=500)),
        split=split_of(0.0, mirror=True),
    )
    assert (await bad.client.get("/")).status_code == 200
    _, shadow = await bad.observations(2)
    assert (shadow.ok, shadow.error) == (False, "status-500")
    assert "status" in shadow.differences


async def test_uploads_that_are_not_kept_are_counted_as_skipped(
    start: Start, servers: Servers
) -> None:
    running = await start(
        await servers.asgi(named("legacy")),
        await servers.asgi(named("new")),
        split=split_of(0.0, mirror=True),
        buffer=1000,
    )
    assert (await running.client.post("/", content=b"x" * 2000)).json()["size"] == 2000
    assert running.gateway.shadows.skipped == 1
    assert running.gateway.shadows.sent == 0


def recorded(body: bytes | None, status: int = 200, coding: bytes = b"") -> Recorded:
    headers = ((b"content-encoding", coding),) if coding else ()
    return Recorded(status, headers, body)


def test_compressed_answers_are_compared_by_content() -> None:
    plain = json.dumps({"a": 1}).encode()
    left = recorded(gzip.compress(plain), coding=b"gzip")
    assert compared(left, recorded(plain), rules_of()).found == []
    (found,) = compared(left, recorded(b'{"a": 2}'), rules_of()).found
    assert found.path == "$.a"


def test_bodies_that_are_no_json_are_compared_as_bytes() -> None:
    assert compared(recorded(b"<p>"), recorded(b"<p>"), rules_of()).found == []
    (found,) = compared(recorded(b"<p>"), recorded(b"<q>"), rules_of()).found
    assert (found.path, found.kind) == ("body", "value")


@pytest.mark.parametrize(
    "left",
    [
        recorded(None),
        recorded(b"x", coding=b"br"),
        recorded(b"x", coding=b"gzip"),
        recorded(gzip.compress(b"0" * 3_000_000), coding=b"gzip"),
        recorded(b"[" * 100_000),
    ],
)
def test_what_cannot_be_compared_says_so(left: Recorded) -> None:
    with pytest.raises(NotComparable):
        compared(left, recorded(b"1"), rules_of())
