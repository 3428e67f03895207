"""Sounds by address, fetched in child processes."""
