"""Logs say where they were written, say it once, and have no secrets."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

import aura
from aura import Aura, Config, step
from aura.engine.traces import carried_in
from aura.errors import ConfigError
from aura.masking import Mask
from aura.telemetry import logs
from aura.telemetry.logs import Pretty, Structured, chosen_format, handler_for
from tests.telemetry.kit import Spans

mine = logging.getLogger("research.code")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = handler_for(stream, "json")
    mine.addHandler(handler)
    mine.setLevel(logging.INFO)
    yield stream
    mine.removeHandler(handler)


def lines(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def app_of(database: str, spans: Spans | None = None, **settings: Any) -> Aura:
    app = Aura(
        "logs",
        config=Config(database=database, **settings),
        telemetry=spans.settings() if spans else False,
    )

    @step(retries=aura.Retry(attempts=1, first=0.001))
    def in_a_thread(text: str) -> str:
        mine.info("in a thread", extra={"size": 3, "api_key": "abc"})
        return text

    @step
    async def fails_once(tries: list[int]) -> None:
        mine.warning("trying %s", "postgresql://ada:love@db/x")

    @app.workflow(version="1.0.0")
    async def work(text: str) -> str:
        mine.info("begin")
        text = await in_a_thread(text)
        mine.info("between")
        if text == "waits":
            await aura.receive("go")
        await fails_once([])
        mine.info("end")
        return text

    return app


async def test_what_is_logged_in_a_run_says_where(written: io.StringIO, spans: Spans) -> None:
    app = app_of(":memory:", spans)
    async with app:
        await (await app.start("work", "x", id="r")).result()
    mine.info("outside")
    found = lines(written)
    assert [one["message"] for one in found] == [
        "begin", "in a thread", "between", "trying postgresql://ada:***@db/x", "end", "outside",
    ]  # fmt: skip
    begin, thread, _, trying, _, outside = found
    run = {"run": "r", "workflow": "work", "version": "1.0.0"}
    assert begin.items() >= (run | {"lane": "0", "level": "info", "logger": mine.name}).items()
    assert thread.items() >= (run | {"step": "in_a_thread", "key": "0/in_a_thread#1"}).items()
    assert (thread["attempt"], thread["size"], thread["api_key"]) == (1, 3, "***")
    assert (trying["step"], trying["level"]) == ("fails_once", "warning")
    assert "run" not in outside
    assert "trace_id" not in outside
    ids = {one.attributes.get("aura.step.key"): one for one in spans.all()}
    assert (thread["trace_id"], thread["span_id"]) == (
        ids["0/in_a_thread#1"].trace,
        ids["0/in_a_thread#1"].id,
    )


async def test_a_replay_does_not_say_again_what_the_journal_is_past(
    database: str, written: io.StringIO
) -> None:
    """What came after the last entry may be said twice: nobody knows whether it was."""
    first, second = app_of(database), app_of(database, poll=0.05)
    async with first:
        run = await first.start("work", "waits", id="r")
        end = time.monotonic() + 60
        while (await run.record()).state != "waiting":
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
    async with second:
        await second.run("r").signal("go")
        await second.run("r").result()
    said = [one["message"] for one in lines(written)]
    assert said[:3] == ["begin", "in a thread", "between"]
    assert said[-2:] == ["trying postgresql://ada:***@db/x", "end"]
    assert set(said[3:-2]) <= {"between"}


def record(message: str, *args: Any, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("x.y", logging.ERROR, "f.py", 1, message, args, None)
    vars(made).update(more)
    return made


def test_json_is_one_line_whatever_is_logged() -> None:
    odd = record("a\nb \x1b[31m \ud800 %s", "c", odd=object(), run="mine", bad={1: {"token": "t"}})
    error = ValueError("password=hunter2")
    odd.exc_info = (ValueError, error, None)
    text = Structured().format(odd)
    assert "\n" not in text
    assert text.isascii()
    found = json.loads(text)
    assert found["message"] == "a\nb \x1b[31m \ud800 c"
    assert found["bad"] == {"1": {"token": "***"}}
    assert found["run"] == "mine"
    assert "password=***" in found["error"]
    assert "hunter2" not in text


def test_what_is_extra_does_not_hide_where_it_was() -> None:
    with carried_in("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
        found = json.loads(Structured().format(record("m", trace_id="mine")))
    assert found["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert found["trace_id_"] == "mine"


def test_tokens_and_passwords_never_appear() -> None:
    said = record(
        "%s and %s", "aura_0123456789ab_Secret-1", "postgresql://u:pw@h/d",
        dsn="postgresql://u:pw@h/d", nothing={"x": 1},
    )  # fmt: skip
    for made in (Structured(), Pretty(), Structured(Mask(())), Pretty(Mask(()))):
        text = made.format(said)
        assert "Secret-1" not in text
        assert "pw@" not in text


def test_people_see_one_line_with_the_run_at_its_end() -> None:
    shown = Pretty().format(record("took\x07 over", size=3))
    assert shown.endswith("ERROR   took\\x07 over  size=3")


def test_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("AURA_LOG_FORMAT", raising=False)
    assert chosen_format(None, Terminal()) == "pretty"
    assert chosen_format(None, io.StringIO()) == "json"
    assert chosen_format("pretty", io.StringIO()) == "pretty"
    monkeypatch.setenv("AURA_LOG_FORMAT", "json")
    assert chosen_format(None, Terminal()) == "json"
    assert chosen_format("pretty", Terminal()) == "pretty"
    with pytest.raises(ConfigError, match="no log format"):
        chosen_format("xml", Terminal())
    monkeypatch.setenv("AURA_LOG_LEVEL", "loud")
    with pytest.raises(ConfigError, match="AURA_LOG_LEVEL"):
        logs._level("loud")
