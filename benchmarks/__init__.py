"""Measurements: Aura's own figures, and its peers' in the same run."""
