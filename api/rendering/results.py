"""A stored job or result as JSON, MessagePack or NPZ. A body is a list of pieces: a large one is never joined."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import msgpack
import numpy as np
from fastapi import Response
from starlette.responses import StreamingResponse

from api.rendering.json_arrays import PIECE, dumps
from otoscope.results import Array, Result, unpack_result
from otoscope.types import Part
from shared.jobs.records import JobRecord

JSON, MSGPACK, NPZ = "application/json", "application/msgpack", "application/x-npz"
OF_RESULT = (JSON, MSGPACK, NPZ)
OF_JOB = (JSON, MSGPACK)

_QUICK = 64 * 1024
"""Bytes of a packed result that become JSON in about a millisecond, where a thread would cost more than it saves."""


def respond(body: list[bytes], kind: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A body of that kind as an answer."""
    if len(body) == 1:
        return Response(body[0], status, headers, kind)

    async def pieces() -> AsyncIterator[bytes]:
        for piece in body:
            yield piece

    length = {"Content-Length": str(sum(map(len, body)))}
    return StreamingResponse(pieces(), status, {**(headers or {}), **length}, kind)


async def render_result(packed: bytes, kind: str) -> list[bytes]:
    """A packed result in that representation. MessagePack is the stored form itself."""
    if kind == MSGPACK:
        return [packed]
    if kind == NPZ:
        return [await asyncio.to_thread(_npz, packed)]
    return await write(packed, result_tree)


async def render_job(job: JobRecord, kind: str = JSON) -> list[bytes]:
    """A job in that representation, with its result where the record has it."""
    if kind == MSGPACK:
        return _spliced({**job_tree(job), "result": None}, job.packed)
    if job.packed is None:
        return dumps({**job_tree(job), "result": None})
    return await write(job.packed, lambda result: {**job_tree(job), "result": result_tree(result)})


async def write(packed: bytes, tree: Callable[[Result], dict[str, Any]]) -> list[bytes]:
    """JSON of what `tree` makes of a packed result."""

    def written() -> list[bytes]:
        return dumps(tree(unpack_result(packed)))

    return written() if len(packed) <= _QUICK else await asyncio.to_thread(written)


def _spliced(tree: dict[str, Any], packed: bytes | None) -> list[bytes]:
    """MessagePack of a job whose last value, the result, is taken as it is stored."""
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_header(len(tree))
    for key, value in tree.items():
        packer.pack(key)
        if key != "result" or packed is None:
            packer.pack(value)
    pieces = [packer.bytes(), packed or b""]
    return pieces if len(pieces[1]) > PIECE else [b"".join(pieces)]


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
        low, high = result.waveform
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
    return {"shape": list(values.shape), "values": values}


def job_tree(job: JobRecord) -> dict[str, Any]:
    """`Job` as JSON-ready values, but for its result."""
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
    }


def _time(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds") if seconds is not None else None


def _npz(packed: bytes) -> bytes:
    """Arrays under their names, maps as `maps/<layer>`, channels likewise; the rest as JSON text under `meta`."""
    result = unpack_result(packed)
    arrays: dict[str, Any] = {f"maps/{layer}": values for layer, values in result.maps.items()}
    arrays |= {f"channels/{name}": values for name, values in result.channels.items()}
    for name in (Part.SPECTROGRAM, Part.EMBEDDING, Part.CAM, Part.WAVEFORM, Part.FULL_SPECTROGRAM):
        if getattr(result, name) is not None:
            arrays[name.value] = getattr(result, name)
    told = {*arrays, "maps", "channels", "waveform"}
    meta = {key: value for key, value in result_tree(result).items() if key not in told}
    file = io.BytesIO()
    np.savez_compressed(file, meta=np.array(b"".join(dumps(meta)).decode()), **arrays)
    return file.getvalue()
