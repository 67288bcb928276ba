"""What API and command line share: pages of runs, cursors, arguments from outside."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import InvalidInput, RunNotFound, UnknownWorkflow
from aura.server import operations
from aura.server.operations import list_runs, read_cursor, split_arguments, write_cursor
from tests.server.kit import make_app

STORABLE = st.characters(exclude_characters="\x00", exclude_categories=["Cs"])


@given(st.floats(0, 1e12), st.text(STORABLE, min_size=1))
def test_a_cursor_comes_back_as_it_was(at: float, run_id: str) -> None:
    text = write_cursor(at, run_id)
    assert text.isascii()
    assert read_cursor(text) == (at, run_id)


@given(st.text())
def test_any_other_text_is_refused_as_a_cursor(text: str) -> None:
    with pytest.raises(InvalidInput, match="unchanged"):
        read_cursor(text)


@pytest.mark.parametrize(
    "document", ["[]", "[1]", '[1, "a"]', '["a", 1.0]', '[1.0, "a\\u0000"]', "{}", "null"]
)
def test_a_cursor_of_another_shape_is_refused(document: str) -> None:
    with pytest.raises(InvalidInput):
        read_cursor(base64.urlsafe_b64encode(document.encode()).decode())


async def test_pages_have_every_run_once_newest_first() -> None:
    async with make_app() as app:
        runs = [await app.start("research", "text", id=f"r{at}") for at in range(5)]
        for run in runs:
            await run.result()
        seen: list[str] = []
        cursor: str | None = None
        for _ in range(3):
            page = await list_runs(app, limit=2, cursor=cursor)
            seen += [run.id for run in page.runs]
            cursor = page.next
        assert seen == ["r4", "r3", "r2", "r1", "r0"]
        assert cursor is None


async def test_lists_are_filtered_and_refuse_what_they_cannot_mean() -> None:
    async with make_app() as app:
        await (await app.start("research", "text", id="good")).result()
        with pytest.raises(Exception, match="no good"):
            await (await app.start("broken", "no good", id="bad")).result()
        failed = await list_runs(app, state="failed")
        assert [(run.id, run.error and run.error.message) for run in failed.runs] == [
            ("bad", "no good")
        ]
        assert [run.id for run in (await list_runs(app, workflow="research")).runs] == ["good"]
        assert (await list_runs(app, workflow="a\x00b")).runs == ()
        wrongs: list[dict[str, Any]] = [{"state": "lost"}, {"limit": 0}, {"limit": 501}]
        for wrong in (*wrongs, {"cursor": "x"}):
            with pytest.raises(InvalidInput):
                await list_runs(app, **wrong)


@pytest.mark.parametrize("run_id", ["missing", "a\x00b", "\ud800"])
async def test_a_run_that_is_not_there_is_not_found(run_id: str) -> None:
    async with make_app() as app:
        with pytest.raises(RunNotFound):
            await operations.show_run(app, run_id)
        with pytest.raises(RunNotFound):
            await operations.cancel_run(app, run_id)


async def test_an_overview_counts_runs() -> None:
    async with make_app() as app:
        for at in range(3):
            await (await app.start("research", "text", id=f"r{at}")).result()
        found = await operations.overview(app)
        assert found.runs == dict.fromkeys(operations.STATES, 0) | {"completed": 3}
        assert [worker.live for worker in found.workers] == [True]


@pytest.mark.parametrize(
    ("arguments", "split"),
    [
        ({"id": "a"}, (["a"], {})),
        ({"id": "a", "version": 5}, (["a", 5], {})),
        ({"id": "a", "note": "n"}, (["a"], {"note": "n"})),
        ({"version": 5, "note": "n", "id": "a"}, (["a", 5], {"note": "n"})),
    ],
)
async def test_arguments_named_as_those_of_start_go_by_position(
    arguments: dict[str, Any], split: tuple[list[Any], dict[str, Any]]
) -> None:
    app = make_app()
    assert split_arguments(app, "named", None, arguments) == split
    async with app:
        run = await app.start("named", *split[0], id="own-id", **split[1])
        whole = {"version": 3, "note": ""} | arguments
        assert await run.result() == f"{whole['id']}/{whole['version']}/{whole['note']}"
        assert run.id == "own-id"


def test_data_from_outside_cannot_choose_the_runs_id_or_version() -> None:
    app = make_app()
    for injected in ("id", "version", "workflow", "self"):
        with pytest.raises(InvalidInput, match=injected):
            split_arguments(app, "research", None, {"text": "t", injected: "x"})
    with pytest.raises(UnknownWorkflow):
        split_arguments(app, "missing", None, {"id": "x"})


def test_a_default_before_a_reserved_name_is_filled_in() -> None:
    app = make_app()

    @app.workflow(version="1.0.0")
    async def late(first: int = 7, id: str = "") -> str:
        return f"{first}{id}"

    assert split_arguments(app, "late", None, {"id": "x"}) == ([7, "x"], {})


def test_a_reserved_name_by_keyword_only_is_refused() -> None:
    app = make_app()

    @app.workflow(version="1.0.0")
    async def strict(*, id: str) -> str:
        return id

    with pytest.raises(InvalidInput, match="by name only"):
        split_arguments(app, "strict", None, {"id": "x"})
