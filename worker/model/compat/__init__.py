"""Workarounds for faults of other packages."""
