"""/v1/jobs: submit, read, follow, cancel."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse
from starlette.datastructures import Headers

from api.http.fast_routes import parameter
from api.http.negotiation import negotiate, preferred_wait
from api.http.problems import responses
from api.http.sse import job_events, resume_point
from api.http.uploads import read_upload
from api.middleware.auth import caller_of
from api.rendering.results import JSON, MSGPACK, OF_JOB, OF_RESULT, render_job, render_result, respond
from api.service import Asking, Here, current
from otoscope.errors import InvalidRequest
from otoscope.types import Job, JobOptions, JobRequest, Part, ResultJSON
from shared import tracing
from shared.jobs.records import JobRecord

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
direct = APIRouter(prefix="/v1/jobs", tags=["jobs"])
"""Of `api.http.fast_routes`: what is asked for every job."""

_AUDIO_ERRORS = (
    "audio_empty", "not_audio", "audio_unsupported", "audio_truncated", "audio_corrupt", "audio_too_short",
    "audio_too_long", "audio_channels", "audio_rate",
)  # fmt: skip
_BUSY = ("queue_full", "rate_limited", "not_ready", "store_unavailable")
_MISSING = ("job_not_found", "job_expired", "store_unavailable")
_LONGEST_KEY = 256
_JOB = parameter("job_id", "path", "as the submission answered it", type="string")


def _asked() -> dict[str, Any]:
    """A submission, for OpenAPI: its parameters and its three forms; the body is read by hand, under limits."""
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
        "parameters": [
            parameter("prefer", "header", "`wait=10` (RFC 7240): answer 200 if done by then", type="string"),
            parameter(
                "idempotency-key", "header", "A repeat with the same key returns the first job", type="string",
                maxLength=_LONGEST_KEY,
            ),
        ],
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
        },
    }  # fmt: skip


_PACKED: dict[str, Any] = {"content": {MSGPACK: {"schema": {"type": "string", "format": "binary"}}}}


@direct.post(
    "",
    status_code=202,
    response_model=Job,
    openapi_extra=_asked(),
    responses={
        200: {"model": Job, "description": "The finished job, where `Prefer: wait` was quick enough", **_PACKED},
        202: _PACKED,
        **responses(
            *_AUDIO_ERRORS, "invalid_request", "invalid_base64", "unsupported_media_type", "payload_too_large",
            "request_timeout", "model_not_found", "idempotency_conflict", "not_acceptable", *_BUSY,
        ),
    },
)  # fmt: skip
async def submit(request: Request) -> Response:
    """Submit one sound as a form field, as base64 in JSON, or as the body itself.

    The options `model`, `top_k`, `include`, `window` and `layer` may be form fields, JSON keys or query parameters.
    """
    gateway, caller, asked = current(request), caller_of(request), request.headers
    kind, key = negotiate(asked, OF_JOB), _key(asked)
    wait = preferred_wait(asked, gateway.settings.max_wait)
    with tracing.span("ingest"):
        upload = await read_upload(request, gateway.settings, await gateway.audio_limits())
    headers: dict[str, str] = {}
    if wait is None:
        job = (await gateway.submit(upload, caller, key)).job
    else:
        headers["Preference-Applied"] = f"wait={wait:g}"
        job = await gateway.submit_and_wait(request, upload, caller, wait, key)
    headers["Location"] = f"/v1/jobs/{job.id}"
    if job.final and wait is not None:
        return await _answer(job, kind, 200, headers)
    headers["Retry-After"] = "1"
    return await _answer(job, kind, 202, headers)


@direct.get(
    "/{job_id}",
    response_model=Job,
    openapi_extra={
        "parameters": [
            _JOB,
            parameter(
                "wait", "query", "Seconds to hold the line for a change; cut to the server's limit.", type="number",
                minimum=0, default=0.0,
            ),
        ]
    },
    responses={200: _PACKED, **responses(*_MISSING, "invalid_request", "not_acceptable")},
)  # fmt: skip
async def read(request: Request) -> Response:
    """The job as it is now, with its result once it has succeeded; `?wait=10` holds the line until it changes."""
    gateway, caller, job_id = current(request), caller_of(request), request.path_params["job_id"]
    kind, wait = negotiate(request.headers, OF_JOB), _wait(request.query_params.get("wait"))
    if wait:
        job = await gateway.wait(request, job_id, caller, wait, until_final=False)
    else:
        job = await gateway.get(job_id, caller, with_result=True)
    return await _answer(job, kind, 200, {})


@direct.get(
    "/{job_id}/result",
    response_model=ResultJSON,
    openapi_extra={"parameters": [_JOB]},
    responses={
        200: {"content": {kind: {} for kind in OF_RESULT if kind != JSON}},
        **responses(*_MISSING, "result_not_ready", "not_acceptable"),
    },
)
async def result(request: Request) -> Response:
    """The result alone, as JSON, MessagePack or NPZ by `Accept`."""
    kind = negotiate(request.headers, OF_RESULT)
    packed = await current(request).finished(request.path_params["job_id"], caller_of(request))
    body = await render_result(packed, kind)
    return respond(body, kind, headers={"Vary": "Accept"})


@router.get(
    "/{job_id}/events",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "`event: status` at every change, without an id where only the place in the queue has"
            " changed; `event: result` last; the data of both is the job",
            "content": {"text/event-stream": {"example": 'id: 1700000000000-0\nevent: status\ndata: {"id": "…"}\n\n'}},
        },
        204: {"description": "`Last-Event-ID` was the last one"},
        **responses(*_MISSING, "invalid_request"),
    },
)
async def events(
    gateway: Here,
    caller: Asking,
    job_id: str,
    include_result: Annotated[
        bool, Query(description="`false`: the last event has the job without its result; `links.result` leads there")
    ] = True,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The job's changes as server-sent events, from the beginning or after `Last-Event-ID`."""
    after = resume_point(last_event_id)
    job = await gateway.get(job_id, caller)  # 404 and 410 before the stream begins
    if job.final and not (await gateway.store.follow(job_id, after))[0]:
        return Response(status_code=204)  # after an empty stream an EventSource would come again, for ever

    told = job_events(
        gateway.store, gateway.changes, job_id, after, gateway.settings.keepalive_seconds, include_result=include_result
    )

    async def counted() -> Any:
        with gateway.metrics.streams.track_inprogress():
            async for event in told:
                yield event

    # Without its own ping, which may come between two pieces of an event; ours comes after silence. A reader that takes
    # nothing is cut off.
    return EventSourceResponse(counted(), ping=0, send_timeout=30, headers={"Cache-Control": "no-store"})


@router.delete("/{job_id}", status_code=204, responses=responses(*_MISSING))
async def cancel(gateway: Here, caller: Asking, job_id: str) -> Response:
    """Cancel what waits or runs; forget what has finished."""
    await gateway.cancel(job_id, caller)
    return Response(status_code=204)


async def _answer(job: JobRecord, kind: str, status: int, headers: dict[str, str]) -> Response:
    body = await render_job(job, kind)
    return respond(body, kind, status, {"Cache-Control": "no-store", "Vary": "Accept", **headers})


def _key(headers: Headers) -> str | None:
    key = headers.get("idempotency-key")
    if key and len(key) > _LONGEST_KEY:
        raise InvalidRequest(f"Idempotency-Key: {len(key)} characters; {_LONGEST_KEY} are accepted.")
    return key


def _wait(asked: str | None) -> float:
    try:
        seconds = float(asked or 0.0)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise InvalidRequest(f"wait: must be a number of seconds, not {asked!r}.")
    return seconds


# Named here so that OpenAPI lists the schema that `_asked` refers to.
SCHEMAS = (JobRequest,)
