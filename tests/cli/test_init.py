"""`aura init`: what it makes runs, and its test passes, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Aura

OFFLINE = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env={**os.environ, **OFFLINE},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_new_project_runs_and_its_test_passes(aura: Aura, project: Path) -> None:
    made = aura("init", "My-flows", "--json").json
    folder = project / "My-flows"
    assert made["module"] == "my_flows"
    assert sorted(made["files"]) == sorted(
        f"My-flows/{one.relative_to(folder)}" for one in folder.rglob("*") if one.is_file()
    )
    ran = python(
        folder, "aura.cli.main", "run", "my_flows:app", "hello", '"world"', "--id", "first"
    )
    assert (ran.returncode, ran.stdout) == (0, '"Hello, world!"\n'), ran.stderr
    tested = python(folder, "pytest", "-q")
    assert tested.returncode == 0, tested.stdout
    assert "3 passed" in tested.stdout
    checked = python(folder, "ruff", "check", "--isolated", ".")
    assert checked.returncode == 0, checked.stdout
    told = tomllib.loads((folder / "pyproject.toml").read_text())
    assert told["project"]["name"] == "My-flows"
    assert told["project"]["dependencies"][0].startswith("aura-workflows>=")
    everything = "".join((project / one).read_text() for one in made["files"])
    assert "{{" not in everything
    for name in (".gitignore", ".env.example", "README.md"):
        assert (folder / name).read_text()


def test_what_to_do_next_needs_nothing_that_is_not_said(aura: Aura, project: Path) -> None:
    said = [line.strip() for line in aura("init", "flows").err.splitlines()[1:]]
    assert said == [
        "cd flows",
        "python -m pip install -e '.[test]'",
        "aura run flows:app hello '\"world\"'",
        "python -m pytest",
    ]
    told = tomllib.loads((project / "flows" / "pyproject.toml").read_text())["project"]
    assert any(one.startswith("pytest") for one in told["optional-dependencies"]["test"])
    readme = (project / "flows" / "README.md").read_text()
    assert readme.index(said[1]) < readme.index(said[3])


@pytest.mark.parametrize(
    "name", ["", "7flows", "a b", "class", "aura", "os", "a/..", "ä", "-x", "a" * 80]
)
def test_names_that_are_none(aura: Aura, project: Path, name: str) -> None:
    ended = aura("init", "--", name)
    assert ended.code == 1
    assert ended.err.startswith("Error: ")
    assert ended.err.count("\n") == 1
    assert {one.name for one in project.iterdir()} == {"research.py", "aura.yaml"}


def test_nothing_is_overwritten(aura: Aura, project: Path) -> None:
    (project / "taken").mkdir()
    (project / "taken" / "file").write_text("mine")
    (project / "file").write_text("mine")
    for name in ("taken", "file"):
        ended = aura("init", name)
        assert (ended.code, "already" in ended.err) == (1, True)
    assert [one.name for one in (project / "taken").iterdir()] == ["file"]
    (project / "empty").mkdir()
    assert aura("init", "empty").code == 0
