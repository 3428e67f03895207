"""Jobs, and batches of them."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from otoscope.types.base import Public
from otoscope.types.results import ResultJSON

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]

FINAL: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})
"""Final states: a job in one of them does not change any more."""


class AudioInfo(Public):
    """The uploaded file."""

    name: str | None = None
    bytes: int = Field(description="0 for a sound by address, which the worker fetches")
    container: str = Field(description="empty for a sound by address")
    codec: str
    url: str | None = Field(None, description="the address of a sound that the worker fetches")
    sample_rate: int | None = Field(None, description="Hz")
    channels: int | None = None
    duration: float | None = Field(None, description="seconds, from the header")


class Timings(Public):
    """Seconds spent in each stage; null until the stage is over."""

    queue: float | None = None
    load: float | None = Field(None, description="loading the model; null if an earlier job has")
    decode: float | None = None
    batch: float | None = Field(None, description="waiting for a batch")
    forward: float | None = Field(None, description="the forward passes of all windows")
    total: float | None = None


class Progress(Public):
    """How far a running job is."""

    done: int = Field(description="windows that are classified")
    of: int | None = Field(None, description="all windows, by the duration in the header; null where it has none")


class ErrorInfo(Public):
    code: str
    title: str
    detail: str


class Job(Public):
    id: str
    status: Status
    model: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    queue_position: int | None = Field(None, description="1 is next; null once it runs")
    progress: Progress | None = Field(None, description="of a running job with many windows, at most once a second")
    timings: Timings = Timings()
    error: ErrorInfo | None = None
    audio: AudioInfo
    links: dict[str, str] = Field(
        description="`self` and `events`; of a succeeded job `result`, and `detections`, which it has with that part;"
        " `audio` of a job with `keep_sound`"
    )
    result: ResultJSON | None = None


class BatchMember(Public):
    """One sound of a batch."""

    name: str
    id: str | None = Field(description="the id of its job; null where the sound was refused")
    status: str = Field(
        description="that of the job; `failed` also for a sound that was refused; `missing` where the queue had no"
        " place for it or it was deleted, `expired` after the job has expired"
    )
    error: ErrorInfo | None = None


class BatchResult(BatchMember):
    """One sound of a batch with its result; a line of /v1/batches/{id}/results."""

    result: ResultJSON | None = None


class Batch(Public):
    """Sounds that were submitted together."""

    id: str
    created_at: datetime
    total: int
    counts: dict[str, int] = Field(description="members by status")
    finished: bool = Field(description="no member is queued or running")
    members: tuple[BatchMember, ...]
    links: dict[str, str]
