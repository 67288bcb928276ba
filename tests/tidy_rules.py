"""The rules of the house: functions from modules (or texts) to a list of complaints."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aura.delivery.plan import parse_plan
from aura.errors import PlanError

ROOT = Path(__file__).resolve().parents[1]
MAX_FUNCTION, MAX_MODULE, MAX_PARAMETERS, MAX_PUBLIC_NAMES = 70, 600, 8, 30

FOUNDATION = ["aura.errors", "aura.clock", "aura.yamlnodes", "aura.masking", "aura.spans"]
BELOW_APP = [
    *("aura.engine", "aura.delivery", "aura.gateway", "aura.migrate", "aura.insight"),
    *("aura.fleet", "aura.models", "aura.node", "aura.store", "aura.codec", "aura.resilience"),
    *("aura.stats", "aura.testing", "aura.integrations", "aura.telemetry"),
]
# Who may import whom. A trailing "!" allows the package's own public names but no module inside.
MAY_IMPORT: dict[str, list[str]] = {
    "aura": ["aura.app", *BELOW_APP],
    "aura_command": ["aura.cli"],
    "aura.cli": ["aura", "aura.app", "aura.client", "aura.server", *BELOW_APP],
    "aura.server": ["aura", "aura.app", *BELOW_APP],
    "aura.client": [
        *("aura.engine!", "aura.codec", "aura.delivery.status", "aura.delivery.experiment_status"),
        *("aura.delivery.retirement", "aura.delivery.shadow"),
    ],
    "aura.app": BELOW_APP,
    "aura.testing": ["aura.app", "aura.store", "aura.engine", "aura.codec", "aura.resilience"],
    "aura.gateway": ["aura.delivery", "aura.engine", "aura.resilience", "aura.stats"],
    "aura.migrate": ["aura.delivery", "aura.engine", "aura.resilience", "aura.stats"],
    "aura.models": ["aura.delivery", "aura.engine", "aura.resilience", "aura.stats"],
    "aura.node": ["aura.delivery", "aura.engine", "aura.resilience", "aura.stats"],
    "aura.delivery": ["aura.engine!", "aura.store.base", "aura.stats"],
    "aura.insight": ["aura.engine!", "aura.store.base", "aura.stats"],
    "aura.fleet": ["aura.engine!", "aura.store.base", "aura.stats"],
    "aura.engine": [
        *("aura.store.base", "aura.store.events", "aura.store.portable", "aura.store.session"),
        *("aura.store.queues", "aura.store.routing", "aura.store.search"),
        *("aura.resilience", "aura.codec"),
    ],
    "aura.store": ["aura.codec"],
    "aura.integrations": ["aura.engine", "aura.fleet"],
    "aura.telemetry": ["aura.engine", "aura.store.base"],
    "aura.resilience": ["aura.stats"],
    "aura.codec": [],
    "aura.stats": [],
    "aura.clock": [],
    "aura.errors": [],
    "aura.yamlnodes": [],
    "aura.masking": [],
    "aura.spans": [],
}
STANDARD_LIBRARY_ONLY = ("aura.stats", "aura.clock", "aura.errors", "aura.spans")
ENTRY_POINTS = ("aura", "aura.client", "aura.testing", "aura.testing.plugin")


@dataclass(frozen=True, slots=True)
class Module:
    """One source file; `name` is dotted, `is_package` tells an `__init__.py`."""

    name: str
    source: str
    tree: ast.Module
    is_package: bool = False

    @property
    def package(self) -> str:
        return self.name if self.is_package else self.name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Import:
    """`target` is the module; `base` what stands between `from` and `import`."""

    target: str
    base: str
    line: int
    lazy: bool


def module(name: str, source: str, is_package: bool = False) -> Module:
    return Module(name, source, ast.parse(source), is_package)


def modules_under(folder: Path, base: Path) -> Iterator[Module]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield module(".".join(parts[:-1] if is_package else parts), path.read_text(), is_package)


def own_modules() -> list[Module]:
    return list(modules_under(ROOT / "src", ROOT / "src"))


def all_modules() -> list[Module]:
    folders = (ROOT / name for name in ("tests", "examples", "benchmarks"))
    return own_modules() + [found for folder in folders for found in modules_under(folder, ROOT)]


# -- imports -----------------------------------------------------------------------------------


def imports_of(importer: Module, names: Iterable[str]) -> Iterator[Import]:
    """Every import, with `from package import module` resolved to the module."""
    known = set(names)
    functions = [n for n in ast.walk(importer.tree) if isinstance(n, FUNCTIONS)]
    inside = {id(child) for function in functions for child in ast.walk(function)}
    for node in ast.walk(importer.tree):
        lazy = id(node) in inside
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = _base_of(importer, node)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in known else base, base, node.lineno, lazy)


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _base_of(importer: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = importer.package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _section_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _permitted(found: Import, allowed: str) -> bool:
    if allowed.endswith("!"):
        return found.base == allowed[:-1]
    if allowed == "aura":
        return found.target == "aura"
    return found.target == allowed or found.target.startswith(allowed + ".")


def check_import_directions(modules: list[Module]) -> list[str]:
    names = [each.name for each in modules]
    complaints = []
    for importer in modules:
        section = _section_of(importer.name)
        if section not in MAY_IMPORT:
            complaints.append(f"{importer.name}: {section} has no place in MAY_IMPORT")
            continue
        for found in imports_of(importer, names):
            if found.target.split(".")[0] != "aura" or found.target == importer.name:
                continue
            if section != "aura" and _section_of(found.target) == section:
                continue
            if not any(_permitted(found, each) for each in MAY_IMPORT[section] + FOUNDATION):
                complaints.append(f"{importer.name}:{found.line} may not import {found.target}")
            elif found.target.startswith("aura.integrations") and not found.lazy:
                complaints.append(f"{importer.name}:{found.line} must import {found.target} lazily")
    return complaints


def check_third_parties(modules: list[Module]) -> list[str]:
    """Mathematics, clock and errors use the standard library; an integration one library."""
    names = [each.name for each in modules]
    complaints = []
    for importer in modules:
        foreign = {found.target.split(".")[0] for found in imports_of(importer, names)}
        foreign -= {"aura", "__future__", *sys.stdlib_module_names}
        if _section_of(importer.name) in STANDARD_LIBRARY_ONLY and foreign:
            complaints.append(f"{importer.name} imports {sorted(foreign)}")
        if importer.name.startswith("aura.integrations.") and len(foreign) > 1:
            complaints.append(f"{importer.name} imports several libraries: {sorted(foreign)}")
        if foreign & {"anyio", "trio"}:
            complaints.append(f"{importer.name} imports {sorted(foreign & {'anyio', 'trio'})}")
    return complaints


def check_dead_modules(modules: list[Module], entry_points: Iterable[str]) -> list[str]:
    """Every module is reached from an entry point by imports, or by its name in a string."""
    by_name = {each.name: each for each in modules}
    waiting = [name for name in by_name if name in entry_points or name.endswith("__main__")]
    alive: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in by_name and name not in alive:
            alive.add(name)
            waiting.append(name.rpartition(".")[0])
            waiting += [found.target for found in imports_of(by_name[name], by_name)]
            waiting += [text for text, _ in _strings(by_name[name].tree) if text in by_name]
    return [f"{name} is reached from no entry point" for name in sorted(set(by_name) - alive)]


def scripts() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [target.partition(":")[0] for target in project.get("scripts", {}).values()]


# -- sizes -------------------------------------------------------------------------------------


def check_sizes(modules: list[Module]) -> list[str]:
    complaints = []
    for each in modules:
        lines = each.source.count("\n") + 1
        if lines > MAX_MODULE + 1:
            complaints.append(f"{each.name} has {lines - 1} lines")
        for node in ast.walk(each.tree):
            if not isinstance(node, FUNCTIONS):
                continue
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                complaints.append(f"{each.name}:{node.lineno} {node.name} has {length} lines")
            count = len(_parameters(node))
            if count > MAX_PARAMETERS:
                complaints.append(f"{each.name}:{node.lineno} {node.name} has {count} parameters")
    return complaints


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    names = [each.arg for each in every if each is not None]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


# -- what code may not contain -----------------------------------------------------------------

SQL = re.compile(
    r"^\s*(SELECT\s|INSERT\s+(OR\s+\w+\s+)?INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s|PRAGMA\s|"
    r"WITH\s+(RECURSIVE\s+)?\w+\s+AS\s*\(|(CREATE|ALTER|DROP)\s+(TABLE|(UNIQUE\s+)?INDEX|VIRTUAL)|"
    r"BEGIN(\s+IMMEDIATE)?$|COMMIT$|ROLLBACK$|(UN)?LISTEN\s|NOTIFY\s)"
)
SQL_IN_LOWER_CASE = re.compile(
    r"^\s*(select\s[^.]*\sfrom\s+\w+|insert\s+into\s+\w+\s*(\(|values|select)|"
    r"update\s+\w+\s+set\s+\w+\s*=|delete\s+from\s+\w+(\s+where|$)|create\s+table\s|pragma\s)"
)
PICKLES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}
CLOCKS = {
    "time": "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns sleep localtime",
    "datetime": "now utcnow today",
    "date": "today",
    "loop": "time",
    "get_running_loop": "time",
    "get_event_loop": "time",
}


def _docstrings(tree: ast.AST) -> set[int]:
    owners = (ast.Module, ast.ClassDef, *FUNCTIONS)
    bodies = (node.body for node in ast.walk(tree) if isinstance(node, owners) and node.body)
    return {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}


def _strings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    documentation = _docstrings(tree)
    for node in ast.walk(tree):
        if id(node) in documentation or not isinstance(node, ast.Constant):
            continue
        if isinstance(node.value, str):
            yield node.value, node.lineno


def check_sql(modules: list[Module]) -> list[str]:
    allowed = ("aura.store", "aura.integrations")
    return [
        f"{each.name}:{line} holds SQL: {text.strip()[:40]!r}"
        for each in modules
        if not each.name.startswith(allowed)
        for text, line in _strings(each.tree)
        if SQL.search(text) or SQL_IN_LOWER_CASE.search(text)
    ]


def check_clocks(modules: list[Module]) -> list[str]:
    return [
        f"{each.name}:{line} {reads}; take a Clock"
        for each in modules
        if each.name != "aura.clock"
        for reads, line in _clock_reads(each.tree)
    ]


def _clock_reads(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield "imports from time", node.lineno
        elif isinstance(node, ast.Attribute):
            owner = _owner(node)
            if node.attr in CLOCKS.get(owner, "").split():
                yield f"uses {owner}.{node.attr}", node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "asyncio.sleep":
            given = [ast.unparse(argument) for argument in node.args]
            if given != ["0"]:
                yield "uses asyncio.sleep", node.lineno


def _owner(node: ast.Attribute) -> str:
    owner = node.value.func if isinstance(node.value, ast.Call) else node.value
    return owner.attr if isinstance(owner, ast.Attribute) else _name(owner)


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def check_pickles_and_evals(modules: list[Module]) -> list[str]:
    imported = [
        f"{each.name}:{found.line} imports {found.target}"
        for each in modules
        for found in imports_of(each, ())
        if found.target.split(".")[0] in PICKLES
    ]
    called = [
        f"{each.name}:{node.lineno} calls {_name(node.func)}"
        for each in modules
        for node in ast.walk(each.tree)
        if isinstance(node, ast.Call) and _name(node.func) in {"eval", "exec"}
    ]
    return imported + called


# -- documents ---------------------------------------------------------------------------------

FENCE = re.compile(
    r"^(?P<before>[^\n]*)\n(?P<fence>`{3,})(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=fence)`*$",
    re.MULTILINE | re.DOTALL,
)
NO_RUN = re.compile(r"<!--\s*no-run:\s*\S.*-->")
CODE_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document; `line` is where its code begins."""

    document: str
    line: int
    language: str
    code: str
    runs: bool


def blocks_of(document: str, text: str) -> Iterator[Block]:
    text = "\n" + text  # a block may open the document
    for found in FENCE.finditer(text):
        line = text[: found.start("code")].count("\n")
        runs = not NO_RUN.search(found["before"])
        yield Block(document, line, found["language"], found["code"], runs)


def documents() -> dict[str, str]:
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def blocks(language: str, texts: Mapping[str, str] | None = None) -> list[Block]:
    texts = documents() if texts is None else texts
    every = (block for name, text in texts.items() for block in blocks_of(name, text))
    return [block for block in every if block.language == language]


def plans(texts: Mapping[str, str] | None = None) -> list[Block]:
    found = blocks("yaml", texts) + blocks("yml", texts)
    return [block for block in found if re.search(r"^rollout:", block.code, re.MULTILINE)]


def check_plan(block: Block) -> str:
    """What is wrong with a plan in a document, or ""."""
    try:
        parse_plan("\n" * (block.line - 1) + block.code, block.document)
    except PlanError as error:
        return str(error)
    return ""


def run_block(block: Block, folder: Path) -> str:
    """Run a python block in a process and folder of its own; returns what went wrong, or ""."""
    script = folder / "block.py"
    script.write_text("\n" * (block.line - 1) + block.code)
    runner = folder / "run_block.py"
    runner.write_text(f"{inspect.getsource(_run_file)}\n_run_file()\n")
    done = subprocess.run(
        [sys.executable, runner, script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stderr[-3_000:] if done.returncode else ""


def _run_file() -> None:
    """Run the file named by the first argument as `__main__`, with `await` allowed at its top."""
    import ast
    import asyncio
    import sys
    from pathlib import Path

    path = sys.argv[1]
    code = compile(Path(path).read_text(), path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names = sys.modules["__main__"].__dict__
    names["__file__"] = path
    waits = eval(code, names)  # noqa: S307 - the project's own documents
    if asyncio.iscoroutine(waits):
        asyncio.run(waits)


def check_public_names(
    names: Iterable[str], look_up: Callable[[str], object], texts: Iterable[str]
) -> list[str]:
    """Public names have a docstring of their own and occur as code in some document."""
    code = "\n".join(
        [found[1] for text in texts for found in CODE_SPAN.finditer(text)]
        + [block.code for text in texts for block in blocks_of("", text)]
    )
    complaints = []
    for name in names:
        if not _documentation(name, look_up(name)):
            complaints.append(f"aura.{name} has no docstring")
        if not re.search(rf"\b{re.escape(name)}\b", code):
            complaints.append(f"aura.{name} is in no document")
    return complaints


def _documentation(name: str, value: object) -> str:
    if isinstance(value, str):
        return "a constant"
    text = (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or ""
    return "" if text.startswith(f"{name}(") else text  # what dataclass writes by itself
