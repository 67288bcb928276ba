"""`aura dlq` and `aura topics`: what waits for a person, how far groups are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aura import Aura as App
from aura import Config
from tests.cli.conftest import Aura
from tests.engine.kit import until

TOPIC_KEYS = {"topic", "emitted", "events", "bytes", "groups"}
GROUP_KEYS = {"group", "lag", "age", "waiting", "dead", "workers"}
LETTER_KEYS = {
    *("id", "kind", "topic", "group", "seq", "key", "workflow", "version", "tries", "error", "at"),
}


async def handle(project: Path, *payloads: Any, fails: bool) -> list[Any]:
    """Emit events, and let a group handle all that there is; what it has seen."""
    seen: list[Any] = []
    app = App("shop", config=Config(database=str(project / "aura.db"), grace=0.5, lease=1.0))

    @app.subscribe("orders", group="billing", retries=0)
    async def bill(payload: Any) -> None:
        seen.append(payload)
        if fails:
            raise ValueError(f"[bold]cannot bill\x1b[31m {payload}")

    async with app:
        for number, payload in enumerate(payloads):
            await app.emit("orders", payload, key=f"customer-{number}")

        async def done() -> bool:
            groups = await app.store.events.groups()
            return bool(groups) and all(one.lag == 0 for one in groups)

        await until(done, timeout=20)
    return seen


@pytest.fixture
def letters(project: Path) -> None:
    asyncio.run(handle(project, "apples", {"pears": 2}, fails=True))


def test_nothing_waits(aura: Aura) -> None:
    assert aura("run", "research:app", "research", '"a"').code == 0
    ended = aura("dlq", "list")
    assert (ended.code, ended.out) == (0, "")
    assert "Nothing waits" in ended.err
    assert aura("dlq", "list", "--json").json == []
    assert "There are no topics" in aura("topics", "list").err


def test_letters_are_listed(aura: Aura, letters: None) -> None:
    ended = aura("dlq", "list")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0].split()[:3] == ["ID", "KEY", "TRIES"]
    assert {line.split()[0] for line in lines[1:]} == {
        "event:orders/billing/1", "event:orders/billing/2",
    }  # fmt: skip
    assert "ValueError: [bold]cannot bill" in ended.out
    assert "\x1b" not in ended.out
    found = aura("dlq", "list", "--json", "--group", "billing").json
    assert all(one.keys() == LETTER_KEYS for one in found)
    assert sorted(one["key"] for one in found) == ["customer-0", "customer-1"]
    assert aura("dlq", "list", "--json", "--topic", "nothing").json == []
    assert len(aura("dlq", "list", "--json", "--limit", "1").json) == 1


def test_a_letter_is_shown_with_its_history(aura: Aura, letters: None) -> None:
    shown = aura("dlq", "show", "event:orders/billing/2", "--full")
    for part in ("event:orders/billing/2", "customer-1", '"pears"', "try 1", "Traceback"):
        assert part in shown.out
    assert "\x1b" not in shown.out
    found = aura("dlq", "show", "event:orders/billing/2", "--json").json
    assert found.keys() == {"letter", "payload", "history"}
    assert found["payload"]["value"] == {"pears": 2}
    assert [line["type"] for line in found["history"]] == ["ValueError"]


def test_letters_are_requeued_and_dropped(aura: Aura, project: Path, letters: None) -> None:
    ended = aura("dlq", "requeue", "event:orders/billing/1")
    assert (ended.code, ended.err) == (0, "event:orders/billing/1 will be tried again.\n")
    dropped = aura("dlq", "drop", "event:orders/billing/2", "--json")
    assert dropped.json == {"id": "event:orders/billing/2", "dropped": True}
    assert aura("dlq", "list", "--json").json == []
    again = aura("dlq", "requeue", "event:orders/billing/1")
    assert again.code == 1
    assert "aura dlq list" in again.err
    assert asyncio.run(handle(project, fails=False)) == ["apples"]


@pytest.mark.parametrize("name", ["orders", "event:orders/billing", "event:a/b/x", "run:", "\x1b"])
@pytest.mark.parametrize("command", ["show", "requeue", "drop"])
def test_what_is_no_letter(aura: Aura, letters: None, command: str, name: str) -> None:
    ended = aura("dlq", command, name)
    assert (ended.code, ended.out) == (1, "")
    assert "dead letter" in ended.err
    assert "\x1b" not in ended.err


def test_topics_are_measured(aura: Aura, letters: None) -> None:
    shown = aura("topics", "list").out.splitlines()
    assert shown[1].split() == ["orders", "2", "19", "2", "1", "0", "2"]
    [topic] = aura("topics", "list", "--json").json
    assert topic.keys() == TOPIC_KEYS
    found = aura("topics", "show", "orders", "--json").json
    assert found == topic
    [group] = found["groups"]
    assert group.keys() == GROUP_KEYS
    assert (group["lag"], group["dead"], group["workers"]) == (0, 2, 0)
    assert aura("topics", "show", "orders").out.splitlines()[-1].split()[0] == "billing"
    wrong = aura("topics", "show", "nothing")
    assert wrong.code == 1
    assert "there is no topic nothing" in wrong.err


@pytest.mark.parametrize("since", ["2020-01-01", "2020-01-01T00:00Z", "1h"])
def test_a_topic_is_replayed(aura: Aura, project: Path, letters: None, since: str) -> None:
    options = ("--group", "billing", "--since", since)
    assert aura("topics", "replay", "orders", *options, "--json").json["events"] == 2
    assert aura("topics", "list", "--json").json[0]["groups"][0]["lag"] == 2
    assert len(asyncio.run(handle(project, fails=False))) == 2


def test_wrong_replays(aura: Aura, letters: None) -> None:
    wrong = aura("topics", "replay", "orders", "--group", "billing", "--since", "soon")
    assert wrong.code == 1
    assert "--since" in wrong.err
    nobody = aura("topics", "replay", "orders", "--group", "nobody", "--since", "1h")
    assert nobody.code == 1
    assert "no group nobody" in nobody.err


def test_a_group_is_forgotten(aura: Aura, letters: None) -> None:
    forgotten = aura("topics", "forget", "orders", "--group", "billing", "--json").json
    assert forgotten == {"topic": "orders", "group": "billing", "forgotten": True}
    assert aura("topics", "list", "--json").json[0]["groups"] == []
    assert aura("topics", "forget", "orders", "--group", "billing").code == 1
