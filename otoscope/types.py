"""The public JSON models. Field names are defined here only; the gateway, the client and the tests use these models."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from otoscope.arithmetic import LOGITS, OPERATIONS, Cell
from otoscope.errors import InvalidRequest
from otoscope.results import PARTS, WARNINGS
from otoscope.results import Part as Part

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]

FINAL: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})
"""Final states: a job in one of them does not change any more."""


class Public(BaseModel):
    model_config = ConfigDict(populate_by_name=True, extra="forbid")


class Prediction(Public):
    class_: Annotated[str, Field(alias="class", examples=["dog"])]
    confidence: Annotated[float, Field(ge=0, le=1, examples=[0.93])]


class ArrayJSON(Public):
    """Numbers as nested lists, row-major."""

    shape: list[int]
    values: list[Any]


Verdict = Literal["named", "unsure", "unknown", "silent"]
"""How far to trust the first prediction. `named`: as far as the model. `unsure`: the confidence is below the one from
which on the model is right in 80 % of the cases; of a multi-label model, no class reaches its threshold. `unknown`: the
sound is none of the model's classes. `silent`: there is nothing to hear."""

Combine = Literal["evidence", "mean", "max"]
"""How the windows of a sound become one list of predictions."""

MAX_CHANNELS = 64
"""That a sound may have."""

MAX_BATCH = 256
"""Sounds that a batch may have."""

Channel = Annotated[int, Field(ge=1, le=MAX_CHANNELS)] | Literal["mean", "left", "loudest"]
"""Which channel of a sound is classified."""


class Level(Public):
    """0 dBFS is full scale; a level is null for digital silence."""

    peak_dbfs: float | None = Field(description="of the loudest sample")
    rms_dbfs: float | None
    clipped: float = Field(0.0, description="share of the samples at full scale, 0 to 1")
    dc_offset: float = Field(0.0, description="mean of the samples; a large one was removed")
    bandwidth: float | None = Field(None, description="Hz, the highest frequency that the sound uses; not of windows")


class SoundWarning(Public):
    """Something about the sound that makes its result less certain than it looks."""

    code: str = Field(description=f"one of {', '.join(WARNINGS)}", examples=["quiet"])
    detail: str


class Detection(Public):
    """A class that is heard in a stretch of the sound."""

    class_: Annotated[str, Field(alias="class", examples=["siren"])]
    start: float = Field(description="seconds from the beginning")
    end: float
    confidence: float = Field(ge=0, le=1, description="the strongest evidence in the stretch")
    peak: float = Field(description="seconds: where it is loudest")


class DetectionList(Public):
    """The detections of a sound; the JSON of `/v1/jobs/{id}/detections`."""

    file: str = Field(description="the name of the uploaded file")
    model: str
    duration: float = Field(description="seconds of sound")
    sample_rate: int = Field(description="Hz, of the uploaded file")
    detections: list[Detection]


class Window(Public):
    start: float = Field(description="seconds from the beginning")
    end: float
    predictions: list[Prediction]
    active: bool = Field(True, description="whether there is something to hear in it")
    known: float | None = Field(None, description="open-set score, 0 to 1; null for a model without one")
    level: Level | None = None


class Waveform(Public):
    """The envelope of the whole sound: minimum and maximum of each of `len(min)` equal stretches."""

    min: list[float]
    max: list[float]
    sample_rate: int = Field(description="Hz, of the uploaded file")
    duration: float = Field(description="seconds")


class OperationJSON(Public):
    """One operation of the network. What it has beside its value depends on its kind."""

    kind: str = Field(description="; ".join(f"`{kind}`: {text}" for kind, text in OPERATIONS.items()))
    value: float = Field(description="its output")
    inputs: list[int] = Field([], description="indexes of the operations that compute its inputs")
    name: str = Field("", description="of the module that has its weights, of the function, or of the layer")
    place: list[int] = Field(
        [], description="channel, row and column of a cell, or of the first number of a patch in its layer"
    )
    layer: str = Field("", description="from which the patch is cut; absent where it is not a layer")
    positions: list[int] = Field([], description="of each of `inputs` in the patch, counted row by row")
    numbers: dict[str, float] = Field({}, description="bias, mean, variance, weight, epsilon")
    patch: ArrayJSON | None = Field(None, description="(channels, rows, columns), zeros where it is padded")
    kernel: ArrayJSON | None = Field(None, description="the shape of the patch")


class ArithmeticJSON(Public):
    """How the network computed one number, in float32."""

    cell: str = Field(description="as requested")
    operations: list[OperationJSON] = Field(description="the last one that was computed first")
    logits: list[float] = Field([], description="of all classes, where `cell` is a logit")
    temperature: float = Field(1.0, description="divides the logits before the softmax")


class _ResultFields(Public):
    """The fields of a result that have a JSON form of their own."""

    model: str
    predictions: list[Prediction] = Field(description="most confident first")
    duration: float = Field(description="seconds of sound")
    sample_rate: int = Field(description="Hz, of the uploaded file")
    combined: str = Field(description="how the predictions of the windows were combined")
    window: int = Field(description="index of the window that the arrays of one window are of")
    window_count: int
    verdict: Verdict = Field("named", description="how far to trust the first prediction")
    known: float | None = Field(
        None,
        description="open-set score of the deciding window, 0 to 1: a low one means a sound of none of the classes;"
        " null for a model without one",
    )
    level: Level | None = Field(None, description="of the whole sound")
    warnings: list[SoundWarning] = []
    detections: list[Detection] | None = Field(None, description=PARTS["detections"].summary)
    windows: list[Window] | None = Field(None, description=PARTS["windows"].summary)
    maps: dict[str, ArrayJSON] | None = Field(None, description=f"by layer: {PARTS['maps'].summary}")
    waveform: Waveform | None = Field(None, description=PARTS["waveform"].description)
    channels: dict[str, ArrayJSON] | None = Field(
        None,
        description="all channels of the requested `layer`, (channels, height, width), under its name; of a residual"
        " block also the output of its convolutions, under `<layer>.residual`, and the shortcut that is added to it,"
        " under `<layer>.shortcut`",
    )
    arithmetic: ArithmeticJSON | None = Field(None, description="how the number of the requested `cell` was computed")


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
        description="`self` and `events`; of a succeeded job `result`, and `detections`, which it has with that part"
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
    cam_class: str | None = Field(None, description="the class of the CAM; the first prediction when absent")
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


class JobRequest(JobOptions):
    """The JSON form of a submission: the sound in `audio_data`, or its address in `audio_url`."""

    audio_data: str | None = Field(None, description="the sound file, base64")
    audio_url: str | None = Field(None, description="https:// or s3:// address, of a source that the service allows")


class EvaluateRequest(BaseModel):
    """The request of older services. Unknown keys are ignored, as by them."""

    audio_data: str = Field(description="the sound file, base64")


class LegacyWaveform(Public):
    values: list[float]
    sample_rate: int
    duration: float


class EvaluateResponse(Public):
    """The response of older services."""

    predictions: list[Prediction]
    visualization: dict[str, ArrayJSON]
    input_spectrogram: ArrayJSON | None = None
    input_spectogram: ArrayJSON | None = Field(None, description="the older spelling, with ?spelling=old")
    waveform: LegacyWaveform


class ReliabilityBin(BaseModel):
    """Predictions of about the same confidence: a bar of a reliability diagram."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float = Field(description="of the confidences")
    high: float
    sounds: int
    confidence: float = Field(description="mean")
    accuracy: float = Field(description="share of the sounds whose first class is right")


class Accuracy(BaseModel):
    """A measured accuracy, and the protocol of the measurement."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    protocol: str
    correct: int
    total: int
    reliability: tuple[ReliabilityBin, ...] = Field((), description="of whole recordings; empty where not measured")


LayerKind = Literal["stem", "residual", "plain", "stage"]


class ReceptiveField(Public):
    """The receptive field of a layer on the spectrogram, the same along mels and frames: cell `i` covers `size` of them
    from `start + i * stride` on, padding included. The global receptive field of squeeze-and-excitation gates is not
    counted."""

    start: int
    stride: int
    size: int
    patch: int | None = Field(
        None,
        description="frames of a patch, if the network takes the spectrogram in patches: a cell depends on no frame of"
        " another patch than the one that it begins in, the first of which begins at frame 0",
    )


class Layer(Public):
    """A layer whose activations can be requested."""

    name: str
    shape: list[int] = Field(description="(channels, height, width) for one window")
    kind: LayerKind = Field("stage", description="a stage has the same activation as its last block")
    inputs: list[str] = Field([], description="names of its input layers; empty if the input is the spectrogram")
    receptive_field: ReceptiveField | None = Field(None, description="null if not known")


class ModelCard(Public):
    """A served model."""

    name: str
    description: str
    classes: list[str]
    multi_label: bool = Field(
        False,
        description="whether several classes can be right at once: each confidence is of its class alone, and they do"
        " not sum to 1",
    )
    parents: dict[str, list[str]] = Field(
        {}, description="what a class is a kind of, and so on upwards; empty for classes without an ontology"
    )
    sample_rate: int = Field(description="Hz to which sounds are resampled")
    window_seconds: float
    architecture: dict[str, Any]
    frontend: dict[str, Any]
    parameters: int
    layers: list[Layer]
    accuracy: list[Accuracy]
    licence: str
    version: str = Field(description="changes with the weights")

    def require_layer(self, name: str) -> None:
        """Raises InvalidRequest if there is no such layer; the message names some that exist."""
        names = [layer.name for layer in self.layers]
        if name not in names:
            names.sort(key=lambda known: known.count("."))  # stages before the blocks inside
            known = ", ".join(names[:6]) + (" and so on" if len(names) > 6 else "")
            raise InvalidRequest(f"Model {self.name} has no layer {name!r}; it has {known or 'none'}.")

    def require_cell(self, text: str) -> Cell:
        """The cell of the option `cell`. Raises InvalidRequest if the model has no such number."""
        cell = Cell.parse(text, self.classes)
        if cell.layer != LOGITS:
            self.require_layer(cell.layer)
            shape = next(layer.shape for layer in self.layers if layer.name == cell.layer)
            place = (cell.channel, cell.row, cell.column)
            if any(at >= size for at, size in zip(place, shape, strict=True)):
                raise InvalidRequest(f"cell: {cell.layer} has the shape {shape}; {list(place)} is outside of it.")
        return cell


class ModelList(Public):
    default: str
    models: list[ModelCard]


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
    queue_limit: int = Field(description="unfinished jobs from which on submissions are refused")


class Ready(Public):
    status: Literal["ready", "not_ready"]
    redis: bool
    workers: int = Field(description="workers that have run a forward pass and send heartbeats")
    models: list[str]
    writable: bool = Field(
        True, description="false while Redis cannot write its file, because its disk is full for instance"
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
