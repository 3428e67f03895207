"""Packs results: the binary form that the worker stores and the gateway sends."""

from dataclasses import asdict
from typing import Any

import msgpack
import numpy as np

from otoscope.results import ARRAYS, ARRAYS_PER_LAYER, CONTRACT_VERSION, Array, Result


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
    return msgpack.packb(tree)  # type: ignore[no-any-return]


def _pack_array(values: Array) -> dict[str, Any]:
    return {"shape": list(values.shape), "data": np.ascontiguousarray(values, dtype="<f2").tobytes()}
