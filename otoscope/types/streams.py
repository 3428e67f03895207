"""Live classification: the messages of /v1/stream."""

from typing import Literal

from pydantic import ConfigDict, Field

from otoscope.results import Part
from otoscope.types.base import Public
from otoscope.types.jobs import ErrorInfo
from otoscope.types.results import Detection, Level, Prediction, SoundWarning, Verdict

SampleFormat = Literal["s16le", "f32le"]
"""The samples of a stream: 16-bit integers or 32-bit floats, little-endian, one channel."""


class StreamOptions(Public):
    """The query parameters of `/v1/stream`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: int = Field(description="Hz, of the samples that are sent")
    format: SampleFormat = "s16le"
    model: str | None = Field(None, description="one of /v1/models; the server's default when absent")
    hop: float = Field(0.5, ge=0.1, le=10, description="seconds from one window to the next")
    top_k: int = Field(5, ge=1, le=1_000, description="number of predictions")
    include: tuple[Part, ...] = Field(
        (), description="parts of a window to return with each answer, which is MessagePack then"
    )
    layer: str | None = Field(None, description="a layer to look into: all of its channels; MessagePack as well")
    unknown_threshold: float | None = Field(
        None, ge=0, le=1, description="known score below which the verdict is `unknown`; the model's when absent"
    )
    min_confidence: float | None = Field(
        None, ge=0, le=1, description="confidence below which the verdict is `unsure`; the model's when absent"
    )
    merge_gap: float = Field(1.0, ge=0, le=60, description="seconds: closer detections of one class are joined")
    min_duration: float = Field(0.0, ge=0, le=60, description="seconds: shorter detections are left out")


class StreamOpened(Public):
    """The first message of a stream."""

    type: Literal["opened"] = "opened"
    stream: str = Field(description="its id in the log of the service")
    model: str
    sample_rate: int = Field(description="Hz, of the model: sound of this rate is not resampled")
    window_seconds: float
    hop: float = Field(description="seconds")
    idle_seconds: float = Field(description="without a message after which the stream is closed")
    max_seconds: float = Field(description="of sound after which the stream is closed")


class StreamAnswer(Public):
    """The answer to one window of a stream: predictions, or an error. Times are seconds from the first sample."""

    type: Literal["answer"] = "answer"
    start: float
    end: float
    predictions: list[Prediction] = Field([], description="most confident first; empty where there is an error")
    verdict: Verdict | None = Field(None, description="how far to trust the first prediction")
    known: float | None = Field(None, description="open-set score, 0 to 1; null for a model without one")
    level: Level | None = Field(None, description="of the window")
    warnings: list[SoundWarning] = []
    began: list[Detection] = Field([], description="detections that are new, with their end so far")
    ended: list[Detection] = Field([], description="detections that are over; they began with the same class and start")
    dropped: int = Field(0, description="windows before this one that were left out, since there was a newer one")
    latency: float = Field(description="seconds from the arrival of its last sample to this answer")
    last: bool = Field(False, description="whether it is the answer to the end of the sound")
    error: ErrorInfo | None = Field(None, description="why this window has no predictions; the stream continues")


class StreamError(ErrorInfo):
    """Why a stream ends, in front of the close frame."""

    type: Literal["error"] = "error"
    retry_after: int | None = Field(None, description="seconds after which another stream may last longer")
