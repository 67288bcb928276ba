"""The pages say the same of both databases, and the API does without them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aura import Aura, Config
from aura.errors import MissingExtra
from aura.server import ui
from aura.server.access import Door
from aura.server.metrics import Metrics
from tests.ui.kit import Site, served


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Without a browser: what is in a page is in its text."""
    database = "aura.db"
    if request.param == "postgres":
        database = str(request.getfixturevalue("postgres_url"))
    with served(
        tmp_path, "tests.ui.program:app", environment={"AURA_DATABASE_URL": database}
    ) as found:
        yield found


def test_pages_are_built_from_both_databases(site: Site) -> None:
    site.start("family", "parent", names=["ann"])
    site.start("broken", "bad", text="odd")
    assert site.ended("parent")["state"] == "completed"
    assert site.ended("bad")["state"] == "failed"
    for path, said in (
        ("/", ("Runs by state", "nobody answers about odd")),
        ("/runs", ("parent/0.1/research#1", "completed")),
        ("/runs?state=failed&workflow=broken", ("bad",)),
        ("/runs/parent", ("0.1/research#1", "Children")),
        ("/runs/bad?step=0%2Funreliable%231", ("try 1: ConnectionError", "Traceback")),
    ):
        page = httpx.get(site.url + path, timeout=60)
        assert page.status_code == 200, (path, page.text[-2000:])
        for word in said:
            assert word in page.text, (path, word)
    assert httpx.get(f"{site.url}/raw/runs/bad?part=input", timeout=60).json() == {"text": "odd"}
    odd = httpx.get(f"{site.url}/raw/runs/bad?part=nothing", timeout=60)
    assert (odd.status_code, odd.headers["content-type"]) == (422, "text/plain; charset=utf-8")


def test_without_the_extra_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "find_spec", {}.get)
    app = Aura("bare", config=Config(database=":memory:"))
    assert not ui.installed()
    with pytest.raises(MissingExtra, match=r"pip install 'aura-workflows\[ui\]'"):
        ui.dashboard(app, Door(app), Metrics(app))
