"""The composition root: configuration, opening and closing, what is wrong with a database."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aura
from aura import Aura, Config, errors, step
from aura.app import DEFAULT_DATABASE, new_run_id, open_store
from aura.clock import SystemClock
from aura.errors import ConfigError, StoreError, StoreUnavailable
from aura.store.base import RunFilter
from aura.store.postgres import PostgresStore
from aura.store.sqlite import SqliteStore


async def hello(name: str) -> str:
    return f"hello {name}"


def make(database: str, **settings: float) -> Aura:
    app = Aura("test", config=Config(database=database, **settings))  # type: ignore[arg-type]
    app.workflow(version="1.0.0")(hello)
    return app


def test_the_database_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AURA_DATABASE_URL", raising=False)
    assert Config().database == DEFAULT_DATABASE
    monkeypatch.setenv("AURA_DATABASE_URL", "postgresql://there/db")
    assert Config().database == "postgresql://there/db"
    assert Config(database="x.db").database == "x.db"


@pytest.mark.parametrize("name", ["lease", "poll", "capacity", "threads", "max_payload"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_settings_that_cannot_work(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}.*must be above 0"):
        Config(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"database": ""}, "database is ''"),
        ({"database": Path("aura.db")}, "as text"),
        ({"lease": "ten"}, "lease is 'ten'"),
        ({"retention": "7d"}, "retention is '7d'"),
        ({"retention": float("inf")}, "None for ever"),
        ({"mtbf": "often"}, "mtbf is 'often'"),
    ],
)
def test_settings_of_the_wrong_kind(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Config(**settings)


def test_an_empty_address_of_the_database_is_not_a_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AURA_DATABASE_URL", "")
    with pytest.raises(ConfigError, match="AURA_DATABASE_URL"):
        Aura("test")


@pytest.mark.parametrize("name", ["", " ", 5])
def test_an_app_has_a_name(name: Any) -> None:
    with pytest.raises(ConfigError, match="an app has the name"):
        Aura(name)


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Config().lease = 5  # type: ignore[misc]


def test_a_database_is_chosen_by_its_url() -> None:
    clock = SystemClock()
    assert isinstance(open_store("aura.db", clock), SqliteStore)
    assert isinstance(open_store("sqlite:///aura.db", clock), SqliteStore)
    assert isinstance(open_store("postgresql://h/d", clock), PostgresStore)
    assert isinstance(open_store("postgres://h/d", clock), PostgresStore)
    with pytest.raises(ConfigError, match="mysql://… is of an unknown kind"):
        open_store("mysql://h/d", clock)


@pytest.mark.parametrize("url", ["postgresql://[", "postgresql://u:p[x@h/d"])
def test_a_url_that_cannot_be_read(url: str) -> None:
    with pytest.raises(ConfigError, match=r"URL cannot be read.*Write postgresql://"):
        open_store(url, SystemClock())


async def test_an_app_opens_works_and_opens_again(tmp_path: Path) -> None:
    app = make(str(tmp_path / "aura.db"))
    async with app:
        run = await app.start("hello", "you", id="r")
        assert await run.result(timeout=60) == "hello you"
    async with app:
        assert await app.run("r").result(timeout=60) == "hello you"
        assert await (await app.start("hello", "me")).result(timeout=60) == "hello me"
    await app.close()  # once more is harmless


async def test_an_app_in_memory_forgets(tmp_path: Path) -> None:
    app = make(":memory:")
    for _ in range(2):
        async with app:
            assert await app.runs() == []
            await (await app.start("hello", "you", id="r")).result(timeout=60)
            assert [one.id for one in await app.runs()] == ["r"]


async def test_two_apps_in_one_process_do_not_mix(tmp_path: Path) -> None:
    one, two = make(str(tmp_path / "1.db")), make(str(tmp_path / "2.db"))
    async with one, two:
        a = await one.start("hello", "1", id="same")
        b = await two.start("hello", "2", id="same")
        assert await b.result(timeout=60) == "hello 2"
        assert await a.result(timeout=60) == "hello 1"


async def test_a_client_has_no_worker(tmp_path: Path) -> None:
    app = make(str(tmp_path / "aura.db"))
    async with app.client() as client:
        assert client is app
        run = await client.start("hello", "you")
        await asyncio.sleep(0.1)
        assert await run.status() == "pending"
        assert await client.store.workers() == []


async def test_runs_are_listed_newest_first_and_filtered(tmp_path: Path) -> None:
    app = make(str(tmp_path / "aura.db"))
    async with app.client():
        for number in range(5):
            await app.start("hello", f"{number}", id=f"r{number}")
        assert [one.id for one in await app.runs()] == ["r4", "r3", "r2", "r1", "r0"]
        assert [one.id for one in await app.runs(RunFilter(limit=2))] == ["r4", "r3"]
        assert await app.runs(RunFilter(state="completed")) == []
        assert await app.runs(RunFilter(workflow="other")) == []


async def test_closing_ends_those_who_wait(tmp_path: Path) -> None:
    app = make(str(tmp_path / "aura.db"))
    async with app.client():
        run = await app.start("hello", "you")
        waiting = asyncio.create_task(run.result())
        await asyncio.sleep(0.05)
    with pytest.raises(ConfigError, match="app of this run is closed"):
        await asyncio.wait_for(waiting, 60)


async def test_an_error_inside_the_block_still_closes(tmp_path: Path) -> None:
    app = make(str(tmp_path / "aura.db"))
    with pytest.raises(ZeroDivisionError):
        async with app:
            raise ZeroDivisionError
    with pytest.raises(ConfigError, match="not open"):
        await app.start("hello", "you")


async def test_a_database_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    missing = make(str(tmp_path / "no" / "such" / "folder" / "aura.db"))
    with pytest.raises(StoreUnavailable, match=r"unable to open.*Check that the folder exists"):
        await missing.open()
    nobody = make("postgresql://localhost:1/nothing?connect_timeout=1")
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await nobody.open()
    await missing.close()
    with pytest.raises(ConfigError, match="not open"):
        await missing.start("hello", "you")


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "aura.db"
    path.write_text("this is not a database, but a text that is long enough\n" * 30)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await make(str(path)).open()


async def test_a_schema_of_a_newer_aura_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "aura.db")
    async with make(path):
        pass
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO migrations VALUES ('9999_pre_future', 'x', 0)")
    db.close()
    with pytest.raises(StoreError, match="9999"):
        await make(path).open()


async def test_a_database_away_for_longer_than_patience_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make(str(tmp_path / "aura.db"), lease=0.4)

    async def away(_: object) -> None:
        raise StoreUnavailable("the disk is full", hint="Free disk space")

    async with app:
        real = app.store.commit
        monkeypatch.setattr(app.store, "commit", away)
        with pytest.raises(StoreUnavailable, match=r"disk is full\. Free disk space"):
            await app.start("hello", "you", id="r")
        monkeypatch.setattr(app.store, "commit", real)
        run = await app.start("hello", "you", id="r")
        assert await run.result(timeout=60) == "hello you"


async def test_what_was_written_while_the_database_went_away_leaves_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is given up, and the one behind it would be written: it must not be."""
    app = make(str(tmp_path / "aura.db"), lease=0.4)
    failing = False

    @step(idempotent=True)
    async def look(number: int) -> int:
        await asyncio.sleep(0.001)
        return number

    @app.workflow(version="1.0.0")
    async def flow() -> int:
        nonlocal failing
        for number in range(400):
            if number == 20 and not recovered:
                failing = True
            await look(number)
        return 7

    recovered = False
    async with app:
        real = app.store.commit

        async def commit(ops: object) -> object:
            nonlocal failing, recovered
            if failing:
                await asyncio.sleep(0.25)  # longer than the committer's patience
                failing, recovered = False, True
                raise StoreUnavailable("away")
            return await real(ops)  # type: ignore[arg-type]

        monkeypatch.setattr(app.store, "commit", commit)
        run = await app.start(flow, id="r")
        result = await run.result(timeout=60)
        journal = await app.store.journal("r")
    assert result == 7
    assert recovered
    assert [entry.seq for entry in journal] == list(range(1, 401))


def test_run_ids_are_ordered_by_time() -> None:
    ids = [new_run_id(at / 1000) for at in range(1_700_000_000_000, 1_700_000_000_050)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 50
    assert all(one[14] == "7" and one[19] in "89ab" for one in ids)


def test_the_readme_s_first_lines_work_in_a_fresh_process(tmp_path: Path) -> None:
    script = """
import asyncio
import aura

app = aura.Aura("research", config=aura.Config(database="aura.db"))

@aura.step(retries=3, timeout=30)
async def extract(text: str) -> list[str]:
    return text.split()

@app.workflow(version="1.0.0")
async def research(text: str) -> int:
    words = await extract(text)
    return len(words)

async def main() -> None:
    async with app:
        run = await app.start(research, "three short words", id="doc-17")
        print(await run.result())

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("3\n", "", 0)
    assert (tmp_path / "aura.db").exists()


def test_the_version_of_errors_is_one_tree() -> None:
    assert issubclass(errors.StepTimeout, aura.StepFailed)
    assert issubclass(errors.ResultTimeout, TimeoutError)
