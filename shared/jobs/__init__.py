"""Jobs in Redis: `ShardedJobStore` for the gateway, which has an `AsyncJobStore` for each server, `JobStore` for the
worker.

No other code reads or writes a job's keys. A job is a hash with a time to live, its upload, its packed result and a
stream of its changes; two sorted sets index the queued and the unfinished jobs. `shared.contract` lists all keys. Every
change of state is one script of `shared/jobs/scripts`.
"""

from shared.jobs.async_store import AsyncJobStore
from shared.jobs.sharded_store import ShardedJobStore
from shared.jobs.store import JobStore

__all__ = ["AsyncJobStore", "JobStore", "ShardedJobStore"]
