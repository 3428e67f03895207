"""Packs results: the binary form that the worker stores and the gateway sends."""

import math
from dataclasses import asdict
from typing import Any

import msgpack
import numpy as np

from otoscope.arithmetic import pack
from otoscope.results import ARRAYS, ARRAYS_PER_LAYER, CONTRACT_VERSION, LTSA_COLUMNS, Array, Result
from otoscope.types import JobOptions, ModelCard, Part
from shared.audio.limits import WHOLE_SECONDS

WINDOW_PREDICTIONS = 25_000
"""Of all windows of a sound together at most, a megabyte. All of them are in the result: without a limit that of five
minutes, of which a model of 521 classes has 600 windows, would take 12 MB for them."""
WINDOW_TOP_K = 10
"""Predictions that each window has in spite of that, if so many were requested."""

_FIXED_BYTES = 8 * 1024  # what every result has, and the envelope
_ARITHMETIC_BYTES = 512 * 1024  # of `cell`: worker.model.arithmetic limits its numbers
_NUMBER = np.dtype("<f2").itemsize  # of every array
_ALLOCATOR = 1.25  # jemalloc rounds up to the next of four sizes for each power of two


def pack_result(result: Result) -> bytes:
    """A result as MessagePack; arrays are their shape and little-endian float16 values in row order."""
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
                "active": w.active,
                "known": w.known,
                "level": None if w.level is None else asdict(w.level),
            }
            for w in result.windows
        ],
        "parts": result.parts,
        "verdict": result.verdict,
        "known": result.known,
        "level": None if result.level is None else asdict(result.level),
        "warnings": [asdict(warning) for warning in result.warnings],
        "detections": [
            {"class": d.class_, "start": d.start, "end": d.end, "confidence": d.confidence, "peak": d.peak}
            for d in result.detections
        ],
    }
    for name in ARRAYS_PER_LAYER:
        tree[name] = {layer: _pack_array(values) for layer, values in getattr(result, name).items()}
    for name in ARRAYS:
        values = getattr(result, name)
        tree[name] = None if values is None else _pack_array(values)
    if result.arithmetic is not None:
        tree["arithmetic"] = result.arithmetic.tree(pack)
    return msgpack.packb(tree)  # type: ignore[no-any-return]


def window_top_k(top_k: int, windows: int) -> int:
    """Predictions of each of so many windows, of which `top_k` were requested."""
    return min(top_k, max(WINDOW_TOP_K, WINDOW_PREDICTIONS // max(windows, 1)))


def largest_result(card: ModelCard, options: JobOptions, duration: float | None) -> int:
    """Bytes that Redis needs at most for the packed result of a sound of so many seconds.

    A sound without a duration in its header is taken for one of ten minutes.
    """
    seconds, parts = WHOLE_SECONDS if duration is None else duration, options.include
    window, mels = card.window_seconds, int(card.frontend.get("n_mels", 128))
    frames_per_second = card.sample_rate / float(card.frontend.get("hop", 160))

    def spectrogram(length: float) -> float:
        return _NUMBER * mels * (length * frames_per_second + 2)

    windows = 1 + math.ceil(max(0.0, seconds - window) / (window * (1 - options.overlap)))
    top_k = min(options.top_k, len(card.classes))
    label = max((len(name.encode()) for name in card.classes), default=0)
    in_windows = max(min(windows * top_k, WINDOW_PREDICTIONS), windows * min(top_k, WINDOW_TOP_K))
    bytes_: float = _FIXED_BYTES + (top_k + in_windows) * (label + 32) + windows * 192
    widest = max((layer.shape[0] for layer in card.layers), default=0)
    if Part.DETECTIONS in parts:
        bytes_ += in_windows * (label + 80)
    if Part.SPECTROGRAM in parts:
        bytes_ += spectrogram(window)
    if Part.FULL_SPECTROGRAM in parts:  # a longer sound is refused
        bytes_ += spectrogram(max(window, min(seconds, WHOLE_SECONDS)))
    if Part.LTSA in parts:
        bytes_ += min(spectrogram(max(window, seconds)), _NUMBER * mels * LTSA_COLUMNS)
    if Part.MAPS in parts:
        bytes_ += sum(_NUMBER * math.prod(layer.shape[1:]) + len(layer.name) + 32 for layer in card.layers)
    if Part.EMBEDDING in parts:
        bytes_ += 4 * _NUMBER * widest  # a network that pools several layers joins them
    if Part.CAM in parts:
        bytes_ += max((_NUMBER * math.prod(layer.shape[1:]) for layer in card.layers), default=0)
    if Part.OCCLUSION in parts:
        bytes_ += _NUMBER * Part.OCCLUSION.info.passes  # one number each, but for that of the whole window
    if options.layer is not None:  # of a residual block the residual and the shortcut, too
        shapes = (layer.shape for layer in card.layers if layer.name == options.layer)
        bytes_ += 3 * sum(_NUMBER * math.prod(shape) for shape in shapes) + 1024
    if options.cell is not None:
        bytes_ += _ARITHMETIC_BYTES
    return math.ceil(bytes_ * _ALLOCATOR)


def _pack_array(values: Array) -> dict[str, Any]:
    return {"shape": list(values.shape), "data": np.ascontiguousarray(values, dtype="<f2").tobytes()}
