"""No face of a server shows secrets; what is stored and what workflows get has them."""

from __future__ import annotations

import json

import httpx
import pytest

import aura
from aura import Aura, Config, step
from aura.codec import plain
from aura.masking import Masking
from aura.server.serving import Serving
from aura.server.tokens import create
from tests.server.kit import client

SECRET = "hunter2-the-secret"  # noqa: S105
PATHS = (
    "/api/v1/runs/r",
    "/api/v1/runs/r?full=true",
    "/api/v1/runs/r/result",
    "/api/v1/runs/r/state",
    "/api/v1/runs/r/streams/shown",
    "/api/v1/runs/bad",
    "/api/v1/runs",
)


def make_app(*, admins_see_all: bool = False) -> Aura:
    masking = Masking(admins_see_all=admins_see_all)
    app = Aura("masked", config=Config(database=":memory:", masking=masking))

    @step
    async def log_in(password: str, user: str) -> dict[str, str]:
        assert password == SECRET  # what workflows get is not masked
        return {"access_token": SECRET, "user": user}

    @app.workflow(version="1.0.0")
    async def session(login: dict[str, str]) -> dict[str, str]:
        aura.set_state("login", login)
        aura.set_state("api_key", SECRET)
        aura.stream("shown").write({"client_secret": SECRET})
        found = await log_in(login["password"], login["user"])
        assert found["access_token"] == SECRET
        return found

    @app.workflow(version="1.0.0")
    async def bad() -> None:
        raise ValueError(f"cannot log in with password={SECRET} at postgresql://u:{SECRET}@db/x")

    return app


async def run_both(app: Aura) -> None:
    login = {"user": "ada", "password": SECRET}
    await (await app.start("session", login, id="r")).result()
    with pytest.raises(aura.RunFailed):
        await (await app.start("bad", id="bad")).result()


async def texts(http: httpx.AsyncClient, token: str = "") -> list[str]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answers = [await http.get(path, headers=headers) for path in PATHS]
    assert [one.status_code for one in answers] == [200] * len(PATHS), [
        (path, one.text[:200])
        for path, one in zip(PATHS, answers, strict=True)
        if one.status_code != 200
    ]
    return [one.text for one in answers]


async def test_no_answer_has_a_secret_and_the_store_has_all() -> None:
    app = make_app()
    async with Serving(app, None) as serving, client(serving) as http:
        await run_both(app)
        found = await texts(http)
        assert all(SECRET not in text for text in found)
        assert json.loads(found[2])["output"]["value"] == {"access_token": "***", "user": "ada"}
        assert json.loads(found[3])["state"]["login"] == {"user": "ada", "password": "***"}
        record = await app.run("r").record()
        assert plain(record.input) == {"login": {"user": "ada", "password": SECRET}}
        assert plain(record.output) == {"access_token": SECRET, "user": "ada"}
        journal = await app.store.journal("r")
        assert any(SECRET in json.dumps(plain(one.input)) for one in journal if one.input)


@pytest.mark.parametrize("opened", [False, True])
async def test_admins_see_all_only_when_that_is_configured(opened: bool) -> None:
    app = make_app(admins_see_all=opened)
    async with Serving(app, None) as serving, client(serving) as http:
        await run_both(app)
        roles = ("viewer", "operator", "admin")
        tokens = [(await create(app, role, role))[1] for role in roles]
        for role, token in zip(roles, tokens, strict=True):
            seen = [SECRET in text for text in await texts(http, token)]
            expected = opened and role == "admin"
            assert seen == [expected] * len(PATHS), role
