"""Names, keys and binary forms that gateway and worker must agree on."""

import uuid

QUEUE = "otoscope"
"""List of who is next: the names of callers whose turn it is, and messages that were given back."""
CLASSIFY = "otoscope.classify"
"""The only task; its only argument is a job id."""

CHANGES = "otoscope:changes"
"""Channel on which every change of a job is published, `<id> <status>`: a wake-up call, which may be missed."""

WAITING = "otoscope:waiting"
"""Sorted set of queued job ids by the time of their submission."""
OPEN = "otoscope:open"
"""Sorted set of unfinished job ids by their deadline."""
WORKERS = "otoscope:workers"
"""Sorted set of worker ids by the time until which each vouches for itself."""
MODELS = "otoscope:models"
"""Hash of model name to model card, as the workers last announced them."""
MODELS_TOLD = "otoscope:models:told"
"""Sorted set of the names in it by the time of that."""

TOTALS = "otoscope:totals"
"""Hash of how many jobs were accepted, and how many ended in each way; counted in the step that does it."""
COUNTED = ("accepted", "succeeded", "failed", "cancelled", "expired")
"""The fields of TOTALS. What was accepted is one of the others in the end, and no more than one."""

LISTS_TTL = 86_400
"""Seconds that the above outlive the last write to them; no key is without an end."""


def new_job_id() -> str:
    """Unguessable: 122 random bits."""
    return uuid.uuid4().hex


def job_key(job_id: str) -> str:
    """Hash: the job's record."""
    return f"otoscope:job:{job_id}"


def audio_key(job_id: str) -> str:
    """The upload, until the job is finished."""
    return f"otoscope:audio:{job_id}"


def result_key(job_id: str) -> str:
    """The packed result."""
    return f"otoscope:result:{job_id}"


def events_key(job_id: str) -> str:
    """Stream: one entry a change of state, and `result` last."""
    return f"otoscope:events:{job_id}"


def gone_key(job_id: str) -> str:
    """Tombstone: there was such a job."""
    return f"otoscope:gone:{job_id}"


def line_key(caller: str) -> str:
    """List: the messages of one caller's jobs that no worker has taken yet."""
    return f"otoscope:line:{caller}"


def idempotency_key(digest: str) -> str:
    """Job id and request digest under the hash of an Idempotency-Key."""
    return f"otoscope:idempotency:{digest}"


def worker_key(worker_id: str) -> str:
    """The JSON with which a worker vouches for itself."""
    return f"otoscope:worker:{worker_id}"
