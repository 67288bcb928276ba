"""Style as failing tests: how the house is built, and that its documents tell the truth.

Every rule is tested twice: on the project, where it must find nothing, and on planted offences,
which it must find.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import aura
from tests.tidy_rules import (
    ENTRY_POINTS,
    MAX_PUBLIC_NAMES,
    Block,
    all_modules,
    blocks,
    blocks_of,
    check_clocks,
    check_dead_modules,
    check_import_directions,
    check_pickles_and_evals,
    check_plan,
    check_public_names,
    check_sizes,
    check_sql,
    check_third_parties,
    documents,
    module,
    own_modules,
    plans,
    run_block,
    scripts,
)

# -- the project -------------------------------------------------------------------------------


def test_imports_go_in_one_direction() -> None:
    assert "\n".join(check_import_directions(own_modules())) == ""


def test_third_party_imports_are_where_they_belong() -> None:
    assert "\n".join(check_third_parties(own_modules())) == ""


def test_no_module_is_dead() -> None:
    assert "\n".join(check_dead_modules(own_modules(), [*ENTRY_POINTS, *scripts()])) == ""


def test_functions_modules_and_parameter_lists_are_short() -> None:
    assert "\n".join(check_sizes(all_modules())) == ""


def test_sql_is_in_the_store_and_integrations_only() -> None:
    assert "\n".join(check_sql(own_modules())) == ""


def test_only_the_clock_reads_the_time() -> None:
    assert "\n".join(check_clocks(own_modules())) == ""


def test_nothing_is_pickled_or_evaluated() -> None:
    assert "\n".join(check_pickles_and_evals(own_modules())) == ""


def test_public_names_are_few_documented_and_explained() -> None:
    assert 0 < len(aura.__all__) <= MAX_PUBLIC_NAMES
    texts = documents().values()
    complaints = check_public_names(aura.__all__, lambda name: getattr(aura, name), texts)
    assert "\n".join(complaints) == ""


def test_the_readme_shows_code() -> None:
    assert any(block.document == "README.md" and block.runs for block in blocks("python"))


@pytest.mark.parametrize("block", blocks("python"), ids=lambda b: f"{b.document}:{b.line}")
def test_python_in_documents_runs(block: Block, tmp_path: Path) -> None:
    if not block.runs:
        pytest.skip("marked as no-run, with a reason")
    assert run_block(block, tmp_path) == ""


@pytest.mark.parametrize("block", plans(), ids=lambda b: f"{b.document}:{b.line}")
def test_plans_in_documents_can_be_followed(block: Block) -> None:
    assert check_plan(block) == ""


# -- the rules themselves ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "complains"),
    [
        ("aura.engine.run", "from aura.delivery import split", True),
        ("aura.engine.run", "import aura.delivery.split", True),
        ("aura.engine.run", "from ..delivery import split", True),
        ("aura.engine.run", "from aura import app", True),
        ("aura.engine.run", "from aura.store import sqlite", True),
        ("aura.engine.run", "from aura.store import base", False),
        ("aura.engine.run", "from aura.store.base import Store", False),
        ("aura.engine.run", "from .step import step", False),
        ("aura.engine.run", "from aura import errors", False),
        ("aura.delivery.loop", "from aura.engine import step", False),
        ("aura.delivery.loop", "from aura.engine.step import step", True),
        ("aura.delivery.loop", "def f():\n    from aura.insight import x", True),
        ("aura.stats.windows", "from aura.codec import encode", True),
        ("aura.app", "from aura.delivery import split", False),
        ("aura.app", "from aura.cli import main", True),
        ("aura.app", "from aura.integrations import ray", True),
        ("aura.app", "def f():\n    from aura.integrations import ray", False),
        ("aura.cli.main", "from aura import Aura", False),
        ("aura.misc", "import json", True),
    ],
)
def test_import_rule(name: str, source: str, complains: bool) -> None:
    others = ["app", "errors", "delivery.split", "store.base", "store.sqlite", "engine.step"]
    known = [module(f"aura.{each}", "") for each in others if f"aura.{each}" != name]
    assert bool(check_import_directions([*known, module(name, source)])) is complains


@pytest.mark.parametrize(
    ("name", "source", "complains"),
    [
        ("aura.stats.a", "import numpy", True),
        ("aura.stats.a", "import math", False),
        ("aura.clock", "def f():\n    import uvloop", True),
        ("aura.integrations.ray", "import ray", False),
        ("aura.integrations.ray", "import ray\nimport redis", True),
        ("aura.engine.a", "from anyio import run", True),
    ],
)
def test_third_party_rule(name: str, source: str, complains: bool) -> None:
    assert bool(check_third_parties([module(name, source)])) is complains


def test_dead_module_rule() -> None:
    living = [
        module("aura", "from aura.app import Aura", is_package=True),
        module("aura.app", "def f():\n    from .engine import run\n    return 'aura.worker'"),
        module("aura.engine", "", is_package=True),
        module("aura.engine.run", "from aura.engine.step import step"),
        module("aura.engine.step", ""),
        module("aura.worker", ""),
    ]
    island = [module("aura.a", "import aura.b"), module("aura.b", '"""aura.a"""\nimport aura.a')]
    assert check_dead_modules(living, ["aura"]) == []
    assert len(check_dead_modules(living + island, ["aura"])) == 2


@pytest.mark.parametrize(
    ("source", "complains"),
    [
        ("def f():\n" + "    x = 1\n" * 69, False),
        ("def f():\n" + "    x = 1\n" * 70, True),
        ("x = 1\n" * 600, False),
        ("x = 1\n" * 601, True),
        ("class A:\n    def f(self, a, b, c, d, e, f, g, *, h): ...", False),
        ("async def f(a, b, c, d, e, f, g, *h, **i): ...", True),
    ],
)
def test_size_rule(source: str, complains: bool) -> None:
    assert bool(check_sizes([module("aura.a", source)])) is complains


@pytest.mark.parametrize(
    ("source", "complains"),
    [
        ("x = 'SELECT 1'", True),
        ("x = f'INSERT INTO {t} VALUES (1)'", True),
        ('x = """\n  select a, b\n  from runs"""', True),
        ("x = 'update runs set a = 1'", True),
        ("x = 'PRAGMA journal_mode'", True),
        ("x = 'Select a version from the catalog'", False),
        ("x = 'select one. It comes from here'", False),
        ('"""SELECT 1"""', False),
        ("def f():\n    'DELETE FROM runs'", False),
    ],
)
def test_sql_rule(source: str, complains: bool) -> None:
    assert bool(check_sql([module("aura.engine.a", source)])) is complains
    assert check_sql([module("aura.store.a", source)]) == []


@pytest.mark.parametrize(
    ("source", "complains"),
    [
        ("import time\ntime.time()", True),
        ("import time\nnow = time.monotonic", True),
        ("from time import time", True),
        ("from datetime import datetime\ndatetime.now()", True),
        ("import datetime\ndatetime.datetime.now()", True),
        ("asyncio.get_running_loop().time()", True),
        ("self.loop.time()", True),
        ("await asyncio.sleep(1)", True),
        ("await asyncio.sleep(0)", False),
        ("await clock.sleep(1)\nclock.now()", False),
        ("datetime.fromtimestamp(clock.now())", False),
    ],
)
def test_clock_rule(source: str, complains: bool) -> None:
    wrapped = "async def f():\n    " + source.replace("\n", "\n    ")
    assert bool(check_clocks([module("aura.engine.a", wrapped)])) is complains
    assert check_clocks([module("aura.clock", wrapped)]) == []


@pytest.mark.parametrize(
    ("source", "complains"),
    [
        ("import pickle", True),
        ("from marshal import loads", True),
        ("eval('1')", True),
        ("exec('1')", True),
        ("import json\nmodel.eval()", False),
    ],
)
def test_pickle_rule(source: str, complains: bool) -> None:
    assert bool(check_pickles_and_evals([module("aura.a", source)])) is complains


DOCUMENT = """```python
print(1)
```
text
<!-- no-run: needs a network -->
```python
raise
```
~~~
````yaml
```python
````
"""


def test_blocks_are_found_with_their_lines() -> None:
    found = [(b.language, b.line, b.runs) for b in blocks_of("a.md", DOCUMENT)]
    assert found == [("python", 2, True), ("python", 7, False), ("yaml", 11, True)]


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("x = 1", ""),
        ("import asyncio\nawait asyncio.sleep(0)", ""),
        ("1 / 0", "ZeroDivisionError"),
        ("x = (", "SyntaxError"),
        ("await undefined()", "NameError"),
    ],
)
def test_running_a_block_tells_what_went_wrong(code: str, wrong: str, tmp_path: Path) -> None:
    outcome = run_block(Block("a.md", 40, "python", code, True), tmp_path)
    assert wrong in outcome
    assert bool(outcome) is bool(wrong)
    assert not wrong or "line 40" in outcome


def test_plan_rule() -> None:
    good = "rollout: {name: a, baseline: b, candidate: c, guards: [errors: {}], stages: [100%]}\n"
    assert check_plan(Block("a.md", 2, "yaml", good, True)) == ""
    bad = Block("a.md", 2, "yaml", good.replace("100%", "lots"), True)
    assert "a.md:2" in check_plan(bad)
    document = f"```yaml\n{good}```\n```yaml\na: 1\n```\n```text\n{good}```\n"
    assert len(list(plans({"a.md": document}))) == 1


def test_public_name_rule() -> None:
    @dataclass
    class Bare:
        x: int

    class Told:
        """Something."""

    values = {"Bare": Bare, "Told": Told, "version": "1"}
    texts = ["Use `Told(1)`.", "```python\nprint(version)\n```", "Bare is only prose"]
    assert check_public_names(values, values.__getitem__, texts) == [
        "aura.Bare has no docstring",
        "aura.Bare is in no document",
    ]
