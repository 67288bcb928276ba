"""`aura dlq`, with all its commands."""

from __future__ import annotations

from aura.cli.bulk import bulk_letters
from aura.cli.dlq import dlq

__all__ = ["dlq"]

dlq.command("bulk")(bulk_letters)
