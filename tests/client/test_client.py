"""What only a client has: tokens, pages, many at once, what is told of the server's own shapes."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from aura.client import Client, values
from aura.client.trouble import KINDS, error_of
from aura.engine import RunFilter
from aura.errors import (
    AccessDenied,
    AuraError,
    ConfigError,
    InvalidInput,
    NonRetryable,
    RunFailed,
    RunNotFound,
    UnknownFlow,
)
from aura.server import bulk, starting, tokens, views
from aura.server.problems import CODES, problem_of
from aura.server.tokens import create
from tests.client.conftest import Served
from tests.client.kit import broken_flow, measures_flow, waits_flow


async def test_roles_hold(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "FRESH", 0.0)
    _, admin = await create(served.app, "ann", "admin")
    _, viewer = await create(served.app, "vic", "viewer")
    async with Client(served.url, token=admin) as app:
        await (await app.start(measures_flow, 1.0, id="m")).result(60)
    async with Client(served.url, token=viewer) as app:
        assert [one.id for one in await app.runs()] == ["m"]
        assert await app.run("m", measures_flow).result() == 1.0
        with pytest.raises(AccessDenied, match="operator") as told:
            await app.start(measures_flow, 2.0)
        assert told.value.code == "role-too-low"
    async with Client(served.url) as app:
        with pytest.raises(AccessDenied, match=r"Client\(url, token=") as told:
            await app.runs()
        assert told.value.code == "token-missing"


async def test_pages_and_many_at_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.client.client.PAGE", 2)
    async with Client(served.url) as app:
        for at in range(5):
            await app.start(waits_flow, id=f"w{at}")
        await (await app.start(measures_flow, 1.0, id="m")).result(60)
        ids = [one.id async for one in app.each_run(workflow="waits")]
        assert ids == ["w4", "w3", "w2", "w1", "w0"]
        page = await app.page(limit=4, workflow="waits")
        rest = await app.page(limit=4, cursor=page.next, workflow="waits")
        assert ([one.id for one in rest.runs], rest.next) == (["w0"], None)
        assert len(await app.runs(RunFilter(workflow="waits", limit=3))) == 3
        with pytest.raises(InvalidInput, match="each_run"):
            await app.runs(RunFilter(parent="w1"))
        with pytest.raises(InvalidInput):
            await app.page(cursor="!")
        dry = await app.bulk("cancel", workflow="waits", limit=2, dry_run=True)
        assert [one.outcome for one in dry.outcomes] == ["would be done"] * 2
        done = await app.bulk("cancel", ["w0", "nobody"])
        assert [(one.run, one.outcome) for one in done.outcomes] == [
            ("w0", "done"), ("nobody", "run-not-found"),
        ]  # fmt: skip
        with pytest.raises(InvalidInput, match="all runs are meant"):
            await app.bulk("cancel")
        assert (await app.overview())["app"] == "served"


async def test_what_failed_is_tried_again(served: Served) -> None:
    async with Client(served.url) as app:
        run = await app.start(broken_flow, "x", id="b")
        with pytest.raises(RunFailed):
            await run.result(60)
        fork = await run.retry()
        assert fork.id.startswith("b~")
        with pytest.raises(RunFailed, match="LookupError: x"):
            await fork.result(60)
        info = await fork.info()
        assert info.error is not None
        assert (info.state, info.error.type) == ("failed", "LookupError")
        assert (await run.show(full=True))["input"]["value"] == {"text": "x"}
        with pytest.raises(InvalidInput, match="nothing to try again"):
            await (await app.start(waits_flow)).retry()
        with pytest.raises(UnknownFlow, match="aura flows list"):
            await run.reward("model", 0.5)
        with pytest.raises(InvalidInput):
            await run.reward("model", 1.5)
        with pytest.raises(RunNotFound):
            await app.run("nobody").reward("model", 0.5)


async def test_many_wait_at_once(served: Served) -> None:
    async with Client(served.url) as app:
        runs = [await app.start(waits_flow) for _ in range(10)]
        waiting = [asyncio.create_task(run.result()) for run in runs]
        for run in runs:
            await run.signal("never")
        assert await asyncio.wait_for(asyncio.gather(*waiting), 60) == ["heard"] * 10


@pytest.mark.parametrize("kind", [one for one in CODES if one is not AuraError])
def test_every_error_comes_back_as_itself_or_as_a_kind_of_it(kind: type[AuraError]) -> None:
    raised = kind.__new__(kind)
    AuraError.__init__(raised, "it is so", hint="mend it")
    for name in ("status", "code", "field"):
        setattr(raised, name, {"status": 400, "code": "request-refused", "field": "f"}[name])
    problem = problem_of(raised)
    document = {"code": problem.code, "detail": problem.detail, "field": problem.field}
    back = error_of(problem.status, document)
    if kind is AccessDenied:
        assert isinstance(back, AccessDenied)
        return
    assert problem.code in KINDS
    assert CODES[type(back)] == CODES[kind]  # of those that share a code, one
    assert str(back) == "it is so. Mend it"
    assert str(back) == f"{back}"
    repr(vars(back))


def test_errors_that_share_a_code_are_known() -> None:
    shared: dict[str, set[type[AuraError]]] = {}
    for kind, (_, code) in CODES.items():
        shared.setdefault(code, set()).add(kind)
    assert {code for code in shared if code not in KINDS} == set()
    assert all(KINDS[code] in kinds for code, kinds in shared.items())
    assert NonRetryable in shared["not-retryable"]


@pytest.mark.parametrize(
    ("ours", "theirs", "renamed"),
    [
        (values.RunInfo, views.RunView, {"owner": "worker"}),
        (values.ErrorInfo, views.ErrorView, {}),
        (values.RunPage, views.RunList, {}),
        (values.BulkOutcome, bulk.Outcome, {}),
        (values.BulkResult, bulk.BulkView, {}),
        (values.Ended, starting.ResultView, {}),
    ],
)
def test_values_have_the_fields_of_the_servers_views(
    ours: type, theirs: type, renamed: dict[str, str]
) -> None:
    known = [renamed.get(one.name, one.name) for one in dataclasses.fields(ours)]
    assert known == [one.name for one in dataclasses.fields(theirs)]


async def test_a_client_is_opened_and_closed(served: Served) -> None:
    app = Client(served.url)
    with pytest.raises(ConfigError, match="not open"):
        await app.start(waits_flow)
    async with app:
        run = await app.start(waits_flow)
    with pytest.raises(ConfigError, match="not open"):
        await run.status()
    async with app:  # again
        assert await run.cancel()
