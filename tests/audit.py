"""`make audit`: does anything that is installed have a known hole?

Asks the advisory service through pip-audit. Where that cannot be reached nothing was audited, and
this says so and ends with 2: silence is no result. 1 means that something was found.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


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


def main() -> int:
    """Say what was found."""
    code, lines = verdict(ask())
    for line in lines:
        print(line)
    return code


if __name__ == "__main__":
    sys.exit(main())
