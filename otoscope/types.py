"""The public JSON. Field names stand here once; the page, the client and the tests take them from here."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from otoscope.errors import InvalidRequest
from otoscope.results import PARTS
from otoscope.results import Part as Part

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]

FINAL: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})
"""A job in one of these never changes again."""


class Public(BaseModel):
    model_config = ConfigDict(populate_by_name=True, extra="forbid")


class Prediction(Public):
    class_: Annotated[str, Field(alias="class", examples=["dog"])]
    confidence: Annotated[float, Field(ge=0, le=1, examples=[0.93])]


class ArrayJSON(Public):
    """Numbers as nested lists, row-major."""

    shape: list[int]
    values: list[Any]


class Window(Public):
    start: float = Field(description="seconds from the beginning")
    end: float
    predictions: list[Prediction]


class Waveform(Public):
    """The envelope of the whole sound: minimum and maximum of each of `len(min)` equal stretches."""

    min: list[float]
    max: list[float]
    sample_rate: int = Field(description="Hz, of the uploaded file")
    duration: float = Field(description="seconds")


class _ResultFields(Public):
    """The fields of a result that have a JSON form of their own."""

    model: str
    predictions: list[Prediction] = Field(description="most confident first")
    duration: float = Field(description="seconds of sound")
    sample_rate: int = Field(description="Hz, of the uploaded file")
    combined: str = Field(description="how the predictions of the windows were combined")
    window: int = Field(description="index of the window that the arrays of one window are of")
    window_count: int
    windows: list[Window] | None = Field(None, description=PARTS["windows"].summary)
    maps: dict[str, ArrayJSON] | None = Field(None, description=f"by layer: {PARTS['maps'].summary}")
    waveform: Waveform | None = Field(None, description=PARTS["waveform"].description)
    channels: dict[str, ArrayJSON] | None = Field(
        None,
        description="all channels of the requested `layer`, (channels, height, width), under its name; of a residual"
        " block also the output of its convolutions, under `<layer>.residual`, and the shortcut that is added to it,"
        " under `<layer>.shortcut`",
    )


if TYPE_CHECKING:

    class _ResultArrays(_ResultFields):
        def __getattr__(self, name: str) -> ArrayJSON | None:
            """A part that is one array; the fields are added below, one for each part."""

else:
    _ResultArrays = create_model(
        "_ResultArrays",
        __base__=_ResultFields,
        **{
            name: (
                dict[str, ArrayJSON] | None if info.per_layer else ArrayJSON | None,
                Field(None, description=info.summary),
            )
            for name, info in PARTS.items()
            if name not in _ResultFields.model_fields
        },
    )


class ResultJSON(_ResultArrays):
    """The JSON form of `otoscope.results.Result`; parts that were not requested are absent."""


class AudioInfo(Public):
    """What the upload was."""

    name: str | None = None
    bytes: int
    container: str
    codec: str
    sample_rate: int | None = Field(None, description="Hz")
    channels: int | None = None
    duration: float | None = Field(None, description="seconds, as the header says")


class Timings(Public):
    """Seconds spent at each stage; absent until the stage is over."""

    queue: float | None = None
    decode: float | None = None
    batch: float | None = Field(None, description="waiting for a batch")
    forward: float | None = Field(None, description="the forward passes of all windows")
    total: float | None = None


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
    timings: Timings = Timings()
    error: ErrorInfo | None = None
    audio: AudioInfo
    links: dict[str, str]
    result: ResultJSON | None = None


class JobOptions(Public):
    """What a caller may ask for; the same names as form fields, JSON keys and query parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(None, description="one of /v1/models; the server's default when absent")
    top_k: int = Field(5, ge=1, le=1_000, description="how many predictions")
    include: tuple[Part, ...] = Field((), description="what to return beside the predictions")
    window: int | None = Field(None, ge=0, description="which window the arrays are of; the deciding one when absent")
    layer: str | None = Field(
        None, description="a layer to look into: all of its channels, and of a residual block what it adds"
    )


class JobRequest(JobOptions):
    """The JSON form of a submission."""

    audio_data: str = Field(description="the sound file, base64")


class EvaluateRequest(BaseModel):
    """The older systems' request. Unknown keys are ignored, as they did."""

    audio_data: str = Field(description="the sound file, base64")


class LegacyWaveform(Public):
    values: list[float]
    sample_rate: int
    duration: float


class EvaluateResponse(Public):
    """The older systems' answer."""

    predictions: list[Prediction]
    visualization: dict[str, ArrayJSON]
    input_spectrogram: ArrayJSON | None = None
    input_spectogram: ArrayJSON | None = Field(None, description="the older spelling, with ?spelling=old")
    waveform: LegacyWaveform


class Accuracy(BaseModel):
    """One measured accuracy and how it was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    protocol: str
    correct: int
    total: int


LayerKind = Literal["stem", "residual", "plain", "stage"]


class ReceptiveField(Public):
    """What one cell of a layer can see of the spectrogram: along mels as along frames, cell `i` sees `size` of them
    from `start + i * stride` on, beyond the edges too. What a squeeze-and-excitation gate sees, the whole, does not
    count."""

    start: int
    stride: int
    size: int


class Layer(Public):
    """Something to look at inside a network."""

    name: str
    shape: list[int] = Field(description="(channels, height, width) for one window")
    kind: LayerKind = Field("stage", description="a stage is the same activation as the last block in it")
    inputs: list[str] = Field([], description="the layers that feed it; none where the spectrogram does")
    receptive_field: ReceptiveField | None = Field(None, description="null where not known")


class ModelCard(Public):
    """What is served under a name."""

    name: str
    description: str
    classes: list[str]
    sample_rate: int = Field(description="Hz that sounds are brought to")
    window_seconds: float
    architecture: dict[str, Any]
    frontend: dict[str, Any]
    parameters: int
    layers: list[Layer]
    accuracy: list[Accuracy]
    licence: str
    version: str = Field(description="changes whenever the weights do")

    def require_layer(self, name: str) -> None:
        """Raises InvalidRequest, which names some that there are."""
        names = [layer.name for layer in self.layers]
        if name not in names:
            names.sort(key=lambda known: known.count("."))  # stages before the blocks inside
            known = ", ".join(names[:6]) + (" and so on" if len(names) > 6 else "")
            raise InvalidRequest(f"Model {self.name} has no layer {name!r}; it has {known or 'none'}.")


class ModelList(Public):
    default: str
    models: list[ModelCard]


class Limits(Public):
    """What is accepted, so that it can be told before anything is sent."""

    max_upload_bytes: int
    max_seconds: float
    min_seconds: float
    max_channels: int
    min_rate: int = Field(description="Hz")
    max_rate: int = Field(description="Hz")
    formats: list[str] = Field(description="containers, in words")
    extensions: list[str] = Field(description="of file names, for a file picker", examples=[[".wav", ".flac"]])
    max_wait: float = Field(description="seconds that `wait` can hold a line at most")
    result_ttl: int = Field(description="seconds that a finished job can be read")
    queue_limit: int = Field(description="unfinished jobs past which none is taken")


class Ready(Public):
    status: Literal["ready", "not_ready"]
    redis: bool
    workers: int = Field(description="workers that have run a forward pass and answer now")
    models: list[str]


class WorkerInfo(Public):
    """What a worker says of itself every two seconds."""

    id: str
    models: list[str]
    busy: int = Field(description="jobs it holds")
    metrics: str | None = Field(description="address of its metrics as it knows it, which need not be one for you")


class WorkerList(Public):
    workers: list[WorkerInfo]


class Live(Public):
    status: Literal["live"] = "live"


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str | None = None
