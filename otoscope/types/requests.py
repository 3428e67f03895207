"""Submissions: the options of a job, and its JSON form."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from otoscope.arithmetic import LOGITS
from otoscope.results import Part
from otoscope.types.base import Public

Combine = Literal["evidence", "mean", "max"]
"""How the windows of a sound become one list of predictions."""

MAX_CHANNELS = 64
"""That a sound may have."""

MAX_BATCH = 256
"""Sounds that a batch may have."""

Channel = Annotated[int, Field(ge=1, le=MAX_CHANNELS)] | Literal["mean", "left", "loudest"]
"""Which channel of a sound is classified."""


class JobOptions(Public):
    """The options of a submission; the same names as form fields, JSON keys and query parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(None, description="one of /v1/models; the server's default when absent")
    top_k: int = Field(5, ge=1, le=1_000, description="number of predictions")
    include: tuple[Part, ...] = Field((), description="parts to return in addition to the predictions")
    window: int | None = Field(None, ge=0, description="which window the arrays are of; the deciding one when absent")
    layer: str | None = Field(
        None, description="a layer to look into: all of its channels, and of a residual block what it adds"
    )
    cam_class: str | None = Field(
        None, description="the class of the parts `cam` and `occlusion`; the first prediction when absent"
    )
    cell: str | None = Field(
        None,
        max_length=400,
        description="a number of the network whose computation is returned: `LAYER:CHANNEL:ROW:COLUMN`, counted from 0"
        f" and from the lowest frequency, or `{LOGITS}:CLASS`",
    )
    combine: Combine | None = Field(
        None,
        description="how windows become one answer: `evidence` (the strongest of each class, weighted by the known"
        " score), `mean` or `max` of those with something to hear; the model's default when absent",
    )
    unknown_threshold: float | None = Field(
        None, ge=0, le=1, description="known score below which the verdict is `unknown`; the model's when absent"
    )
    min_confidence: float | None = Field(
        None, ge=0, le=1, description="confidence below which the verdict is `unsure`; the model's when absent"
    )
    channel: Channel = Field(
        "mean",
        description="which channel is classified: a number from 1 on, `left` (the first), `loudest` (the one with the"
        " most energy) or `mean`, which takes the loudest one if the channels cancel each other. One that the file"
        " lacks is refused with `audio_channels`, or the job fails with it where only the decoder knows their number",
    )
    strict: bool = Field(
        False, description="refuse a sound that is cut or damaged, instead of classifying what can be read of it"
    )
    overlap: float = Field(0.5, ge=0, le=0.9, description="share by which the windows of a long sound overlap")
    merge_gap: float = Field(1.0, ge=0, description="seconds: closer detections of one class are joined")
    min_duration: float = Field(0.0, ge=0, description="seconds: shorter detections are left out")
    keep_sound: bool = Field(
        False,
        description="keep the sound as long as the result, at `/v1/jobs/{id}/audio`, instead of deleting it when the"
        " job ends; refused by a service that keeps no sounds (`share_sounds` of `/v1/limits`)",
    )


class JobRequest(JobOptions):
    """The JSON form of a submission: the sound in `audio_data`, or its address in `audio_url`."""

    audio_data: str | None = Field(None, description="the sound file, base64")
    audio_url: str | None = Field(None, description="https:// or s3:// address, of a source that the service allows")
