"""What `shared.jobs` hands out: a job as stored, a job to work on, an event, the state of the queue."""

import json
from dataclasses import dataclass, field, fields
from typing import TypeVar

from pydantic import BaseModel

from otoscope.errors import BY_CODE, OtoscopeError
from otoscope.types import FINAL, AudioInfo, JobOptions, Timings

M = TypeVar("M", bound=BaseModel)

FIELDS = ("status", "model", "audio", "created_at", "started_at", "finished_at", "timings", "error", "caller", "trace")
"""Of a job's hash, what a record is made of."""


@dataclass(frozen=True)
class JobRecord:
    """A job as stored. Times are seconds since 1970 on Redis' clock."""

    id: str
    status: str
    model: str
    audio: AudioInfo
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    timings: Timings = field(default_factory=Timings)
    error: OtoscopeError | None = None
    position: int | None = None  # in the queue, 1 is next
    packed: bytes | None = None  # the result of one that has succeeded, where it was asked for
    caller: str = ""  # who submitted it
    trace: str = ""  # of its submission, as shared.tracing.context tells it; empty where that was not traced

    @property
    def final(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True)
class Submission:
    """What came of a submission: `created` is False where the idempotency key had been used for the same request."""

    job: JobRecord
    created: bool

    @property
    def id(self) -> str:
        return self.job.id


@dataclass(frozen=True)
class Work:
    """A job that a worker has started."""

    id: str
    model: str
    options: JobOptions
    waited: float  # seconds in the queue
    seconds_left: float  # until the deadline
    audio: bytes
    attempt: int = 1  # more than 1 where a worker died over it, or beside it
    trace: str = ""  # of its submission


@dataclass(frozen=True)
class Refused:
    """A delivered job that must not run: `gone`, `finished` (cancelled, or delivered twice), `poison`, or `suspect`."""

    reason: str
    trace: str = field(default="", compare=False)  # of the submission of a `poison`


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
    contract: int = 1  # shared.CONTRACT_VERSION, which the first ones did not tell
    metrics: str = ""  # address of its /metrics; empty where it is not known
    aac: bool | None = None  # whether it can decode M4A, which the first ones did not tell


def parse(kind: type[M], text: str | bytes) -> M:
    """What the other side wrote. It may be newer: what is not known here is left out."""
    return kind.model_validate_json(text, extra="ignore")


def parse_announcement(text: str | bytes) -> Announcement:
    """The same of what a worker says of itself."""
    known = {own.name for own in fields(Announcement)}
    return Announcement(**{name: value for name, value in json.loads(text).items() if name in known})


def parse_record(job_id: str, stored: list[bytes | None], rank: int | None, packed: bytes | None = None) -> JobRecord:
    """The FIELDS of a job and its rank among the waiting as a JobRecord."""
    status, model, audio, *times, measured, failure, caller, trace = (value or b"" for value in stored)
    created, started, finished = (float(time) if time else None for time in times)
    timings = parse(Timings, measured or b"{}")
    if created is not None and started is not None:
        timings.queue = round(started - created, 6)
    if created is not None and finished is not None:
        timings.total = round(finished - created, 6)
    error: OtoscopeError | None = None
    if failure:
        told = json.loads(failure)
        error = BY_CODE.get(told["code"], OtoscopeError)(told["detail"])
    return JobRecord(
        id=job_id,
        status=status.decode(),
        model=model.decode(),
        audio=parse(AudioInfo, audio),
        created_at=created or 0.0,
        started_at=started,
        finished_at=finished,
        timings=timings,
        error=error,
        position=rank + 1 if rank is not None else None,
        packed=packed,
        caller=caller.decode(),
        trace=trace.decode(),
    )
