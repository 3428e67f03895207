"""Workarounds for other packages."""
