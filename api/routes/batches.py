"""/v1/batches: many sounds in one request, one state, one stream of progress, one table of results."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import StreamingResponse

from api.batches import Batches, BatchState
from api.dependencies import CallerDep, GatewayDep
from api.http.batches import BatchRequest, read_batch
from api.http.problems import responses
from api.memory import memory_of
from api.rendering.batches import batch_json, csv_rows, json_lines
from api.routes.jobs import idempotency_key
from otoscope.types import Batch

router = APIRouter(prefix="/v1/batches", tags=["batches"])

_MISSING = ("batch_not_found", "invalid_request", "store_unavailable")
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
}


def _batches(request: Request) -> Batches:
    batches: Batches = request.app.state.batches
    return batches


BatchesDep = Annotated[Batches, Depends(_batches)]


@router.post(
    "",
    status_code=202,
    response_model=Batch,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/zip": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {"schema": _FORM},
                "application/json": {"schema": {"$ref": "#/components/schemas/BatchRequest"}},
            },
        }
    },
    responses=responses(
        "invalid_request", "unsupported_media_type", "payload_too_large", "request_timeout", "model_not_found",
        "idempotency_conflict", "queue_full", "rate_limited", "not_ready", "store_unavailable",
    ),
)  # fmt: skip
async def submit_batch(request: Request, gateway: GatewayDep, batches: BatchesDep, caller: CallerDep) -> Response:
    """Submit up to 256 sounds: a ZIP archive, several files in the field `file`, or base64 in JSON.

    The options are those of `JobRequest`, for all sounds. A sound that cannot be read fails alone.
    """
    key = idempotency_key(request.headers)
    members, options = await read_batch(request, gateway.settings)
    batch = await batches.submit(members, options, caller, key)
    return _response(batch, 202, {"Location": f"/v1/batches/{batch.record.id}", "Retry-After": "1"})


@router.get("/{batch_id}", response_model=Batch, responses=responses(*_MISSING))
async def batch_state(batches: BatchesDep, caller: CallerDep, batch_id: str) -> Response:
    """The state of every sound."""
    return _response(await batches.get(batch_id, caller), 200, {})


@router.get(
    "/{batch_id}/events",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "`event: status` with the batch at first and after every change; `event: finished` last",
            "content": {"text/event-stream": {"example": 'event: status\ndata: {"id": "…"}\n\n'}},
        },
        **responses(*_MISSING),
    },
)
async def batch_events(gateway: GatewayDep, batches: BatchesDep, caller: CallerDep, batch_id: str) -> Response:
    """The batch as server-sent events. Every event has the whole state, so that there is nothing to resume."""
    batch = await batches.get(batch_id, caller)

    async def stream() -> AsyncIterator[ServerSentEvent]:
        with gateway.metrics.streams.track_inprogress():
            async for state in batches.changes(batch, gateway.settings.keepalive_seconds):
                if state is None:
                    yield ServerSentEvent(comment="keep-alive")
                    continue
                yield ServerSentEvent(_json(state).decode(), event="finished" if state.finished else "status")

    return EventSourceResponse(stream(), ping=0, headers={"Cache-Control": "no-store"})


@router.get(
    "/{batch_id}/results",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-ndjson": {}, "text/csv": {}}}, **responses(*_MISSING)},
)
async def batch_results(
    request: Request,
    gateway: GatewayDep,
    batches: BatchesDep,
    caller: CallerDep,
    batch_id: str,
    format: Annotated[Literal["jsonl", "csv"], Query(description="JSON lines, or a table")] = "jsonl",
) -> Response:
    """A line for each sound with its result as far as it is finished, or a CSV table of them."""
    batch = await batches.get(batch_id, caller)
    rows = csv_rows if format == "csv" else json_lines
    media_type, memory = "text/csv; charset=utf-8" if format == "csv" else "application/x-ndjson", memory_of(request)
    return StreamingResponse(rows(batch, gateway, memory), headers={"Cache-Control": "no-store"}, media_type=media_type)


@router.delete("/{batch_id}", status_code=204, responses=responses(*_MISSING))
async def cancel_batch(batches: BatchesDep, caller: CallerDep, batch_id: str) -> Response:
    """Cancel the unfinished jobs; of a finished batch, delete its jobs and results."""
    await batches.cancel(batch_id, caller)
    return Response(status_code=204)


def _json(batch: BatchState) -> bytes:
    tree: dict[str, Any] = batch_json(batch)
    return orjson.dumps(tree, option=orjson.OPT_PASSTHROUGH_SUBCLASS, default=dict)


def _response(batch: BatchState, status: int, headers: dict[str, str]) -> Response:
    return Response(_json(batch), status, {"Cache-Control": "no-store", **headers}, "application/json")


SCHEMAS = (BatchRequest,)
