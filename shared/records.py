"""What `shared.store` hands out: a job as stored, a job to work on, an event, the state of the queue."""

import json
from dataclasses import dataclass, field

from shared import contract
from shared.errors import BY_CODE, OtoscopeError
from shared.schemas import AudioInfo, JobOptions, Timings


@dataclass(frozen=True)
class JobRecord:
    """A job as stored. Times are seconds since 1970 on Redis' clock."""

    id: str
    status: str
    model: str
    options: JobOptions
    audio: AudioInfo
    created_at: float
    started_at: float | None
    finished_at: float | None
    timings: Timings
    error: OtoscopeError | None
    position: int | None  # in the queue, 1 is next

    @property
    def final(self) -> bool:
        return self.status in contract.FINAL


@dataclass(frozen=True)
class Submission:
    """What came of a submission: `created` is False where the idempotency key had been used for the same request."""

    id: str
    created: bool


@dataclass(frozen=True)
class Work:
    """A job that a worker has started."""

    id: str
    model: str
    options: JobOptions
    waited: float  # seconds in the queue
    seconds_left: float  # until the deadline
    audio: bytes


@dataclass(frozen=True)
class Refused:
    """A delivered job that must not run: `gone`, `finished` (cancelled, or delivered twice) or `poison`."""

    reason: str


@dataclass(frozen=True)
class QueueLoad:
    open: int  # unfinished jobs
    waiting: int
    oldest: float  # seconds that the first waiting job has waited
    memory_share: float  # of Redis' memory limit; 0 without a limit


@dataclass(frozen=True)
class Event:
    id: str  # of the stream entry
    kind: str  # a status, or `result` at the end


@dataclass
class Announcement:
    """What a worker says of itself."""

    id: str
    models: list[str] = field(default_factory=list)
    busy: int = 0  # jobs it holds


def parse_record(job_id: str, stored: dict[bytes, bytes], rank: int | None) -> JobRecord:
    """The hash of a job and its rank among the waiting as a JobRecord."""
    fields = {name.decode(): value.decode() for name, value in stored.items()}

    def seconds(name: str) -> float | None:
        return float(fields[name]) if name in fields else None

    created, started, finished = seconds("created_at") or 0.0, seconds("started_at"), seconds("finished_at")
    timings = Timings.model_validate_json(fields.get("timings", "{}"))
    if started is not None:
        timings.queue = round(started - created, 6)
    if finished is not None:
        timings.total = round(finished - created, 6)
    error: OtoscopeError | None = None
    if "error" in fields:
        told = json.loads(fields["error"])
        error = BY_CODE.get(told["code"], OtoscopeError)(told["detail"])
    return JobRecord(
        id=job_id,
        status=fields["status"],
        model=fields["model"],
        options=JobOptions.model_validate_json(fields["options"]),
        audio=AudioInfo.model_validate_json(fields["audio"]),
        created_at=created,
        started_at=started,
        finished_at=finished,
        timings=timings,
        error=error,
        position=rank + 1 if rank is not None else None,
    )
