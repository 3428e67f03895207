"""/v1/jobs: submit, read, follow, cancel."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse
from starlette.datastructures import Headers

from api.dependencies import CallerDep, GatewayDep, get_gateway
from api.http.fast_routes import parameter
from api.http.negotiation import negotiate, preferred_wait
from api.http.problems import responses
from api.http.sse import job_events, resume_point
from api.http.uploads import read_upload
from api.memory import JSON_GROWTH, memory_of
from api.middleware.auth import get_caller
from api.rendering.results import JOB_TYPES, JSON, MSGPACK, RESULT_TYPES, body_response, render_job, render_result
from otoscope.errors import InvalidRequest, RateLimited, StoreUnavailable, TooManyConnections
from otoscope.types import Job, JobOptions, JobRequest, Part, ResultJSON
from shared import tracing
from shared.jobs.records import JobRecord

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
fast_router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
"""For `api.http.fast_routes`: the requests that every job makes."""

_AUDIO_ERRORS = (
    "audio_empty", "not_audio", "audio_unsupported", "audio_truncated", "audio_corrupt", "audio_too_short",
    "audio_too_long", "audio_channels", "audio_rate",
)  # fmt: skip
_BUSY = ("queue_full", "rate_limited", "not_ready", "store_unavailable")
_MISSING = ("job_not_found", "job_expired", "store_unavailable")
_MAX_KEY_LENGTH = 256
_JOB = parameter("job_id", "path", "the id in the response to the submission", type="string")


def _submission_openapi() -> dict[str, Any]:
    """The OpenAPI operation of a submission: parameters and three forms of the body, which is parsed by hand."""
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
            parameter("prefer", "header", "`wait=10` (RFC 7240): 200 if it is finished by then", type="string"),
            parameter(
                "idempotency-key", "header", "a repeated request with the same key returns the first job",
                type="string", maxLength=_MAX_KEY_LENGTH,
            ),
            *({"name": name, "in": "query", "required": False, "schema": schema} for name, schema in options.items()),
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


_MSGPACK_RESPONSE: dict[str, Any] = {"content": {MSGPACK: {"schema": {"type": "string", "format": "binary"}}}}


@fast_router.post(
    "",
    status_code=202,
    response_model=Job,
    openapi_extra=_submission_openapi(),
    responses={
        200: {"model": Job, "description": "The finished job, within the time of `Prefer: wait`", **_MSGPACK_RESPONSE},
        202: _MSGPACK_RESPONSE,
        **responses(
            *_AUDIO_ERRORS, "invalid_request", "invalid_base64", "unsupported_media_type", "payload_too_large",
            "request_timeout", "model_not_found", "idempotency_conflict", "not_acceptable", *_BUSY,
        ),
    },
)  # fmt: skip
async def submit(request: Request) -> Response:
    """Submit one sound as a form field, as base64 in JSON, or as the body itself.

    The options, those of `JobRequest`, may be form fields, JSON keys or query parameters.
    """
    gateway, caller = get_gateway(request), get_caller(request)
    media_type, key = negotiate(request.headers, JOB_TYPES), idempotency_key(request.headers)
    wait = preferred_wait(request.headers, gateway.settings.max_wait)
    with tracing.span("ingest"):
        upload = await read_upload(request, gateway.settings, gateway.settings.audio_limits)
    headers: dict[str, str] = {}
    if wait is None:
        job = (await gateway.submit(upload, caller, key)).job
    else:
        headers["Preference-Applied"] = f"wait={wait:g}"
        job = await gateway.submit_and_wait(request, upload, caller, wait, key)
    headers["Location"] = f"/v1/jobs/{job.id}"
    if job.final and wait is not None:
        try:
            return await _job_response(request, job, media_type, 200, headers)
        except (RateLimited, TooManyConnections, StoreUnavailable):
            if key:
                raise  # the request can be repeated
            job = job.without_result()  # the client has to learn its id
    headers["Retry-After"] = "1"
    return await _job_response(request, job, media_type, 202, headers)


@fast_router.get(
    "/{job_id}",
    response_model=Job,
    openapi_extra={
        "parameters": [
            _JOB,
            parameter(
                "wait", "query", "long poll: seconds to wait for a change of the status, at most the server's limit",
                type="number", minimum=0, default=0.0,
            ),
        ]
    },
    responses={200: _MSGPACK_RESPONSE, **responses(*_MISSING, "invalid_request", "not_acceptable")},
)  # fmt: skip
async def read(request: Request) -> Response:
    """The job as it is now, with its result once it has succeeded; with `?wait=10` after its status has changed."""
    gateway, caller, job_id = get_gateway(request), get_caller(request), request.path_params["job_id"]
    media_type, wait = negotiate(request.headers, JOB_TYPES), _wait_seconds(request.query_params.get("wait"))
    if wait:
        job = await gateway.wait(request, job_id, caller, wait, until_final=False)
    else:
        job = await gateway.get(job_id, caller, with_result=True)
    return await _job_response(request, job, media_type, 200, {})


@fast_router.get(
    "/{job_id}/result",
    response_model=ResultJSON,
    openapi_extra={"parameters": [_JOB]},
    responses={
        200: {"content": {media_type: {} for media_type in RESULT_TYPES if media_type != JSON}},
        **responses(*_MISSING, "result_not_ready", "not_acceptable"),
    },
)
async def result(request: Request) -> Response:
    """The result alone, as JSON, MessagePack or NPZ by `Accept`."""
    media_type = negotiate(request.headers, RESULT_TYPES)
    gateway = get_gateway(request)
    job_id, caller = request.path_params["job_id"], get_caller(request)
    async with gateway.result(request, job_id, caller, _growth(media_type)) as packed:
        body = await render_result(packed, media_type)
    return body_response(body, media_type, headers={"Vary": "Accept", "Cache-Control": "private, no-store"})


@router.get(
    "/{job_id}/events",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "`event: status` at every change, without an id where only the position in the queue"
            " or the progress has changed; `event: result` last; the data of both is the job",
            "content": {"text/event-stream": {"example": 'id: 1700000000000-0\nevent: status\ndata: {"id": "…"}\n\n'}},
        },
        204: {"description": "`Last-Event-ID` is the last event"},
        **responses(*_MISSING, "invalid_request"),
    },
)
async def events(
    request: Request,
    gateway: GatewayDep,
    caller: CallerDep,
    job_id: str,
    include_result: Annotated[
        bool, Query(description="`false`: the last event has the job without its result; fetch it from `links.result`")
    ] = True,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The job's changes as server-sent events, from the beginning or after `Last-Event-ID`."""
    after = resume_point(last_event_id)
    job = await gateway.get(job_id, caller)  # 404 and 410 before the stream begins
    if job.final and not (await gateway.store.events_since(job_id, after))[0]:
        return Response(status_code=204)  # after an empty stream an EventSource would reconnect again and again

    stream = job_events(
        gateway.store,
        gateway.notifications,
        job_id,
        after,
        gateway.settings.keepalive_seconds,
        partial(gateway.loaded, memory=memory_of(request)) if include_result else None,
    )

    async def counted() -> Any:
        with gateway.metrics.streams.track_inprogress():
            async for event in stream:
                yield event

    # Without the ping of sse-starlette, which could come between two pieces of an event; `job_events` sends comments.
    return EventSourceResponse(counted(), ping=0, headers={"Cache-Control": "no-store"})


@router.delete("/{job_id}", status_code=204, responses=responses(*_MISSING))
async def cancel(gateway: GatewayDep, caller: CallerDep, job_id: str) -> Response:
    """Cancel an unfinished job; delete a finished one."""
    await gateway.cancel(job_id, caller)
    return Response(status_code=204)


def _growth(media_type: str) -> int:
    """How many times as much memory as a packed result it takes in that form."""
    return 1 if media_type == MSGPACK else JSON_GROWTH


async def _job_response(
    request: Request, job: JobRecord, media_type: str, status: int, headers: dict[str, str]
) -> Response:
    async with get_gateway(request).loaded(job, memory_of(request), _growth(media_type)) as complete:
        body = await render_job(complete, media_type)
    return body_response(body, media_type, status, {"Cache-Control": "private, no-store", "Vary": "Accept", **headers})


def idempotency_key(headers: Headers) -> str | None:
    """The Idempotency-Key of a submission. Raises InvalidRequest."""
    key = headers.get("idempotency-key")
    if key and len(key) > _MAX_KEY_LENGTH:
        raise InvalidRequest(f"Idempotency-Key: {len(key)} characters; at most {_MAX_KEY_LENGTH} are accepted.")
    return key


def _wait_seconds(text: str | None) -> float:
    """Raises InvalidRequest."""
    try:
        seconds = float(text or 0.0)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise InvalidRequest(f"wait: must be a number of seconds, not {text!r}.")
    return seconds


# For OpenAPI: the schemas that `_submission_openapi` refers to.
SCHEMAS = (JobRequest,)
