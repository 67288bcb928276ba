"""Where the demo finds its example, and the folder in which it leaves its files."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import aura
from aura.delivery.plan import Plan, load_plan
from aura.errors import ConfigError

EXAMPLE = Path("examples", "research")
NEEDED = (
    "aura.yaml",
    "release-2.1.0.yaml",
    "release-2.2.0.yaml",
    "legacy.py",
    "workflows.py",
    "release_bad.py",
)
LEGACY_URL = "http://127.0.0.1:9001"
"""Where aura.yaml expects the legacy service; the demo puts its own port there."""

SPLIT = "split: research"
_OURS = (
    *("aura.db", "aura.db-wal", "aura.db-shm", "usage.db", "usage.db-wal", "usage.db-shm"),
    *("aura.yaml", "report.json", "report.html"),
)


@dataclass(frozen=True, slots=True)
class Workspace:
    """The checkout `root`, the demo's own `folder`, and its database.

    `mark` is "" or a suffix that keeps this demo's rollouts and split apart from earlier ones in
    a database that outlives it.
    """

    root: Path
    folder: Path
    database: str
    mark: str = ""

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def steps(self) -> Path:
        """Where the workers' witnesses write."""
        return self.folder / "steps"

    @property
    def ledger(self) -> Path:
        return self.folder / "usage.db"

    @property
    def config(self) -> Path:
        return self.folder / "aura.yaml"

    @property
    def split(self) -> str:
        return f"research{self.mark}"

    def write_config(self, legacy_port: int) -> None:
        """The example's aura.yaml with the ports and names of this demo."""
        text = (self.root / EXAMPLE / "aura.yaml").read_text(encoding="utf-8")
        self.config.write_text(configured(text, legacy_port, self.split), encoding="utf-8")

    def plans(self) -> tuple[Plan, Plan, Plan]:
        """The rollout of 2.0.0, and the canaries of 2.1.0 and 2.2.0. Raises PlanError."""
        main, first, second = (
            renamed(load_plan(self.root / EXAMPLE / name), self.mark) for name in NEEDED[:3]
        )
        return main, first, second


def configured(text: str, legacy_port: int, split: str) -> str:
    """The text of aura.yaml with another port and split.

    Raises ConfigError when it does not name the ones that the demo replaces.
    """
    for wanted in (LEGACY_URL, SPLIT):
        if wanted not in text:
            raise ConfigError(
                f"examples/research/aura.yaml does not contain {wanted!r}",
                hint="The demo replaces it by its own; put it back",
            )
    text = text.replace(LEGACY_URL, f"http://127.0.0.1:{legacy_port}")
    return text.replace(SPLIT, f"split: {split}")


def renamed(plan: Plan, mark: str) -> Plan:
    """The plan under a name and on a split of this demo's own."""
    return replace(plan, name=plan.name + mark, split=plan.split + mark)


def find_checkout(start: Path) -> Path:
    """The checkout that `start` lies in, or the one that this package runs from.

    Raises ConfigError that names what is missing.
    """
    beside = Path(aura.__file__).resolve().parents[2]
    places = [start, *start.parents, beside]
    for place in places:
        if (place / EXAMPLE).is_dir():
            missing = [name for name in NEEDED if not (place / EXAMPLE / name).is_file()]
            if not missing:
                return place
            raise ConfigError(
                f"the checkout {place} lacks {', '.join(str(EXAMPLE / name) for name in missing)}",
                hint="Restore them, say with `git checkout -- examples`",
            )
    raise ConfigError(
        f"aura demo needs a checkout of Aura: there is no folder {EXAMPLE} in {start}, above it, "
        f"or in {beside}",
        hint="Clone the repository and run `make demo` there",
    )


def prepare(root: Path, folder: Path | None) -> Workspace:
    """An empty folder with a fresh database, or fresh names in the one of AURA_DATABASE_URL."""
    folder = (folder or root / "demo").resolve()
    given = os.environ.get("AURA_DATABASE_URL", "")
    shared = given.startswith(("postgresql://", "postgres://"))
    workspace = Workspace(
        root,
        folder,
        given if shared else str(folder / "aura.db"),
        f"-{secrets.token_hex(3)}" if shared else "",
    )
    for name in _OURS:
        (folder / name).unlink(missing_ok=True)
    for place in (workspace.logs, workspace.steps):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))  # the example's queries are asked from here
    return workspace


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other demos out of the folder. Raises ConfigError when there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w", encoding="utf-8") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"another demo is running in {folder}", hint="Stop it with Ctrl-C first"
                ) from error
        yield
