"""Jobs and results as JSON, MessagePack and NPZ. A body is a list of pieces, so that a large one is never joined."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgpack
import numpy as np
from fastapi import Response
from starlette.responses import StreamingResponse

from api.rendering.json_arrays import PIECE_BYTES, dumps
from otoscope.arithmetic import Float32Array
from otoscope.errors import PartNotFound
from otoscope.results import ARRAYS, ARRAYS_PER_LAYER, Array, Detection, Level, Part, Result, unpack_result
from shared.jobs.records import JobRecord

JSON, MSGPACK, NPZ = "application/json", "application/msgpack", "application/x-npz"
RESULT_TYPES = (JSON, MSGPACK, NPZ)
JOB_TYPES = (JSON, MSGPACK)

_SMALL_BYTES = 64 * 1024
"""A packed result up to this size is rendered as JSON in about a millisecond; a thread would cost more than that."""


def body_response(
    body: list[bytes], media_type: str, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A response with that body; streamed where it has several pieces."""
    if len(body) == 1:
        return Response(body[0], status, headers, media_type)

    async def pieces() -> AsyncIterator[bytes]:
        for piece in body:
            yield piece

    length = {"Content-Length": str(sum(map(len, body)))}
    return StreamingResponse(pieces(), status, {**(headers or {}), **length}, media_type)


async def render_result(packed: bytes, media_type: str) -> list[bytes]:
    """A packed result as one of RESULT_TYPES. MessagePack is the stored form itself."""
    if media_type == MSGPACK:
        return [packed]
    if media_type == NPZ:
        return [await asyncio.to_thread(_npz, packed)]
    return await render_json(packed, result_json)


async def render_job(job: JobRecord, media_type: str = JSON) -> list[bytes]:
    """A job as one of JOB_TYPES, with its result where the record has it."""
    if media_type == MSGPACK:
        return _msgpack_job({**job_json(job), "result": None}, job.packed)
    if job.packed is None:
        return dumps({**job_json(job), "result": None})
    return await render_json(job.packed, lambda result: {**job_json(job), "result": result_json(result)})


async def render_json(packed: bytes, to_tree: Callable[[Result], dict[str, Any]]) -> list[bytes]:
    """JSON of what `to_tree` returns for a packed result; a large one is rendered in a thread."""

    def render() -> list[bytes]:
        return dumps(to_tree(unpack_result(packed)))

    return render() if len(packed) <= _SMALL_BYTES else await asyncio.to_thread(render)


def _msgpack_job(tree: dict[str, Any], packed: bytes | None) -> list[bytes]:
    """MessagePack of a job; the value of `result`, its last key, is the packed result as it is stored."""
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_header(len(tree))
    for key, value in tree.items():
        packer.pack(key)
        if key != "result" or packed is None:
            packer.pack(value)
    pieces = [packer.bytes(), packed or b""]
    return pieces if len(pieces[1]) > PIECE_BYTES else [b"".join(pieces)]


def result_json(result: Result) -> dict[str, Any]:
    """`ResultJSON` with numpy arrays as leaves; parts that were not requested are absent."""
    tree: dict[str, Any] = {
        "model": result.model,
        "predictions": predictions_json(result.predictions),
        "duration": result.duration,
        "sample_rate": result.sample_rate,
        "combined": result.combined,
        "window": result.window,
        "window_count": len(result.windows),
        "verdict": result.verdict,
        "known": result.known,
        "level": level_json(result.level),
        "warnings": [asdict(warning) for warning in result.warnings],
    }
    for part in Part:
        if part in result.parts and (value := getattr(result, part)) is not None:
            tree[part.value] = _part_json(result, part, value)
    if result.channels:
        tree["channels"] = {name: array_json(values) for name, values in result.channels.items()}
    if result.arithmetic is not None:
        tree["arithmetic"] = result.arithmetic.tree(array_json)
    return tree


def _part_json(result: Result, part: Part, value: Any) -> Any:
    if part is Part.WINDOWS:
        return [
            {
                "start": w.start,
                "end": w.end,
                "predictions": predictions_json(w.predictions),
                "active": w.active,
                "known": w.known,
                "level": level_json(w.level),
            }
            for w in value
        ]
    if part is Part.DETECTIONS:
        return [detection_json(detection) for detection in value]
    if part is Part.WAVEFORM:
        low, high = value
        return {"min": low, "max": high, "sample_rate": result.sample_rate, "duration": result.duration}
    if part.info.per_layer:
        return {layer: array_json(values) for layer, values in value.items()}
    return array_json(value)


def part_not_found(result: Result, part: Part) -> PartNotFound:
    """The error for a part that was not requested with the sound."""
    parts = ", ".join(sorted(result.parts)) or "the predictions alone"
    return PartNotFound(f"The result has no {part}; submit the sound with include={part} to get it. It has {parts}.")


def predictions_json(predictions: list[tuple[str, float]]) -> list[dict[str, Any]]:
    """A list of `Prediction`."""
    return [{"class": name, "confidence": confidence} for name, confidence in predictions]


def level_json(level: Level | None) -> dict[str, Any] | None:
    """`otoscope.types.Level`."""
    return None if level is None else asdict(level)


def detection_json(detection: Detection) -> dict[str, Any]:
    """`otoscope.types.Detection`."""
    tree = asdict(detection)
    return {"class": tree.pop("class_"), **tree}


def array_json(values: Array | Float32Array) -> dict[str, Any]:
    """`ArrayJSON` with a numpy array as leaf."""
    return {"shape": list(values.shape), "values": values}


def job_json(job: JobRecord) -> dict[str, Any]:
    """`Job` without its result, as a tree that can be serialized."""
    base = f"/v1/jobs/{job.id}"
    links = {"self": base, "events": f"{base}/events"}
    if job.status == "succeeded":
        links |= {"result": f"{base}/result", "detections": f"{base}/detections"}
    if job.keeps_sound and (not job.final or job.status == "succeeded"):
        links["audio"] = f"{base}/audio"
    return {
        "id": job.id,
        "status": job.status,
        "model": job.model,
        "created_at": _timestamp(job.created_at),
        "started_at": _timestamp(job.started_at),
        "finished_at": _timestamp(job.finished_at),
        "queue_position": job.position,
        "progress": job.progress.model_dump() if job.progress else None,
        "timings": job.timings.model_dump(),
        "error": (
            {"code": job.error.code, "title": job.error.title, "detail": job.error.detail} if job.error else None
        ),
        "audio": job.audio.model_dump(),
        "links": links,
    }


def _timestamp(seconds: float | None) -> str | None:
    """RFC 3339 with microseconds, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds") if seconds is not None else None


def _npz(packed: bytes) -> bytes:
    """Arrays under their names, those by layer as `maps/<layer>`; everything else as JSON text under `meta`."""
    result = unpack_result(packed)
    arrays: dict[str, Any] = {name: getattr(result, name) for name in ARRAYS if getattr(result, name) is not None}
    for name in ARRAYS_PER_LAYER:
        arrays |= {f"{name}/{layer}": values for layer, values in getattr(result, name).items()}
    meta = {key: value for key, value in result_json(result).items() if key not in (*ARRAYS, *ARRAYS_PER_LAYER)}
    file = io.BytesIO()
    np.savez_compressed(file, meta=np.array(b"".join(dumps(meta)).decode()), **arrays)
    return file.getvalue()
