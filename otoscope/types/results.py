"""The JSON form of a result and of its parts."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model

from otoscope.arithmetic import OPERATIONS
from otoscope.results import PARTS, WARNINGS
from otoscope.types.base import Public


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
