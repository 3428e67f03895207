"""KEYS and ARGV of the scripts of `shared/jobs/scripts`, for `shared.jobs` alone.

Every change of a job is one script, and so one atomic step on Redis' own clock: the clocks of hosts need not agree.
A change that a client may be waiting for is appended to the job's event stream and then published.

A client runs a script again where the reply was lost. Where a second run would count twice, the request has a token
that the job keeps: with the same token it is the same attempt, the same cancellation or the same end.

Only `submit` is refused when Redis is at its memory limit. The others end jobs or bring them nearer to their end, which
frees memory.
"""

import json
import math
import secrets
from typing import Any

import msgpack

from otoscope.errors import DeadlineExceeded, OtoscopeError
from otoscope.types import Timings
from shared import contract
from shared.audio.limits import HEAD_SECONDS
from shared.config.settings import Settings
from shared.redis_client.lua import load_script

_INDEXES = (contract.QUEUED, contract.UNFINISHED, contract.TOTALS, contract.CHANGES, contract.RESERVED)


def script(name: str) -> str:
    """The text of a script of this package."""
    return load_script("shared.jobs", name)


def job_keys(job_id: str, *more: str) -> list[str]:
    """KEYS of the scripts that change a job."""
    makers = (contract.job_key, contract.audio_key, contract.result_key, contract.events_key, contract.tombstone_key)
    return [*(key(job_id) for key in makers), *_INDEXES, *more]


def read_keys(job_id: str) -> list[str]:
    """KEYS of `read`."""
    makers = (contract.job_key, contract.result_key, contract.events_key, contract.tombstone_key)
    return [*(key(job_id) for key in makers), contract.QUEUED]


def pack_args(**arguments: Any) -> bytes:
    """ARGV[1] of the scripts that take a map."""
    return msgpack.packb(arguments)  # type: ignore[no-any-return]


def request_token() -> str:
    """Identifies one request, however often it is sent: 64 random bits."""
    return secrets.token_hex(8)


def index_ttl(settings: Settings) -> int:
    """Seconds that an index of jobs outlives its last write: at least as long as any job in it."""
    return max(contract.INDEX_TTL, job_ttl(settings, settings.max_seconds))


def job_deadline(settings: Settings, duration: float | None) -> float:
    """Seconds that a job with a sound of that many seconds may take: as many for every ten minutes. A sound without a
    duration in its header is taken for a short one."""
    return settings.job_deadline * max(1.0, (duration or 0.0) / HEAD_SECONDS)


def job_ttl(settings: Settings, duration: float | None) -> int:
    """Seconds after which an unfinished job expires."""
    return math.ceil(job_deadline(settings, duration)) + settings.result_ttl


def finish_args(
    settings: Settings,
    job_id: str,
    status: str,
    *,
    result: bytes = b"",
    error: OtoscopeError | None = None,
    timings: Timings | None = None,
) -> list[bytes]:
    """ARGV of `finish`."""
    ttl = settings.result_ttl
    arguments = pack_args(
        id=job_id,
        status=status,
        outcome="expired" if isinstance(error, DeadlineExceeded) else status,
        ttl=ttl,
        tombstone_ttl=ttl + settings.tombstone_ttl,
        request_token=request_token(),
        error=json.dumps({"code": error.code, "detail": error.detail}) if error else "",
        timings=timings.model_dump_json() if timings else "",
    )
    return [arguments, result]
