"""Redis keys and identifiers that gateway and worker must agree on.

| key | type | contents | expires |
|---|---|---|---|
| `otoscope:job:{id}` | hash | the job's record | `result_ttl` after its end |
| `otoscope:audio:{id}` | string | the upload | deleted when the job ends; with `keep_sound` as the result |
| `otoscope:result:{id}` | string | the packed result (`shared.results`) | `result_ttl` |
| `otoscope:events:{id}` | stream | one entry for each change of status | with the record |
| `otoscope:tombstone:{id}` | string | the job existed: 410 instead of 404 | `tombstone_ttl` after the record |
| `otoscope:idempotency:{digest}` | hash | job and request digest of an Idempotency-Key | deadline + `result_ttl` |
| `otoscope:batch:{id}` | hash | names and job ids of a batch, and a digest of its request | deadline + `result_ttl` |
| `otoscope:queue` | list | callers in the order of their turns, and requeued jobs | INDEX_TTL |
| `otoscope:queue:{caller}` | list | the queued ids of one caller's jobs | INDEX_TTL |
| `otoscope:unacked` | sorted set | delivered ids by the time of their last lease renewal | INDEX_TTL |
| `otoscope:queued` | sorted set | queued ids by the time of their submission | INDEX_TTL |
| `otoscope:unfinished` | sorted set | unfinished ids by their deadline | INDEX_TTL |
| `otoscope:reserved` | hash | bytes of the largest result of each unfinished job, and their total | INDEX_TTL |
| `otoscope:totals` | hash | how many jobs were accepted, and how many ended in each way | INDEX_TTL |
| `otoscope:worker:{id}` | string | a worker's heartbeat, JSON | 10 s after the last one |
| `otoscope:workers` | sorted set | worker ids by the time at which their heartbeat expires | INDEX_TTL |
| `otoscope:models` | hash | model cards by name, JSON | INDEX_TTL |
| `otoscope:models:seen` | sorted set | model names by the time of their last heartbeat | INDEX_TTL |
| `otoscope:changes` | channel | `{id} {status}` for each change of a job | |

All times are seconds since 1970 on the clock of Redis.
"""

import re
import uuid

CLASSIFY = "otoscope.classify"
"""The only Celery task; its only argument is a job id."""

CHANGES = "otoscope:changes"
"""Channel on which every change of a job is published as `{id} {status}`. A message may be lost: it is a hint to read
the job."""

QUEUE = "otoscope:queue"
"""List of turns, the next one last: names of callers that have queued jobs, and requeued jobs as `job:{id}`."""
UNACKED = "otoscope:unacked"
"""Sorted set of the job ids that were delivered and not acknowledged, by the time of their last lease renewal."""

QUEUED = "otoscope:queued"
"""Sorted set of queued job ids by the time of their submission."""
UNFINISHED = "otoscope:unfinished"
"""Sorted set of unfinished job ids by their deadline."""
RESERVED = "otoscope:reserved"
"""Hash of unfinished job id to the bytes of the largest result that it can have, and `total` to their sum."""
WORKERS = "otoscope:workers"
"""Sorted set of worker ids by the time at which their heartbeat expires."""
MODELS = "otoscope:models"
"""Hash of model name to model card, as last sent with a heartbeat."""
MODELS_SEEN = "otoscope:models:seen"
"""Sorted set of the names in MODELS by the time of that heartbeat."""

TOTALS = "otoscope:totals"
"""Hash of COUNTERS, each incremented in the step that changes the job."""
COUNTERS = ("accepted", "succeeded", "failed", "cancelled", "expired")
"""Every accepted job is counted in exactly one of the others when it ends."""

LONGEST_HEARTBEAT = 300
"""Seconds after which a heartbeat expires, at most. A time beyond that was written before the clock stepped back."""

INDEX_TTL = 86_400
"""Seconds that the keys above, which belong to no single job, outlive their last write. No key is without a TTL."""

MODEL_TTL = 300
"""Seconds after which a model that no worker serves is not offered any more, from the next heartbeat of another worker
on. A worker that restarts serves its models again before."""

MAX_SERVERS = 256
"""The number of a server is two hexadecimal digits of the ids of its jobs."""

_SERVER = re.compile("[0-9a-f]{2}")


def new_job_id(server: int = 0) -> str:
    """32 hexadecimal digits, 114 of their bits random: it cannot be guessed. The last two are the number of the Redis
    server that has the job."""
    return at_server(uuid.uuid4().hex, server)


def at_server(job_id: str, server: int) -> str:
    """That id with the number of another server."""
    return f"{job_id[:-2]}{server:02x}"


def server_of(job_id: str) -> int | None:
    """The number of the server that has a job or a batch, from its id; None for a text that is no id."""
    digits = job_id[-2:]
    return int(digits, 16) if _SERVER.fullmatch(digits) else None


def job_key(job_id: str) -> str:
    """Hash: the job's record."""
    return f"otoscope:job:{job_id}"


def audio_key(job_id: str) -> str:
    """String: the upload, until the job ends, or as long as the result."""
    return f"otoscope:audio:{job_id}"


def result_key(job_id: str) -> str:
    """String: the packed result."""
    return f"otoscope:result:{job_id}"


def events_key(job_id: str) -> str:
    """Stream: one entry for each change of status, and `result` at the end."""
    return f"otoscope:events:{job_id}"


def tombstone_key(job_id: str) -> str:
    """String: the job existed."""
    return f"otoscope:tombstone:{job_id}"


def batch_key(batch_id: str) -> str:
    """Hash: the record of a batch."""
    return f"otoscope:batch:{batch_id}"


def queue_key(caller: str) -> str:
    """List: the ids of one caller's jobs that have not been delivered, the newest first."""
    return f"otoscope:queue:{caller}"


def idempotency_key(digest: str) -> str:
    """Hash: job id and request digest, by the hash of caller and Idempotency-Key."""
    return f"otoscope:idempotency:{digest}"


def worker_key(worker_id: str) -> str:
    """String: a worker's heartbeat, JSON."""
    return f"otoscope:worker:{worker_id}"
