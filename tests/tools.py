"""Programs that some tests need and that no wheel brings: a browser, Prometheus' own checkers.

    promtool = tool("promtool")          # its path; installs it when it is not there

A program on the PATH is taken as it is. If there is none, it is installed from Debian's packages
where that is allowed (root, with apt-get), and Chromium by Playwright where it is not. If nothing
works, the test fails with a sentence that says what to install. Nothing is skipped.

Test processes run side by side: one installs, the others wait for it at a lock. Services of a
package are never started.

`python -m tests.tools` gets all of them ready, so that no test's own time is spent on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UPDATE_LASTS = 3600.0
"""Seconds for which the lists of packages are good enough."""

ATTEMPTS = 3
PATIENCE = 240.0
"""Seconds that one command of an installation may take."""

POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks it whether a service may start."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program: the names it goes by, Debian's package, and what shows that it works."""

    names: tuple[str, ...]
    package: str
    shows: tuple[str, ...] = ("--version",)
    playwright: str = ""


TOOLS = {
    "chromium": Tool(
        ("chromium", "chromium-browser", "google-chrome"), "chromium", playwright="chromium"
    ),
    "promtool": Tool(("promtool",), "prometheus"),
    "amtool": Tool(("amtool",), "prometheus-alertmanager"),
    "systemd-analyze": Tool(("systemd-analyze",), "systemd"),
}


class ToolMissing(AssertionError):
    """A program that the tests need is not there and could not be installed."""


def tool(name: str) -> str:
    """The path of a program that works. Raises ToolMissing."""
    wanted = TOOLS[name]
    found = _found(wanted)
    if found is not None:
        return found
    with _alone():
        return _found(wanted) or _installed(name, wanted)


def _found(wanted: Tool) -> str | None:
    paths = (shutil.which(name) for name in wanted.names)
    return next((path for path in paths if path is not None and _works(path, wanted)), None)


def _works(path: str, wanted: Tool) -> bool:
    """Some systems have a script of that name which only says how to get the program."""
    try:
        done = subprocess.run([path, *wanted.shows], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _installed(name: str, wanted: Tool) -> str:
    reasons = []
    for way in (_by_debian, _by_playwright):
        try:
            found = way(wanted)
        except _Failed as error:
            reasons.append(str(error))
        else:
            if found is not None:
                return found
    raise ToolMissing(
        f"tests need `{name}`: install Debian's package {wanted.package} "
        f"(apt-get install {wanted.package}) or put the program on the PATH ({'; '.join(reasons)})"
    )


class _Failed(Exception):
    """One way to install something did not work."""


def _run(*command: str) -> str:
    """What it printed. Raises _Failed with the end of what it complained about."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Failed(f"{command[0]}: {error}") from error
    if done.returncode:
        raise _Failed(f"{' '.join(command[:3])} ended with {done.returncode}: {_gist(done)}")
    return done.stdout


def _gist(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that tells of an error, else the last one."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    telling = [line for line in lines if re.search(r"\berror|^E:", line, re.IGNORECASE)]
    return (telling or lines or ["it said nothing"])[-1].strip()


# -- Debian ------------------------------------------------------------------------------------


def _by_debian(wanted: Tool) -> str | None:
    if shutil.which("apt-get") is None:
        raise _Failed("there is no apt-get")
    if os.geteuid() != 0:
        raise _Failed("only root may use apt-get")
    with _no_services():
        _insistently(wanted.package)
    return _found(wanted)


def _insistently(package: str) -> None:
    """Mirrors fail now and then, and another installation may hold Debian's own lock."""
    for attempt in range(ATTEMPTS):
        try:
            _update(anyway=attempt > 0)
            _apt("install", "--yes", "--no-install-recommends", package)
        except _Failed:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(2.0**attempt)
        else:
            return


def _update(*, anyway: bool) -> None:
    """Fetch the lists of packages, once for all test processes."""
    stamp = _place("updated")
    if not anyway and stamp.exists() and time.time() - stamp.stat().st_mtime < UPDATE_LASTS:
        return
    _apt("update")
    stamp.touch()


def _apt(*what: str) -> None:
    options = {
        "DPkg::Lock::Timeout": "200",
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "20",
        "Dpkg::Options::": "--force-confold",
    }
    _run("apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items()), *what)


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Packages that bring a service start it, unless this file says no. One that is there already
    is its owner's decision, and stays; without it, ours is there while we install."""
    try:
        with POLICY.open("x") as file:
            file.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:
        yield
        return
    except OSError as error:
        raise _Failed(f"{POLICY} cannot be written: {error}") from error
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)


# -- Playwright --------------------------------------------------------------------------------

_WHERE = (
    "from playwright.sync_api import sync_playwright as s; p = s().start(); "
    "print(p.chromium.executable_path); p.stop()"
)


def _by_playwright(wanted: Tool) -> str | None:
    if not wanted.playwright:
        return None
    where = _run(sys.executable, "-c", _WHERE).strip()
    if not _works(where, wanted):
        _run(sys.executable, "-m", "playwright", "install", wanted.playwright)
    if not _works(where, wanted):
        raise _Failed(f"{where} does not start: its libraries are missing")
    return where


# -- one at a time -----------------------------------------------------------------------------


def _place(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"aura-test-tools-{os.geteuid()}.{name}"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Of all test processes of this user only one is here."""
    with _place("lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Get every program ready; what cannot be had is said, and the tests that need it will fail."""
    missing = 0
    for name in TOOLS:
        try:
            print(f"{name}: {tool(name)}", flush=True)
        except ToolMissing as error:
            missing += 1
            print(error, file=sys.stderr, flush=True)
    return min(missing, 1)


if __name__ == "__main__":
    sys.exit(main())
