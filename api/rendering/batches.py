"""Batches as JSON, and their results as JSON lines or CSV."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from api.batches import BatchState
from api.http.problems import error_info
from api.memory import JSON_GROWTH, RequestMemory
from api.notifications import RETRY_SECONDS
from api.rendering.json_arrays import dumps
from api.rendering.results import render_json, result_json
from api.service import Gateway
from otoscope.errors import ContractMismatch, JobExpired, JobNotFound, StoreUnavailable
from otoscope.exports import RESULT_COLUMNS, csv_row, error_row, result_rows
from otoscope.results import Part, Result, unpack_result

T = TypeVar("T")


def batch_json(batch: BatchState) -> dict[str, Any]:
    """`otoscope.types.Batch`."""
    base = f"/v1/batches/{batch.record.id}"
    return {
        "id": batch.record.id,
        "created_at": datetime.fromtimestamp(batch.record.created_at, UTC).isoformat(timespec="microseconds"),
        "total": len(batch.states),
        "counts": Counter(state.status for state in batch.states),
        "finished": batch.finished,
        "members": members_json(batch),
        "links": {"self": base, "events": f"{base}/events", "results": f"{base}/results"},
    }


def members_json(batch: BatchState) -> list[dict[str, Any]]:
    """A list of `otoscope.types.BatchMember`."""
    return [
        {
            "name": member.name,
            "id": member.job_id or None,
            "status": state.status,
            "error": state.error.model_dump() if state.error else None,
        }
        for member, state in zip(batch.record.members, batch.states, strict=True)
    ]


async def json_lines(batch: BatchState, gateway: Gateway, memory: RequestMemory) -> AsyncIterator[bytes]:
    """A line for each sound: `otoscope.types.BatchMember` with its result."""
    for member in members_json(batch):
        pieces = await _from_result(member, gateway, memory, partial(_line, member))
        for piece in pieces or dumps({**member, "result": None}):
            yield piece
        yield b"\n"


async def _line(member: dict[str, Any], packed: bytes) -> list[bytes]:
    return await render_json(packed, lambda result: {**member, "result": result_json(result)})


async def csv_rows(batch: BatchState, gateway: Gateway, memory: RequestMemory) -> AsyncIterator[bytes]:
    """The table of `otoscope classify --out`: a row for each sound and prediction, or detection where requested."""
    yield csv_row(RESULT_COLUMNS).encode()
    for member in members_json(batch):
        result = await _from_result(member, gateway, memory, _unpacked)
        if result is None:
            error = member["error"]
            text = f"{error['code']}: {error['detail']}" if error else member["status"]
            yield error_row(member["name"], text).encode()
            continue
        found = [(each.class_, each.confidence, each.start, each.end) for each in result.detections]
        if Part.DETECTIONS not in result.parts:
            found = [(name, confidence, 0.0, result.duration) for name, confidence in result.predictions]
        codes = (warning.code for warning in result.warnings)
        for row in result_rows(member["name"], result.model, result.verdict, found, codes):
            yield row.encode()


async def _unpacked(packed: bytes) -> Result:
    return await asyncio.to_thread(unpack_result, packed)  # it may have large arrays beside


async def _from_result(
    member: dict[str, Any], gateway: Gateway, memory: RequestMemory, render: Callable[[bytes], Awaitable[T]]
) -> T | None:
    """What `render` returns for the packed result of a member, None where it has none. The response has begun: it waits
    for memory, and until an outage of Redis is over; a result that only a newer gateway can read is an error of the
    member."""
    while True:
        memory.hold(0)  # the line before has been sent
        if member["status"] != "succeeded":
            return None
        try:
            job = await gateway.store.get(member["id"], with_result=True)
            await memory.wait_to_hold(JSON_GROWTH * job.result_size)
            async with gateway.loaded(job, memory) as complete:
                return None if complete.packed is None else await render(complete.packed)
        except (JobNotFound, JobExpired):  # since the states were read
            member["status"] = "expired"
        except ContractMismatch as error:
            member["error"] = error_info(error).model_dump()
            return None
        except StoreUnavailable:
            await asyncio.sleep(RETRY_SECONDS)
