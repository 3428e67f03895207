"""The result of a job: predictions and arrays, and the binary form in which it is stored and sent."""

from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from otoscope.errors import ContractMismatch

CONTRACT_VERSION = 1
"""Raised when something that one side writes for the other comes to mean something else. A side reads what earlier
versions wrote and what the next one writes, which therefore only adds: what a version took away or changed, the version
before it did not rely on any more."""


def understood(version: int) -> bool:
    """Whether what that version wrote can be read here."""
    return version <= CONTRACT_VERSION + 1


Array = NDArray[np.float16]


@dataclass
class WindowPrediction:
    """What one window of a sound was taken for."""

    start: float  # seconds
    end: float
    predictions: list[tuple[str, float]]


@dataclass
class Result:
    """What the worker found. Arrays are float16 and present only where they were asked for.

    Packed it is a MessagePack map with these field names; an array is a map of `shape` and `data`, the little-endian
    float16 values in row-major order.
    """

    model: str
    predictions: list[tuple[str, float]]
    duration: float  # seconds of sound
    sample_rate: int  # Hz, of the uploaded file
    windows: list[WindowPrediction]
    combined: str  # how the windows became one answer
    window: int  # index of the window that the arrays below are of
    spectrogram: Array | None = None  # (mels, frames), dB
    maps: dict[str, Array] = field(default_factory=dict)  # layer -> (height, width), channel means
    embedding: Array | None = None  # (features,)
    cam: Array | None = None  # (height, width) of the last stage, for the first prediction, 0 to 1
    waveform: Array | None = None  # (2, buckets): minimum and maximum of each stretch of the whole sound
    full_spectrogram: Array | None = None  # (mels, frames) of the whole sound, dB
    channels: dict[str, Array] = field(default_factory=dict)  # layer, or part of a block -> (channels, height, width)
    parts: list[str] = field(default_factory=list)  # what was asked for beside the predictions


ARRAYS = ("spectrogram", "embedding", "cam", "waveform", "full_spectrogram")


def unpack_result(packed: bytes) -> Result:
    """The reverse; arrays are read-only views into `packed`. What was stored before a field existed lacks it, and what
    is not known here is left out. Raises ContractMismatch."""
    tree = msgpack.unpackb(packed)
    if not understood(tree["contract"]):
        told = f"This result is of contract {tree['contract']}, and {CONTRACT_VERSION} is known here."
        raise ContractMismatch(told, retry_after=5)  # another gateway may be newer
    return Result(
        model=tree["model"],
        predictions=_unpack_predictions(tree["predictions"]),
        duration=tree["duration"],
        sample_rate=tree["sample_rate"],
        combined=tree["combined"],
        window=tree["window"],
        windows=[
            WindowPrediction(w["start"], w["end"], _unpack_predictions(w["predictions"])) for w in tree["windows"]
        ],
        parts=tree["parts"],
        maps={layer: _unpack_array(values) for layer, values in tree["maps"].items()},
        channels={name: _unpack_array(values) for name, values in tree.get("channels", {}).items()},
        **{name: None if tree.get(name) is None else _unpack_array(tree[name]) for name in ARRAYS},
    )


def _unpack_predictions(tree: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(p["class"], p["confidence"]) for p in tree]


def _unpack_array(tree: dict[str, Any]) -> Array:
    return np.frombuffer(tree["data"], dtype="<f2").reshape(tree["shape"])
