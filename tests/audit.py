"""Does anything that is installed have a known hole?

    python -m tests.audit                   asks the advisory service, through pip-audit
    python -m tests.audit --offline         asks the list beside the tests, see tests/advisories.py
    python -m tests.audit --renew PATH      renews that list from a checkout of the database
                                            (github.com/pypa/advisory-database)

1 means that something was found. Where nothing could be audited, because the service cannot be
reached or the list cannot be read, this says so and ends with 2: silence is no result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from tests import advisories


def ask() -> Mapping[str, Any] | str:
    """The report of pip-audit on this environment, or why there is none."""
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    try:
        report: Mapping[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines()
        return said[-1] if said else f"pip-audit ended with {done.returncode}"
    return report


def verdict(report: Mapping[str, Any] | str) -> tuple[int, Sequence[str]]:
    """The exit code, and what to say. Pure."""
    if isinstance(report, str):
        return 2, [f"nothing was audited: {report}"]
    skipped = [one for one in report["dependencies"] if "skip_reason" in one]
    audited = [one for one in report["dependencies"] if "skip_reason" not in one]
    said = [f"audited {len(audited)} packages, {len(skipped)} could not be: "
            + ", ".join(one["name"] for one in skipped)] if skipped else []  # fmt: skip
    if not audited:
        return 2, ["nothing was audited: the advisory service knows none of the packages, or "
                   "cannot be reached"]  # fmt: skip
    found = [
        f"{one['name']} {one['version']}: {hole['id']}, mended in "
        f"{', '.join(hole['fix_versions']) or 'no version yet'}"
        for one in audited
        for hole in one["vulns"]
    ]
    if found:
        return 1, [*found, *said]
    return 0, [f"no known holes in {len(audited)} packages", *said]


def offline(today: date, path: Path = advisories.LIST) -> tuple[int, Sequence[str]]:
    """The same of the list, which may be old: it says how old, and never fails for that."""
    try:
        known = advisories.read(path)
    except advisories.Unusable as error:
        return 2, [f"nothing was audited: {error}"]
    packages = advisories.installed()
    found = advisories.holes(packages, known)
    said = f"audited {len(packages)} packages by {known.age(today)}"
    return (1, [*found, said]) if found else (0, [f"{said}: no known holes"])


def renew(checkout: Path, today: date) -> tuple[int, Sequence[str]]:
    """Write the list anew."""
    try:
        packages = advisories.closure(advisories.declared())
        known = advisories.renewed(advisories.read(), checkout, packages)
    except advisories.Unusable as error:
        return 2, [f"nothing was renewed: {error}"]
    advisories.write(known)
    return 0, [f"{advisories.LIST.name} has {known.age(today)}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what was found."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m tests.audit", description=__doc__, formatter_class=as_written
    )
    parser.add_argument("--offline", action="store_true", help="ask the list beside the tests")
    parser.add_argument("--renew", metavar="PATH", type=Path, help="renew that list")
    chosen = parser.parse_args(arguments)
    today = datetime.now(UTC).date()
    if chosen.renew is not None:
        code, lines = renew(chosen.renew, today)
    elif chosen.offline:
        code, lines = offline(today)
    else:
        code, lines = verdict(ask())
    for line in lines:
        print(line)
    return code


if __name__ == "__main__":
    sys.exit(main())
