"""The newest entries of the audit log: by whom, about what, page by page."""

from __future__ import annotations

from pathlib import Path

import pytest

from aura import Aura, Config
from aura.server import audit
from aura.server.audit import AuditFilter, Change, newest


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))


async def written(app: Aura, count: int) -> None:
    for number in range(1, count + 1):
        who = "bob" if number % 10 == 0 else "ann"
        what = "rollout hold" if number % 2 else "runs cancel"
        target = {"name": f"thing-{number}"}
        await audit.record(app, Change(what, who, "admin", "http", "", "why", target))


async def numbers(app: Aura, where: AuditFilter, limit: int) -> list[list[int]]:
    """The numbers of each page until there are no more."""
    pages, before = [], 0
    while True:
        found = await newest(app, where, before=before, limit=limit)
        pages.append([one.number for one in found.entries])
        if found.next is None:
            return pages
        before = found.next


async def test_the_newest_entries_come_first_and_none_is_left_out(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_PAGE", 7)
    async with Aura("test", config=Config(database=database)) as app:
        assert await newest(app) == audit.AuditLog((), None)
        await written(app, 40)
        whole = [one for page in await numbers(app, AuditFilter(), 9) for one in page]
        assert whole == list(range(40, 0, -1))
        bob = await numbers(app, AuditFilter(by="BOB"), 3)
        assert bob == [[40, 30, 20], [10]]
        assert await numbers(app, AuditFilter(by="bob", what="rollout"), 5) == [[]]
        [[one]] = await numbers(app, AuditFilter(what="thing-17"), 5)
        assert one == 17


async def test_one_question_reads_a_bounded_part_and_says_where_to_go_on(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_PAGE", 5)
    monkeypatch.setattr(audit, "MOST_READ", 10)
    async with Aura("test", config=Config(database=database)) as app:
        await written(app, 30)
        first = await newest(app, AuditFilter(what="thing-3"), limit=50)
        assert [one.number for one in first.entries] == [30]
        assert first.next is not None
        pages = await numbers(app, AuditFilter(what="thing-3"), 50)
        assert [one for page in pages for one in page] == [30, 3]


async def test_reading_writes_nothing(database: str) -> None:
    async with Aura("test", config=Config(database=database)) as app:
        await written(app, 2)
        await newest(app)
        assert len((await audit.read_log(app)).entries) == 2
