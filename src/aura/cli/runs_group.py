"""`aura runs`, with all its commands."""

from __future__ import annotations

from aura.cli.bulk import bulk_runs
from aura.cli.bundles import export_runs, import_runs
from aura.cli.fork import fork
from aura.cli.messages import runs
from aura.cli.runs_watch import watch

__all__ = ["runs"]

runs.command("bulk")(bulk_runs)
runs.command("watch")(watch)
runs.command("fork")(fork)
runs.command("export")(export_runs)
runs.command("import")(import_runs)
