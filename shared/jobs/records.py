"""Types of `shared.jobs`: a new job, a stored job, a claimed job, an event, the load of the queue, a heartbeat."""

import json
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

from pydantic import BaseModel

from otoscope.errors import BY_CODE, OtoscopeError
from otoscope.types import FINAL, AudioInfo, JobOptions, Progress, Timings

M = TypeVar("M", bound=BaseModel)

FIELDS = (
    *("status", "model", "audio", "created_at", "started_at", "finished_at", "timings", "error", "caller", "trace"),
    "progress",
    "keep_sound",
)
"""The fields of a job's hash that make a JobRecord, in the order in which `read.lua` returns them."""


@dataclass(frozen=True)
class NewJob:
    """A job to store and to queue.

    Callers take turns, however many jobs each has queued. An idempotency key belongs to its caller. For `result_bytes`,
    the size of the largest result that the job can have (`shared.results.largest_result`), memory is reserved until the
    job ends.
    """

    model: str
    options: JobOptions
    audio: AudioInfo
    body: bytes  # the upload
    caller: str = ""
    idempotency_key: str | None = None
    trace: str = ""  # the context in which the worker continues the trace
    result_bytes: int = 0
    deadline: float | None = None  # seconds; by default that of a sound of its duration


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
    position: int | None = None  # in the queue; 1 is next
    packed: bytes | None = None  # the result of a succeeded job, where it was requested and is not large
    packed_size: int = 0  # bytes of a large result, which AsyncJobStore.with_result reads
    caller: str = ""  # who submitted it
    trace: str = ""  # of its submission, in the form of shared.tracing.context; empty where that was not traced
    progress: Progress | None = None  # of a running job with many windows
    keeps_sound: bool = False  # its upload is kept as long as its result

    @property
    def final(self) -> bool:
        return self.status in FINAL

    @property
    def result_size(self) -> int:
        """Bytes of the packed result, where it was requested; also of a large one, which is still to be read."""
        return self.packed_size or len(self.packed or b"")

    def without_result(self) -> "JobRecord":
        return replace(self, packed=None, packed_size=0)


@dataclass(frozen=True)
class Submission:
    """The job of a submission. `created` is False for the job of an earlier request with the same idempotency key."""

    job: JobRecord
    created: bool

    @property
    def id(self) -> str:
        return self.job.id


@dataclass(frozen=True)
class ClaimedJob:
    """A job that a worker has started."""

    id: str
    model: str
    options: JobOptions
    waited: float  # seconds in the queue
    seconds_left: float  # until the deadline
    audio: bytes
    attempt: int = 1  # above 1 where a worker died while it had the job in flight
    trace: str = ""  # of its submission
    duration: float | None = None  # seconds, from the header of the upload
    url: str = ""  # of a sound that is still to be fetched; `audio` has it, too


@dataclass(frozen=True)
class SkippedJob:
    """A delivered job that must not run, and why: `missing` (it has expired), `finished` (also where it was cancelled,
    or delivered twice), `poison` (it killed its workers) or `quarantined` (it may have killed one)."""

    reason: str
    trace: str = field(default="", compare=False)  # of the submission of a `poison` job


@dataclass(frozen=True)
class Persistence:
    """Whether Redis' last attempts with its append-only file succeeded. While it cannot write, it refuses changes."""

    write: bool = True
    rewrite: bool = True


@dataclass(frozen=True)
class QueueLoad:
    unfinished: int  # jobs
    queued: int  # jobs
    oldest: float  # seconds that the first queued job has waited
    memory_share: float  # used part of Redis' memory limit, 0 to 1; 0 without a limit
    sound_seconds: float = 0.0  # seconds of sound in the unfinished jobs
    persistence: Persistence = Persistence()


@dataclass(frozen=True)
class ServerState:
    """What a Redis server that answers has."""

    load: QueueLoad
    totals: dict[str, int]  # by contract.COUNTERS
    workers: int  # that send heartbeats
    certificate_expiry: float | None = None  # seconds since 1970; None without TLS


@dataclass(frozen=True)
class Event:
    id: str  # of the stream entry
    kind: str  # a status, or `result` at the end


@dataclass
class WorkerHeartbeat:
    """What a worker publishes about itself every few seconds."""

    id: str
    models: list[str] = field(default_factory=list)
    busy: int = 0  # jobs in flight
    contract: int = 1  # otoscope.results.CONTRACT_VERSION; the first workers left it out
    metrics: str = ""  # URL of its /metrics; empty where it is not known
    aac: bool | None = None  # whether it can decode M4A, which only gateways of earlier versions have to know


@dataclass(frozen=True)
class ServerHealth:
    """Of a Redis server that answers."""

    workers: list[WorkerHeartbeat]
    writable: bool  # it can write its append-only file


def parse(kind: type[M], text: str | bytes) -> M:
    """A model from the JSON of the other side, which may be newer: unknown fields are ignored."""
    return kind.model_validate_json(text, extra="ignore")


def parse_heartbeat(text: str | bytes) -> WorkerHeartbeat:
    """A heartbeat from its JSON; unknown fields are ignored."""
    known = {own.name for own in fields(WorkerHeartbeat)}
    return WorkerHeartbeat(**{name: value for name, value in json.loads(text).items() if name in known})


def parse_record(job_id: str, stored: list[bytes | None], rank: int | None, packed: bytes | None = None) -> JobRecord:
    """A JobRecord from its FIELDS and its rank among the queued jobs, which counts from 0."""
    status, model, audio, *times, measured, failure, caller, trace, progress, kept = (value or b"" for value in stored)
    created, started, finished = (float(time) if time else None for time in times)
    timings = parse(Timings, measured or b"{}")
    if created is not None and started is not None:
        timings.queue = round(started - created, 6)
    if created is not None and finished is not None:
        timings.total = round(finished - created, 6)
    error: OtoscopeError | None = None
    if failure:
        fault = json.loads(failure)
        error = BY_CODE.get(fault["code"], OtoscopeError)(fault["detail"])
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
        progress=parse(Progress, progress) if progress and status == b"running" else None,
        keeps_sound=bool(kept),
    )
