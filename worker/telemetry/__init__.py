"""Metrics and traces of a worker."""
