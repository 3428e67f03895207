"""Celery and its transport: delivery, leases, messages."""
