"""Packs results: the binary form that the worker stores and the gateway sends."""

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
            }
            for w in result.windows
        ],
        "parts": result.parts,
    }
    for name in ARRAYS_PER_LAYER:
        tree[name] = {layer: _pack_array(values) for layer, values in getattr(result, name).items()}
    for name in ARRAYS:
        values = getattr(result, name)
        tree[name] = None if values is None else _pack_array(values)
    return msgpack.packb(tree)  # type: ignore[no-any-return]


def _pack_array(values: Array) -> dict[str, Any]:
    return {"shape": list(values.shape), "data": np.ascontiguousarray(values, dtype="<f2").tobytes()}
