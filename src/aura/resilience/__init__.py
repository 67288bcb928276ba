"""Values and pure decisions that keep a caller within its time: shared by gateway and steps."""

from aura.resilience.hedge import PATIENCE, RecentQuantile, patience, start_after

__all__ = ["PATIENCE", "RecentQuantile", "patience", "start_after"]
