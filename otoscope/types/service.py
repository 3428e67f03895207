"""The service itself: limits, health, workers, problem documents."""

from typing import Literal

from pydantic import BaseModel, Field

from otoscope.types.base import Public


class Limits(Public):
    """The limits of uploads, so that a client can check before it sends."""

    max_upload_bytes: int
    max_seconds: float
    min_seconds: float
    max_channels: int
    min_rate: int = Field(description="Hz")
    max_rate: int = Field(description="Hz")
    formats: list[str] = Field(description="containers, in words")
    extensions: list[str] = Field(description="file extensions, for a file picker", examples=[[".wav", ".flac"]])
    max_wait: float = Field(description="seconds, the maximum of `wait`")
    result_ttl: int = Field(description="seconds for which a finished job is kept")
    max_full_spectrogram_seconds: float | None = Field(
        None, description="seconds of sound up to which `include=full_spectrogram` is accepted; 422 above"
    )
    share_sounds: bool = Field(False, description="whether `keep_sound` is accepted")
    queue_limit: int = Field(description="unfinished jobs from which on submissions are refused")


class Ready(Public):
    status: Literal["ready", "not_ready"]
    redis: bool
    workers: int = Field(description="workers that have run a forward pass and send heartbeats")
    models: list[str]
    writable: bool = Field(
        True, description="false while Redis cannot write its file, because its disk is full for instance"
    )
    servers_down: list[int] = Field(
        [], description="numbers of the Redis servers that do not answer or cannot write; a service has one or several"
    )


class WorkerInfo(Public):
    """The heartbeat of a worker, sent every two seconds."""

    id: str
    models: list[str]
    busy: int = Field(description="jobs in progress")
    metrics: str | None = Field(description="address of its metrics on its own network")


class WorkerList(Public):
    workers: list[WorkerInfo]


class Live(Public):
    status: Literal["live"] = "live"


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str | None = None
