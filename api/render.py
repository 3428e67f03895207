"""A stored job or result as JSON, MessagePack or NPZ. Arrays go from float16 to text without passing through lists."""

import io
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from shared.contract import Array, Result, unpack_result
from shared.errors import NotAcceptable
from shared.records import JobRecord
from shared.schemas import Part

JSON, MSGPACK, NPZ = "application/json", "application/msgpack", "application/x-npz"
REPRESENTATIONS = (JSON, MSGPACK, NPZ)


def negotiate(accept: str | None) -> str:
    """Which representation an Accept header asks for; JSON where it leaves the choice. Raises NotAcceptable."""
    if not accept:
        return JSON
    best, best_quality = "", 0.0
    for clause in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in clause.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        offered = JSON if kind in ("*/*", "application/*") else kind
        if offered in REPRESENTATIONS and quality > best_quality:
            best, best_quality = offered, quality
    if not best:
        raise NotAcceptable(f"None of {accept} can be sent; {', '.join(REPRESENTATIONS)} can.")
    return best


def render_result(packed: bytes, kind: str) -> bytes:
    """A packed result in that representation. MessagePack is the stored form itself."""
    if kind == MSGPACK:
        return packed
    result = unpack_result(packed)
    return _npz(result) if kind == NPZ else dumps(result_tree(result))


def dumps(tree: Any) -> bytes:
    """JSON of a tree whose leaves may be numpy arrays."""
    return orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY)


def result_tree(result: Result) -> dict[str, Any]:
    """`ResultJSON` with numpy arrays for leaves; parts that were not asked for are left out."""
    parts = set(result.parts)
    tree: dict[str, Any] = {
        "model": result.model,
        "predictions": predictions(result.predictions),
        "duration": result.duration,
        "sample_rate": result.sample_rate,
        "combined": result.combined,
        "window": result.window,
        "window_count": len(result.windows),
    }
    if Part.WINDOWS in parts:
        tree["windows"] = [
            {"start": w.start, "end": w.end, "predictions": predictions(w.predictions)} for w in result.windows
        ]
    for name in (Part.SPECTROGRAM, Part.EMBEDDING, Part.CAM, Part.FULL_SPECTROGRAM):
        values = getattr(result, name)
        if name in parts and values is not None:
            tree[name.value] = array(values)
    if Part.MAPS in parts:
        tree["maps"] = {layer: array(values) for layer, values in result.maps.items()}
    if result.channels:
        tree["channels"] = {name: array(values) for name, values in result.channels.items()}
    if result.waveform is not None:
        low, high = readable(result.waveform)
        tree["waveform"] = {
            "min": low,
            "max": high,
            "sample_rate": result.sample_rate,
            "duration": result.duration,
        }
    return tree


def predictions(pairs: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"class": name, "confidence": confidence} for name, confidence in pairs]


def array(values: Array) -> dict[str, Any]:
    """`ArrayJSON` with a numpy leaf."""
    return {"shape": list(values.shape), "values": readable(values)}


def readable(values: Array) -> NDArray[np.float32]:
    """float16 as the shortest decimals that still tell its values apart: four significant digits."""
    wide = values.astype(np.float32)
    with np.errstate(divide="ignore"):
        digits = 3 - np.floor(np.log10(np.abs(wide)))
    scale = np.power(10.0, np.clip(np.where(np.isfinite(digits), digits, 0), -4, 8))
    return np.ascontiguousarray(np.round(wide * scale) / scale, dtype=np.float32)


def job_tree(job: JobRecord, packed: bytes | None = None) -> dict[str, Any]:
    """`Job` as JSON-ready values; the result is included where it is given."""
    base = f"/v1/jobs/{job.id}"
    links = {"self": base, "events": f"{base}/events"}
    if job.status == "succeeded":
        links["result"] = f"{base}/result"
    return {
        "id": job.id,
        "status": job.status,
        "model": job.model,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "finished_at": _time(job.finished_at),
        "queue_position": job.position,
        "timings": job.timings.model_dump(),
        "error": (
            {"code": job.error.code, "title": job.error.title, "detail": job.error.detail} if job.error else None
        ),
        "audio": job.audio.model_dump(),
        "links": links,
        "result": result_tree(unpack_result(packed)) if packed is not None else None,
    }


def render_job(job: JobRecord, packed: bytes | None = None) -> bytes:
    return dumps(job_tree(job, packed))


def _time(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds") if seconds is not None else None


def _npz(result: Result) -> bytes:
    """Arrays under their names, maps as `maps/<layer>`, channels likewise; the rest as JSON text under `meta`."""
    arrays: dict[str, Any] = {f"maps/{layer}": values for layer, values in result.maps.items()}
    arrays |= {f"channels/{name}": values for name, values in result.channels.items()}
    for name in (Part.SPECTROGRAM, Part.EMBEDDING, Part.CAM, Part.WAVEFORM, Part.FULL_SPECTROGRAM):
        if getattr(result, name) is not None:
            arrays[name.value] = getattr(result, name)
    told = {*arrays, "maps", "channels", "waveform"}
    meta = {key: value for key, value in result_tree(result).items() if key not in told}
    file = io.BytesIO()
    np.savez_compressed(file, meta=np.array(dumps(meta).decode()), **arrays)
    return file.getvalue()
