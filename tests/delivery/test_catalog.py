"""The catalog: what apps, files, people and replays say about versions, in both stores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal

import pytest

from aura import Aura, Config
from aura.delivery.admission import judge
from aura.delivery.catalog import Row
from aura.delivery.catalog_values import CatalogVersion, Facts
from aura.delivery.plan import Pair, parse_plan
from aura.errors import (
    CatalogError,
    ConfigError,
    Incompatible,
    InvalidInput,
    RangeError,
    RegistrationError,
    UnknownWorkflow,
)
from aura.store.base import Op, PutDocument
from tests.delivery.rollout_kit import spy_on_commits

PLAN = """
rollout:
  name: {name}
  split: s
  baseline: {baseline}
  candidate: {candidate}
  guards: [errors: {{}}]
  stages: [50%, 100%]
"""


def plan(baseline: str, candidate: str, name: str = "p", **changes: Any) -> Any:
    made = parse_plan(PLAN.format(name=name, baseline=baseline, candidate=candidate))
    return replace(made, **changes)


async def returns_text(text: str) -> str:
    return text


async def returns_more(text: str, times: int = 1) -> str:
    return text * times


async def returns_number(text: str, mode: Literal["a", "b"]) -> int:
    return len(text)


VERSIONS: dict[str, Callable[..., Awaitable[Any]]] = {
    "1.0.0": returns_text,
    "1.2.0": returns_more,
    "1.3.0-rc.1": returns_more,
    "2.0.0": returns_number,
}


def app_with(database: str, *versions: str, clock: Any = None) -> Aura:
    app = Aura("test", config=Config(database=database, poll=0.05), clock=clock)
    for version in versions:
        app.workflow(version=version, name="research")(VERSIONS[version])
    return app


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_app_registers_its_versions_once(database: str) -> None:
    app = Aura("test", config=Config(database=database))
    app.workflow(
        version="1.0.0", name="research", owner="search", changelog="first", metadata={"tier": (1,)}
    )(returns_text)
    async with app:
        [one] = await app.catalog.versions()
    assert (one.name, one.facts.owner, one.facts.changelog) == ("research@1.0.0", "search", "first")
    assert one.facts.metadata == {"tier": [1]}
    assert (one.facts.input or {})["properties"] == {"text": {"type": "string"}}
    assert one.facts.output == {"type": "string"}
    assert one.first_seen == one.last_seen
    assert one.first_seen is not None
    written: list[Op] = []
    again = Aura("test", config=Config(database=database))
    again.workflow(
        version="1.0.0", name="research", owner="search", changelog="first", metadata={"tier": (1,)}
    )(returns_text)
    async with again.client():
        spy_on_commits(again, written.append)
        assert await again.catalog.versions() == [one]
    assert [op for op in written if isinstance(op, PutDocument)] == []


async def test_the_workflows_of_aura_itself_are_not_in_it(database: str) -> None:
    async with app_with(database) as app:
        assert await app.catalog.versions() == []


async def test_many_apps_at_once_lose_nothing(database: str) -> None:
    apps = [app_with(database, "1.0.0", version) for version in ("1.2.0", "2.0.0", "1.3.0-rc.1")]
    await asyncio.gather(*(app.open(worker=False) for app in apps))
    for app in apps:
        await app.catalog.registered()
    found = await apps[0].catalog.versions("research")
    assert [one.version for one in found] == ["2.0.0", "1.3.0-rc.1", "1.2.0", "1.0.0"]
    await asyncio.gather(*(app.close() for app in apps))


async def test_the_same_version_with_other_types_is_told(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with app_with(database, "1.0.0") as app:
        await app.catalog.registered()
    other = Aura("test", config=Config(database=database))
    other.workflow(version="1.0.0", name="research")(returns_number)
    async with other:
        [one] = await other.catalog.versions()
    assert one.facts.output == {"type": "integer"}
    assert "research 1.0.0 takes or returns other types than before" in caplog.text


async def test_what_a_file_says_counts_before_the_code(database: str) -> None:
    async with app_with(database, "1.0.0") as app:
        await app.catalog.registered()
        filed = Facts("ops", "", {"a": 1}, None, {"type": "null"})
        await app.catalog.apply(CatalogVersion("research", "1.0.0", filed=filed))
        other = Facts(input={"type": "object"})
        await app.catalog.apply(CatalogVersion("legacy", "0.1.0", filed=other))
    async with app_with(database, "1.0.0") as app:  # registers anew, and leaves that alone
        legacy, one = await app.catalog.versions()
    assert (one.facts.owner, one.facts.output) == ("ops", {"type": "null"})
    assert (one.facts.input or {})["required"] == ["text"]
    assert (legacy.name, legacy.first_seen) == ("legacy@0.1.0", None)


@pytest.mark.parametrize(
    "about",
    [
        {"owner": 3},
        {"changelog": "two\nlines"},
        {"changelog": "x" * 501},
        {"metadata": [1]},
        {"metadata": {"f": object()}},
        {"authored": "x"},
    ],
)
def test_nonsense_in_a_declaration(about: Any) -> None:
    app = Aura("test", config=Config(database=":memory:"))
    with pytest.raises(RegistrationError):
        app.workflow(version="1.0.0", **about)(returns_text)


async def test_ranges_start_the_highest_version_that_fits(database: str) -> None:
    async with app_with(database, "1.0.0", "1.2.0", "1.3.0-rc.1", "2.0.0") as app:
        for wanted, version in {
            "research@^1.0": "1.2.0",
            "research@1.0.0": "1.0.0",
            "research@~1.0 || ~1.3.0-0": "1.3.0-rc.1",
            "research@*": "2.0.0",
        }.items():
            arguments = ("abc", "a") if version == "2.0.0" else ("abc",)
            run = await app.start(wanted, *arguments)
            assert (await run.record()).version == version
        run = await app.start("research", "abc", version=">=1 <1.2")
        assert (await run.record()).version == "1.0.0"
        with pytest.raises(UnknownWorkflow, match=r"no version .* is in \^3.* 2\.0\.0"):
            await app.start("research@^3", "abc")
        with pytest.raises(UnknownWorkflow):
            await app.start("nothing@^3", "abc")
        with pytest.raises(UnknownWorkflow):
            await app.start("research", "abc", version="latest")


async def test_the_answer_is_pinned_in_the_journal(database: str) -> None:
    """A child that was started by a range is found again by a process with a newer version."""

    def declared(*versions: str) -> Aura:
        app = app_with(database, *versions)

        @app.workflow(version="1.0.0")
        async def parent() -> str:
            child = await app.start("research@^1", "abc")
            await asyncio.Event().wait() if versions == ("1.0.0",) else None
            return f"{await child.result()} of {child.id.rpartition('/')[2]}"

        return app

    async with declared("1.0.0") as app:
        run = await app.start("parent", id="p")
        async with asyncio.timeout(60):
            while not any("start" in one.key for one in await app.store.journal("p")):
                await asyncio.sleep(0.01)
    async with declared("1.0.0", "1.2.0") as app:
        run = app.run("p")
        assert await run.result(timeout=60) == "abc of start:research#1"
        children = await app.store.runs_by_id(["p/0/start:research#1"])
        assert [child.version for child in children] == ["1.0.0"]


async def test_a_name_with_an_at_sign_is_a_name(database: str) -> None:
    app = Aura("test", config=Config(database=database))
    app.workflow(version="3.0.0", name="mail@1.0.0")(returns_text)
    async with app:
        run = await app.start("mail@1.0.0", "abc")
        assert (await run.record()).version == "3.0.0"


async def test_runs_that_runs_start_are_counted_too(database: str) -> None:
    app = app_with(database, "1.0.0")

    @app.workflow(version="1.0.0")
    async def parent() -> str:
        child = await app.start("research@1.0.0", "a")
        return str(await child.result())

    async with app:
        await app.catalog.deprecate("research@1.0.0", why="too slow")
        await until(lambda: app.catalog.deprecation("research", "1.0.0") is not None)
        assert await (await app.start(parent)).result() == "a"
        assert app.catalog.deprecated_starts == {("research", "1.0.0"): 1}


async def test_a_deprecated_version_warns_once_and_is_counted(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "aura.catalog")
    async with app_with(database, "1.0.0", "1.2.0") as app:
        await (await app.start("research@1.0.0", "a")).result()
        assert app.catalog.deprecated_starts == {}
        async with app_with(database).client() as person:
            said = await person.catalog.deprecate(
                "research@1.0.0", why="too slow", replacement="^1.2", by="ada"
            )
        assert (said.starts, said.deprecated and said.deprecated.by) == (0, "ada")
        await until(lambda: app.catalog.deprecation("research", "1.0.0") is not None)
        for _ in range(3):
            assert await (await app.start("research@1.0.0", "a")).result() == "a"
        assert app.catalog.deprecated_starts == {("research", "1.0.0"): 3}
    assert caplog.text.count("research 1.0.0 is deprecated: too slow; take ^1.2 in its place") == 1
    async with app_with(database, "1.0.0", "1.2.0").client() as app:
        assert (await app.catalog.version("research@1.0.0")).starts == 3
        chosen = await app.start("research@<=1.2.0", "a")  # what is not deprecated goes first
        assert (await chosen.record()).version == "1.2.0"
        run = await app.start("research@<1.2.0", "a")
        assert (await run.record()).version == "1.0.0"
        again = await app.catalog.deprecate("research@1.0.0", why="much too slow")
        assert again.starts >= 3
        assert again.deprecated is not None
        assert again.deprecated.since == said.deprecated.since  # type: ignore[union-attr]
        back = await app.catalog.restore("research@1.0.0")
        assert (back.deprecated, back.starts) == (None, 0)


async def test_nonsense_for_deprecate(database: str) -> None:
    async with app_with(database, "1.0.0") as app:
        for named in ("research", "research@9.9.9", "nothing@1.0.0", "research@^9"):
            with pytest.raises(CatalogError):
                await app.catalog.deprecate(named, why="x")
        with pytest.raises(InvalidInput):
            await app.catalog.deprecate("research@1.0.0", why=" ")
        with pytest.raises(RangeError):
            await app.catalog.deprecate("research@1.0.0", why="x", replacement="soon")


async def test_the_matrix_and_replays(database: str) -> None:
    async with app_with(database, "1.0.0", "1.2.0", "2.0.0") as app:
        versions = await app.catalog.versions("research")
        rows = [Row("research", "1.0.0", "2.0.0", 10, 2, ("run x: mismatch",))]
        await app.catalog.record([*rows, Row("research", "1.0.0", "1.2.0", 10, 0, ())])
        matrix = await app.catalog.matrix(versions)
    shown = {
        (one.old[9:], one.new[9:]): "/".join(
            part.verdict[0] for part in (one.inputs, one.outputs, one.runs)
        )
        for row in matrix
        for one in row
    }
    assert shown == {
        ("1.0.0", "1.0.0"): "c/c/u",
        ("1.0.0", "1.2.0"): "c/c/c",
        ("1.0.0", "2.0.0"): "i/i/i",
        ("1.2.0", "1.0.0"): "i/c/u",
        ("1.2.0", "1.2.0"): "c/c/u",
        ("1.2.0", "2.0.0"): "i/i/u",
        ("2.0.0", "1.0.0"): "i/i/u",
        ("2.0.0", "1.2.0"): "i/i/u",
        ("2.0.0", "2.0.0"): "c/c/u",
    }


async def test_an_incompatible_plan_does_not_start(database: str) -> None:
    async with app_with(database, "1.0.0", "1.2.0", "2.0.0") as app:
        with pytest.raises(Incompatible) as refused:
            await app.rollouts.start(plan("research@1.0.0", "research@2.0.0"))
        assert refused.value.reasons == (
            "research@2.0.0: input mode: required by 2.0.0, not sent by callers of 1.0.0",
            "research@2.0.0: output result: integer from 2.0.0, only string accepted by "
            "readers of 1.0.0",
        )
        assert "aura catalog diff research@1.0.0 research@2.0.0" in str(refused.value)
        assert await app.rollouts.all() == []
        started = await app.rollouts.start(
            plan("research@1.0.0", "research@2.0.0"), incompatible="the adapter translates"
        )
        assert started.candidate == "research@2.0.0"
        found = await app.catalog.compare("research@1.0.0", "research@2.0.0")
        [override] = found.overrides
        assert (override.rollout, override.reason) == ("p", "the adapter translates")


async def test_a_plan_with_ranges_is_pinned_when_it_starts(database: str) -> None:
    async with app_with(database, "1.0.0", "1.2.0", "1.3.0-rc.1") as app:
        status = await app.rollouts.start(plan("research@1.0.0", "research@^1.0"))
        assert status.candidate == "research@1.2.0"
        together = (Pair("t", "legacy", "research@~1.2"),)
        found = await judge(app.catalog, plan("research@1.0.0", "research@^1", together=together))
        assert found.plan.together == (Pair("t", "legacy", "research@1.2.0"),)
        assert found.reasons == ()


@pytest.mark.parametrize(
    ("baseline", "candidate", "told"),
    [
        ("research@0.9.0", "research@1.2.0", "no version 0.9.0 of research"),
        ("research@1.0.0", "research@^7", r"no version \^7 of research"),
        ("legacy@^1", "research@1.2.0", "no workflow legacy"),
        ("research@1.2.0", "research@^1", "baseline and candidate are both"),
    ],
)
async def test_arms_that_do_not_exist(
    database: str, baseline: str, candidate: str, told: str
) -> None:
    async with app_with(database, "1.0.0", "1.2.0") as app:
        with pytest.raises(ConfigError, match=told):
            await app.rollouts.start(plan(baseline, candidate))
        assert await app.rollouts.all() == []


async def test_what_is_unknown_is_shown_and_not_refused(database: str) -> None:
    app = app_with(database, "1.0.0")

    @app.workflow(version="1.1.0", name="research")
    async def untyped(text):  # type: ignore[no-untyped-def]  # that is the point
        return text

    async with app:
        found = await judge(app.catalog, plan("research@1.0.0", "research@1.1.0"))
        assert found.reasons == ()
        assert found.unknown == (
            "whether research@1.1.0 fits the output of research@1.0.0 is unknown: "
            "result: 1.1.0: no type is given",
        )
        other = await judge(app.catalog, plan("legacy", "research@1.1.0"))
        assert (other.reasons, other.unknown) == ((), ())


async def test_runs_that_would_be_forked_must_go_on(database: str) -> None:
    async with app_with(database, "1.0.0", "1.2.0") as app:
        forking = plan("research@1.0.0", "research@^1.2", in_flight="fork")
        assert (await judge(app.catalog, forking)).reasons == ()
        await app.catalog.record([Row("research", "1.2.0", "1.0.0", 5, 1, ())])
        assert (await judge(app.catalog, forking)).reasons == (
            "research@1.2.0: runs 1 of 5 histories diverge on research@1.0.0, and in_flight is "
            "`fork`",
        )


async def test_a_catalog_that_cannot_be_read_does_not_stop_the_app(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with app_with(database).client() as app:
        await app.committer.submit(PutDocument("catalog", "research@1.0.0", b'{"broken": 1}'))
    async with app_with(database, "1.0.0") as app:
        assert await (await app.start("research@1.0.0", "a")).result() == "a"
        with pytest.raises(CatalogError, match="cannot be read"):
            await app.catalog.versions()
    assert "the catalog is not up to date" in caplog.text
