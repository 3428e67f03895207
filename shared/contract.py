"""Names, keys and binary forms that gateway and worker must agree on."""

import uuid
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from shared.errors import ContractMismatch

CONTRACT_VERSION = 1
"""Raised when something that one side writes for the other comes to mean something else. A side reads what earlier
versions wrote and what the next one writes, which therefore only adds: what a version took away or changed, the version
before it did not rely on any more."""


def understood(version: int) -> bool:
    """Whether what that version wrote can be read here."""
    return version <= CONTRACT_VERSION + 1


QUEUE = "otoscope"
"""List of who is next: the names of callers whose turn it is, and messages that were given back."""
CLASSIFY = "otoscope.classify"
"""The only task; its only argument is a job id."""

CHANGES = "otoscope:changes"
"""Channel on which every change of a job is published, `<id> <status>`: a wake-up call, which may be missed."""

WAITING = "otoscope:waiting"
"""Sorted set of queued job ids by the time of their submission."""
OPEN = "otoscope:open"
"""Sorted set of unfinished job ids by their deadline."""
WORKERS = "otoscope:workers"
"""Sorted set of worker ids by the time until which each vouches for itself."""
MODELS = "otoscope:models"
"""Hash of model name to model card, as the workers last announced them."""
MODELS_TOLD = "otoscope:models:told"
"""Sorted set of the names in it by the time of that."""

TOTALS = "otoscope:totals"
"""Hash of how many jobs were accepted, and how many ended in each way; counted in the step that does it."""
COUNTED = ("accepted", "succeeded", "failed", "cancelled", "expired")
"""The fields of TOTALS. What was accepted is one of the others in the end, and no more than one."""

LISTS_TTL = 86_400
"""Seconds that the above outlive the last write to them; no key is without an end."""

FINAL = frozenset({"succeeded", "failed", "cancelled"})


def new_job_id() -> str:
    """Unguessable: 122 random bits."""
    return uuid.uuid4().hex


def job_key(job_id: str) -> str:
    """Hash: the job's record."""
    return f"otoscope:job:{job_id}"


def audio_key(job_id: str) -> str:
    """The upload, until the job is finished."""
    return f"otoscope:audio:{job_id}"


def result_key(job_id: str) -> str:
    """The packed result."""
    return f"otoscope:result:{job_id}"


def events_key(job_id: str) -> str:
    """Stream: one entry a change of state, and `result` last."""
    return f"otoscope:events:{job_id}"


def gone_key(job_id: str) -> str:
    """Tombstone: there was such a job."""
    return f"otoscope:gone:{job_id}"


def line_key(caller: str) -> str:
    """List: the messages of one caller's jobs that no worker has taken yet."""
    return f"otoscope:line:{caller}"


def idempotency_key(digest: str) -> str:
    """Job id and request digest under the hash of an Idempotency-Key."""
    return f"otoscope:idempotency:{digest}"


def worker_key(worker_id: str) -> str:
    """The JSON with which a worker vouches for itself."""
    return f"otoscope:worker:{worker_id}"


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


_ARRAYS = ("spectrogram", "embedding", "cam", "waveform", "full_spectrogram")


def pack_result(result: Result) -> bytes:
    """The stored and public binary form."""
    tree: dict[str, Any] = {
        "contract": CONTRACT_VERSION,
        "model": result.model,
        "predictions": [{"class": name, "confidence": p} for name, p in result.predictions],
        "duration": result.duration,
        "sample_rate": result.sample_rate,
        "combined": result.combined,
        "window": result.window,
        "windows": [
            {
                "start": w.start,
                "end": w.end,
                "predictions": [{"class": name, "confidence": p} for name, p in w.predictions],
            }
            for w in result.windows
        ],
        "parts": result.parts,
        "maps": {layer: _pack_array(values) for layer, values in result.maps.items()},
        "channels": {name: _pack_array(values) for name, values in result.channels.items()},
    }
    for name in _ARRAYS:
        values = getattr(result, name)
        tree[name] = None if values is None else _pack_array(values)
    return msgpack.packb(tree)  # type: ignore[no-any-return]


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
        **{name: None if tree.get(name) is None else _unpack_array(tree[name]) for name in _ARRAYS},
    )


def _unpack_predictions(tree: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(p["class"], p["confidence"]) for p in tree]


def _pack_array(values: Array) -> dict[str, Any]:
    return {"shape": list(values.shape), "data": np.ascontiguousarray(values, dtype="<f2").tobytes()}


def _unpack_array(tree: dict[str, Any]) -> Array:
    return np.frombuffer(tree["data"], dtype="<f2").reshape(tree["shape"])
