"""The only code that talks to Redis about jobs: `AsyncJobStore` for the gateway, `JobStore` for the worker.

A job is a hash with a time to live, its upload, its packed result and a stream of its changes; two sorted sets hold
what waits and what is unfinished. All changes of state are the scripts of `shared.jobs.scripts`.
"""

from shared.jobs.async_store import AsyncJobStore
from shared.jobs.store import JobStore

__all__ = ["AsyncJobStore", "JobStore"]
