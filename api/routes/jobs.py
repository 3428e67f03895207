"""/v1/jobs: submit, read, follow, cancel."""

import asyncio
import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse

from api.errors import responses
from api.events import job_events, resume_point
from api.gateway import Gateway, Here
from api.ingest import read_upload
from api.render import JSON, REPRESENTATIONS, negotiate, render_job, render_result
from shared.errors import InvalidRequest
from shared.records import JobRecord
from shared.schemas import Job, JobOptions, JobRequest, Part, ResultJSON

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_AUDIO_ERRORS = (
    "audio_empty", "not_audio", "audio_unsupported", "audio_truncated", "audio_corrupt", "audio_too_short",
    "audio_too_long", "audio_channels", "audio_rate",
)  # fmt: skip
_BUSY = ("queue_full", "not_ready", "store_unavailable")
_MISSING = ("job_not_found", "job_expired", "store_unavailable")

Wait = Annotated[float, Query(ge=0, description="Seconds to hold the line for a change; cut to the server's limit.")]


def _body() -> dict[str, Any]:
    """The three forms of a submission, for OpenAPI: the body is read by hand, under limits."""
    options = JobOptions.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    parts = f"comma-separated: {', '.join(Part)}"
    options["include"] = {"type": "string", "description": parts, "examples": ["maps,spectrogram"]}
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary", "description": "the sound file"}, **options},
    }
    example = {"audio_data": "UklGRiQAAABXQVZFZm10IBAAAAABAAEA…", "top_k": 3, "include": ["spectrogram"]}
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/JobRequest"},
                    "examples": {"base64": {"value": example}},
                },
                "audio/*": binary,
            },
        }
    }


@router.post(
    "",
    status_code=202,
    response_model=Job,
    openapi_extra=_body(),
    responses={
        200: {"model": Job, "description": "The finished job, where `Prefer: wait` was quick enough"},
        **responses(
            *_AUDIO_ERRORS, "invalid_request", "invalid_base64", "unsupported_media_type", "payload_too_large",
            "request_timeout", "model_not_found", "idempotency_conflict", *_BUSY,
        ),
    },
)  # fmt: skip
async def submit(
    request: Request,
    gateway: Here,
    prefer: Annotated[str | None, Header(description="`wait=10` (RFC 7240): answer 200 if done by then")] = None,
    idempotency_key: Annotated[
        str | None, Header(max_length=256, description="A repeat with the same key returns the first job")
    ] = None,
) -> Response:
    """Submit one sound as a form field, as base64 in JSON, or as the body itself.

    The options `model`, `top_k`, `include`, `window` and `layer` may be form fields, JSON keys or query parameters.
    """
    wait = _preferred_wait(prefer)
    upload = await read_upload(request, gateway.settings)
    submission = await gateway.submit(upload, idempotency_key)
    headers = {"Location": f"/v1/jobs/{submission.id}"}
    if wait is None:
        job = await gateway.store.get(submission.id)
    else:
        headers["Preference-Applied"] = f"wait={wait:g}"
        job = await gateway.wait(submission.id, wait, until_final=True)
    if job.final and wait is not None:
        return await _answer(gateway, job, 200, headers)
    headers["Retry-After"] = "1"
    return await _answer(gateway, job, 202, headers)


@router.get("/{job_id}", response_model=Job, responses=responses(*_MISSING, "invalid_request"))
async def read(gateway: Here, job_id: str, wait: Wait = 0.0) -> Response:
    """The job as it is now, with its result once it has succeeded; `?wait=10` holds the line until it changes."""
    job = await gateway.wait(job_id, wait, until_final=False) if wait else await gateway.store.get(job_id)
    return await _answer(gateway, job, 200, {})


@router.get(
    "/{job_id}/result",
    response_model=ResultJSON,
    responses={
        200: {"content": {kind: {} for kind in REPRESENTATIONS if kind != JSON}},
        **responses(*_MISSING, "result_not_ready", "not_acceptable"),
    },
)
async def result(gateway: Here, job_id: str, accept: Annotated[str | None, Header()] = None) -> Response:
    """The result alone, as JSON, MessagePack or NPZ by `Accept`."""
    kind = negotiate(accept)
    body = await asyncio.to_thread(render_result, await gateway.finished(job_id), kind)
    return Response(body, media_type=kind, headers={"Vary": "Accept"})


@router.get(
    "/{job_id}/events",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "`event: status` at every change, without an id where only the place in the queue has"
            " changed; `event: result` last; the data of both is the job",
            "content": {"text/event-stream": {"example": 'id: 1700000000000-0\nevent: status\ndata: {"id": "…"}\n\n'}},
        },
        **responses(*_MISSING, "invalid_request"),
    },
)
async def events(
    gateway: Here,
    job_id: str,
    include_result: Annotated[
        bool, Query(description="`false`: the last event has the job without its result; `links.result` leads there")
    ] = True,
    last_event_id: Annotated[str | None, Header()] = None,
) -> EventSourceResponse:
    """The job's changes as server-sent events, from the beginning or after `Last-Event-ID`."""
    after = resume_point(last_event_id)
    await gateway.store.get(job_id)  # 404 and 410 before the stream begins

    told = job_events(
        gateway.store, gateway.changes, job_id, after, gateway.settings.keepalive_seconds, include_result=include_result
    )

    async def counted() -> Any:
        with gateway.metrics.streams.track_inprogress():
            async for event in told:
                yield event

    # Its own ping is kept out of the way: ours comes after silence only. A reader that takes nothing is cut off.
    return EventSourceResponse(counted(), ping=3_600, send_timeout=30, headers={"Cache-Control": "no-store"})


@router.delete("/{job_id}", status_code=204, responses=responses(*_MISSING))
async def cancel(gateway: Here, job_id: str) -> Response:
    """Cancel what waits or runs; forget what has finished."""
    if await gateway.store.cancel(job_id) == "cancelled":
        gateway.metrics.ended("cancelled")
    return Response(status_code=204)


async def _answer(gateway: Gateway, job: JobRecord, status: int, headers: dict[str, str]) -> Response:
    packed = await gateway.result(job)
    # Without a result the document is a few hundred bytes: a thread would cost more than it saves.
    body = render_job(job) if packed is None else await asyncio.to_thread(render_job, job, packed)
    return Response(body, status, {"Cache-Control": "no-store", **headers}, JSON)


def _preferred_wait(prefer: str | None) -> float | None:
    """Seconds of `Prefer: wait=N`; other preferences are ignored, as RFC 7240 wants."""
    for preference in (prefer or "").split(","):
        name, _, value = preference.strip().partition("=")
        if name.strip().lower() == "wait":
            number = value.partition(";")[0].strip().strip('"')
            if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", number):
                raise InvalidRequest(f"Prefer: wait must be a number of seconds, not {number!r}.")
            return float(number)
    return None


# Named here so that OpenAPI lists the schema that `_body` refers to.
SCHEMAS = (JobRequest,)
