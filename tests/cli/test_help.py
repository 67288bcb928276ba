"""Every command helps: what it does, its options, examples that are commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from aura.cli.main import command
from aura.cli.parts import PARTS
from tests.cli.conftest import Aura

Path = tuple[str, ...]

GROUPS: set[Path] = {("runs",), ("rollout",), ("queues",)}


def commands(node: Any = None, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    node = node or command()
    for name, child in getattr(node, "commands", {}).items():
        yield (*path, name), child
        yield from commands(child, (*path, name))


ALL = dict(commands())
GROUPS = {path for path, node in ALL.items() if getattr(node, "commands", None)}
LEAVES = [path for path in ALL if path not in GROUPS]


UNSAID = {("decommission", "start")}  # what is meant when no other command of the group is named


def test_the_commands_are_these() -> None:
    wanted = {
        "": "init top serve worker run doctor gc promote replay apply rollback",
        "runs": "list watch show cancel signal update state stream requeue retry fork export "
        "import bulk reward",
        "rollout": "start status advance hold pause resume retry rollback skip approve history "
        "backtest",
        "experiment": "plan start list status stop reward report",
        "catalog": "list show diff deprecate",
        "schedules": "list show put pause resume trigger backfill delete",
        "queues": "list show",
        "workers": "list show",
        "splits": "list show",
        "audit": "list",
        "shadow": "report list clear",
        "contract": "infer check",
        "topics": "list show read emit replay forget",
        "flows": "list show evaluate release start stop status",
        "decommission": "start status undo",
        "dlq": "list show requeue drop bulk",
        "token": "create list revoke",
    }
    paths = {(*filter(None, [group]), name) for group in wanted for name in wanted[group].split()}
    assert paths <= set(LEAVES) <= paths | {("demo",)}


@pytest.mark.parametrize("path", list(ALL), ids=" ".join)
def test_help_says_what_it_does(aura: Aura, path: Path) -> None:
    ended = aura(*path, "--help")
    assert ended.code == 0
    assert ended.err == ""
    assert f"Usage: aura {' '.join(path)}" in ended.out


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_has_an_example_and_json(path: Path) -> None:
    assert re.search(r"Examples?:\n +aura ", ALL[path].help or ""), f"{path} shows no example"
    assert "--json" in {name for one in ALL[path].params for name in one.opts}


def test_the_help_of_all_says_what_each_command_says_of_itself() -> None:
    for part in PARTS:
        assert ALL[part.name,].get_short_help_str(200) == part.help
        assert ((part.name,) in GROUPS) == part.group


def test_only_the_branch_is_loaded_that_is_used() -> None:
    code = (
        "import sys\n"
        "from aura.cli.main import main\n"
        "main(['--help'])\n"
        "late = {'aura.app', 'aura.delivery', 'aura.engine', 'asyncpg', 'aiohttp', 'fastapi'}\n"
        "sys.exit(', '.join(late & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(part.name in done.stdout for part in PARTS)


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_examples_are_commands_that_exist(aura: Aura, path: Path) -> None:
    shown = re.findall(r"^ *(aura (?:\w+ ?)+)", aura(*path, "--help").out, re.MULTILINE)
    examples = [line.split()[1:] for line in shown]
    assert examples, "no examples"
    whole = path[:-1] if path in UNSAID else path
    for words in examples:
        assert tuple(words[: len(whole)]) == whole


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_can_print_json(path: Path) -> None:
    assert any("--json" in one.opts for one in ALL[path].params)


@pytest.mark.parametrize("path", [(), *sorted(GROUPS)], ids=" ".join)
def test_a_group_alone_shows_its_help_once(aura: Aura, path: Path) -> None:
    ended = aura(*path)
    assert ended.code == 2
    assert (ended.out + ended.err).count("Usage: aura") == 1


def test_the_version(aura: Aura) -> None:
    ended = aura("--version")
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", ended.out)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["run", "research:app"],
        ["runs", "list", "--limit", "many"],
        ["runs", "list", "--limit", "0"],
        ["runs", "show"],
        ["runs", "list", "--unknown"],
        ["serve", "research:app", "--port", "70000"],
        ["rollout", "start"],
        ["run", "research:app", "research", "--timeout", "0"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_paragraph_and_exit_2(aura: Aura, arguments: list[str]) -> None:
    ended = aura(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("Error: ")
    assert ended.err.count("\n") == 1
    assert "--help" in ended.err
