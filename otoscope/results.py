"""The result of a job: predictions and arrays, and the binary form in which it is stored and sent.

Everything that a caller can add to a result with `include=` is declared once, as a field of `Result`: the name is the
field's, the rest is its `PartInfo`. From these fields follow the enum `Part`, the packed form, the JSON and NPZ
representations, the OpenAPI schema, the image routes and the table in docs/api.md. A new part is one new field here,
and the code of the worker that computes it.
"""

from dataclasses import dataclass, field, fields
from enum import EnumType, StrEnum
from typing import TYPE_CHECKING, Any, Literal

import msgpack
import numpy as np
from numpy.typing import NDArray

from otoscope.arithmetic import Arithmetic
from otoscope.errors import ContractMismatch

CONTRACT_VERSION = 1
"""Version of the data that gateway and worker exchange. It is raised when the meaning of a field changes. Each side
reads every earlier version and the next one, so a version may only add fields: one that a version removes or changes
must already be unused by the version before it."""


def understood(version: int) -> bool:
    """Whether data of that contract version can be read here."""
    return version <= CONTRACT_VERSION + 1


Array = NDArray[np.float16]

LTSA_COLUMNS = 4_096
"""Columns of a long-term spectral average at most."""


@dataclass(frozen=True)
class PartInfo:
    """How a part of a result is described, stored and served."""

    description: str
    axes: tuple[str, ...] = ()  # names of the dimensions, outermost first; empty for what is not an array
    unit: str = ""
    of: Literal["window", "sound"] = "sound"  # of the window `Result.window`, or of the whole sound
    per_layer: bool = False  # a dictionary from layer name to array, instead of one array
    image: bool = False  # served as /v1/jobs/{id}/<name>.png, or <name>/{layer}.png: (rows, columns), time in columns
    passes: int = 0  # forward passes of a window that it takes in addition

    @property
    def of_window_pass(self) -> bool:
        """Whether it comes with the forward pass of a window, and needs nothing of the rest of the sound."""
        return self.of == "window" and not self.passes

    @property
    def summary(self) -> str:
        """The description with axes and unit, as in `log-mel spectrogram, (mels, frames) in dB`."""
        axes = f"({', '.join(self.axes)})" if self.axes else ""
        return ", ".join(filter(None, [self.description, " in ".join(filter(None, [axes, self.unit]))]))


def _part(
    description: str,
    *axes: str,
    unit: str = "",
    of: Literal["window", "sound"] = "sound",
    per_layer: bool = False,
    image: bool = False,
    passes: int = 0,
) -> dict[str, PartInfo]:
    """The metadata of a field that is a part."""
    return {"part": PartInfo(description, axes, unit, of, per_layer, image, passes)}


@dataclass(frozen=True)
class Level:
    """The level of a sound or of a window. 0 dBFS is full scale; digital silence has no level."""

    peak_dbfs: float | None  # of the loudest sample
    rms_dbfs: float | None
    clipped: float = 0.0  # share of the samples that are at full scale, 0 to 1
    dc_offset: float = 0.0  # mean of the samples, of full scale; it was removed if it is large
    bandwidth: float | None = None  # Hz, the highest frequency that the sound uses; of a window: None


@dataclass(frozen=True)
class SoundWarning:
    """Something about a sound that makes its result less certain than it looks, or different from what was sent."""

    code: str  # one of WARNINGS
    detail: str


WARNINGS = {
    "silent": "nothing above the noise floor",
    "quiet": "the loudest tenth of a second is below -40 dBFS",
    "clipped": "more than a thousandth of the samples are at full scale",
    "beyond_full_scale": "samples beyond full scale; a file of integers stored as floats was scaled",
    "dc_offset": "a constant offset was removed",
    "channels_cancel": "the channels cancel each other; the loudest one was used",
    "narrow_band": "the sound and the model use different ranges of frequencies",
    "resampled_up": "the sample rate of the file is lower than that of the model",
    "other_tracks": "the file has several sound tracks; the first one was used",
    "truncated": "the file ends early or is damaged; what can be read was used",
}
"""The stable codes of warnings, and what each means."""


@dataclass
class WindowPrediction:
    """The predictions of one window of a sound."""

    start: float  # seconds
    end: float
    predictions: list[tuple[str, float]]
    active: bool = True  # whether there is something to hear in it
    known: float | None = None  # open-set score, 0 to 1; None for a model without one
    level: Level | None = None


@dataclass(frozen=True)
class Detection:
    """A class that is heard in a stretch of a sound."""

    class_: str
    start: float  # seconds
    end: float
    confidence: float  # the strongest evidence in the stretch, 0 to 1
    peak: float  # seconds: where it is loudest


@dataclass
class Result:
    """The result of classifying one sound. Arrays are float16 and present only where they were requested.

    Packed it is a MessagePack map with these field names; an array is a map of `shape` and `data`, the little-endian
    float16 values in row-major order.
    """

    model: str
    predictions: list[tuple[str, float]]
    duration: float  # seconds of sound
    sample_rate: int  # Hz, of the uploaded file
    windows: list[WindowPrediction] = field(  # always packed; in JSON only on request
        metadata=_part("predictions of each window, with its start and end in seconds")
    )
    combined: str  # how the predictions of the windows were combined
    window: int  # index of the window that the arrays of one window are of
    spectrogram: Array | None = field(
        default=None,
        metadata=_part(
            "log-mel spectrogram, lowest frequency first", "mels", "frames", unit="dB", of="window", image=True
        ),
    )
    maps: dict[str, Array] = field(
        default_factory=dict,
        metadata=_part(
            "mean over the channels of each layer", "height", "width", of="window", per_layer=True, image=True
        ),
    )
    embedding: Array | None = field(
        default=None, metadata=_part("input of the classifier layer", "features", of="window")
    )
    cam: Array | None = field(
        default=None,
        metadata=_part(
            "class activation map (CAM) of the last stage for the first prediction, 0 to 1", "height", "width",
            of="window", image=True,
        ),
    )  # fmt: skip
    waveform: Array | None = field(
        default=None,
        metadata=_part("envelope: minimum and maximum of each of 1,000 equal stretches", "bounds", "stretches"),
    )
    full_spectrogram: Array | None = field(
        default=None,
        metadata=_part(
            "log-mel spectrogram of the whole sound; frame k is centred k hops after the start", "mels", "frames",
            unit="dB", image=True,
        ),
    )  # fmt: skip
    ltsa: Array | None = field(
        default=None,
        metadata=_part(
            "long-term spectral average (LTSA): the log-mel spectrogram of a sound of any length in at most"
            f" {LTSA_COLUMNS:,} columns; each is the mean power of 1, 2, 4, 8, … frames", "mels", "columns", unit="dB",
            image=True,
        ),
    )  # fmt: skip
    occlusion: Array | None = field(
        default=None,
        metadata=_part(
            "occlusion map: by how much the confidence of the first prediction falls when a tile of the spectrogram is"
            " muted, -1 to 1", "rows", "columns", of="window", image=True, passes=61,
        ),
    )  # fmt: skip
    channels: dict[str, Array] = field(default_factory=dict)
    """Layer, or branch of a residual block -> (channels, height, width); requested by `layer=`, so not a part."""
    parts: list[str] = field(default_factory=list)  # what was requested beside the predictions
    verdict: str = "named"  # one of otoscope.types.Verdict
    known: float | None = None  # open-set score of the deciding window, 0 to 1; None for a model without one
    level: Level | None = None  # of the whole sound
    warnings: list[SoundWarning] = field(default_factory=list)
    detections: list[Detection] = field(
        default_factory=list,
        metadata=_part("which classes are heard when: class, start and end in seconds, confidence, loudest moment"),
    )
    arithmetic: Arithmetic | None = None
    """How the number of the requested `cell=` was computed; not a part, as `channels`. Its arrays are float32."""


PARTS: dict[str, PartInfo] = {each.name: each.metadata["part"] for each in fields(Result) if "part" in each.metadata}
"""The parts by name, in the order of the fields."""

ARRAYS = tuple(name for name, info in PARTS.items() if info.axes and not info.per_layer)
"""The parts that are one array each."""

ARRAYS_PER_LAYER = (*(name for name, info in PARTS.items() if info.per_layer), "channels")
"""The fields that are a dictionary of arrays each."""


class _PartType(EnumType):
    if TYPE_CHECKING:

        def __getattr__(cls, name: str) -> "Part":
            """The members follow from the fields of `Result`, which type checkers cannot see."""


class Part(StrEnum, metaclass=_PartType):
    """What a result can hold beside the predictions: the values of `include=`."""

    vars().update({name.upper(): name for name in PARTS})

    @property
    def info(self) -> PartInfo:
        return PARTS[self.value]


def unpack_result(packed: bytes) -> Result:
    """A packed result; arrays are read-only views into `packed`.

    A field that did not exist when the result was stored is absent, and unknown fields are ignored. Raises
    ContractMismatch.
    """
    tree = msgpack.unpackb(packed)
    if not understood(tree["contract"]):
        detail = f"This result has contract version {tree['contract']}; this program reads {CONTRACT_VERSION}."
        raise ContractMismatch(detail, retry_after=5)  # another gateway may be newer
    arrays: dict[str, Any] = {
        **{name: None if tree.get(name) is None else _unpack_array(tree[name]) for name in ARRAYS},
        **{name: _unpack_arrays(tree.get(name) or {}) for name in ARRAYS_PER_LAYER},
    }
    return Result(
        model=tree["model"],
        predictions=_unpack_predictions(tree["predictions"]),
        duration=tree["duration"],
        sample_rate=tree["sample_rate"],
        combined=tree["combined"],
        window=tree["window"],
        windows=[
            WindowPrediction(
                w["start"],
                w["end"],
                _unpack_predictions(w["predictions"]),
                w.get("active", True),
                w.get("known"),
                _unpack_level(w.get("level")),
            )
            for w in tree["windows"]
        ],
        parts=tree["parts"],
        verdict=tree.get("verdict", "named"),
        known=tree.get("known"),
        level=_unpack_level(tree.get("level")),
        warnings=[SoundWarning(w["code"], w["detail"]) for w in tree.get("warnings", ())],
        detections=[
            Detection(d["class"], d["start"], d["end"], d["confidence"], d["peak"]) for d in tree.get("detections", ())
        ],
        arithmetic=Arithmetic.of_tree(tree["arithmetic"]) if tree.get("arithmetic") else None,
        **arrays,
    )


def _unpack_predictions(tree: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(p["class"], p["confidence"]) for p in tree]


def _unpack_level(tree: dict[str, Any] | None) -> Level | None:
    """Fields that are not known here are ignored."""
    return None if tree is None else Level(**{name: tree[name] for name in _LEVEL if name in tree})


_LEVEL = tuple(each.name for each in fields(Level))


def _unpack_arrays(trees: dict[str, Any]) -> dict[str, Array]:
    return {layer: _unpack_array(tree) for layer, tree in trees.items()}


def _unpack_array(tree: dict[str, Any]) -> Array:
    return np.frombuffer(tree["data"], dtype="<f2").reshape(tree["shape"])
