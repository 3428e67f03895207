"""Problem documents: the HTTP status of each error code, and every error as `application/problem+json` (RFC 9457)."""

import logging
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from api.http.head_routes import allowed_methods
from otoscope.errors import (
    BY_CODE,
    AudioError,
    Busy,
    InternalError,
    InvalidRequest,
    JobFailure,
    KeyRequired,
    MethodNotAllowed,
    OtoscopeError,
    RouteNotFound,
)
from otoscope.types import ErrorInfo
from shared.validation import describe_validation_errors

log = logging.getLogger(__name__)

STATUS: dict[str, int] = {
    "audio_empty": 400,
    "not_audio": 415,
    "audio_unsupported": 415,
    "audio_truncated": 422,
    "audio_corrupt": 422,
    "audio_too_short": 422,
    "audio_too_long": 422,
    "audio_channels": 422,
    "audio_rate": 422,
    "audio_not_finite": 422,
    "key_required": 401,
    "key_refused": 403,
    "host_refused": 421,
    "invalid_request": 422,
    "invalid_base64": 400,
    "unsupported_media_type": 415,
    "url_not_allowed": 422,
    "url_unreachable": 422,
    "not_acceptable": 406,
    "payload_too_large": 413,
    "not_found": 404,
    "method_not_allowed": 405,
    "model_not_found": 404,
    "job_not_found": 404,
    "job_expired": 410,
    "batch_not_found": 404,
    "result_not_ready": 409,
    "part_not_found": 404,
    "idempotency_conflict": 422,
    "request_timeout": 408,
    "rate_limited": 429,
    "too_many_connections": 503,
    "queue_full": 429,
    "not_ready": 503,
    "contract_mismatch": 503,
    "store_unavailable": 503,
    # A job that was accepted and failed is answered with 200 and its error inside; these are for synchronous calls.
    "decoder_died": 422,
    "inference_failed": 500,
    "deadline_exceeded": 504,
    "poison": 500,
    "cancelled": 409,
    "internal_error": 500,
}

MEDIA_TYPE = "application/problem+json"

_MAX_DETAIL = 1_000  # characters: a detail may repeat what was sent


def problem(error: OtoscopeError, instance: str | None = None) -> dict[str, Any]:
    """The problem document of an error."""
    return {
        "type": f"urn:otoscope:error:{error.code}",
        "title": error.title,
        "status": STATUS[error.code],
        "detail": error.detail if len(error.detail) <= _MAX_DETAIL else f"{error.detail[: _MAX_DETAIL - 1]}…",
        "code": error.code,
        "instance": instance,
    }


def error_info(error: OtoscopeError) -> ErrorInfo:
    """An error as a field of a document that is about something else."""
    return ErrorInfo(code=error.code, title=error.title, detail=error.detail)


def problem_response(error: OtoscopeError, request: HTTPConnection, headers: dict[str, str] | None = None) -> Response:
    """The response to a request that failed with that error, also to the handshake of a WebSocket; `error_code` in the
    request's state is set to its code."""
    request.state.error_code = error.code
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, KeyRequired):
        headers["WWW-Authenticate"] = "Bearer"
    document = problem(error, str(request.url.path))
    return Response(orjson.dumps(document), STATUS[error.code], headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error with a problem document. Unexpected exceptions are left to `api.middleware.errors`."""
    # A path with a trailing slash is answered with 404: a redirect would lead to whatever host the request names.
    app.router.redirect_slashes = False

    @app.exception_handler(OtoscopeError)
    async def otoscope_error(request: Request, error: OtoscopeError) -> Response:
        return problem_response(error, request)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        return problem_response(InvalidRequest(describe_validation_errors(error.errors())), request)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        by_status: dict[int, OtoscopeError] = {
            404: RouteNotFound(f"The path {request.url.path} does not exist."),
            405: MethodNotAllowed(f"The method {request.method} is not allowed on {request.url.path}."),
        }
        mapped = by_status.get(error.status_code)
        if mapped is None:
            mapped = InvalidRequest(str(error.detail))
            log.warning("unmapped HTTP error %s: %s", error.status_code, error.detail)
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (methods := allowed_methods(request.scope)):
            headers["Allow"] = ", ".join(methods)  # of all routes; Starlette lists the methods of the first alone
        return problem_response(mapped, request, headers)


def internal_error_response(request: HTTPConnection, error: Exception) -> Response:
    """500 for an unexpected exception, which is logged; the response does not contain its text."""
    method = request.scope.get("method", "WebSocket")
    log.error("unexpected exception in %s %r", method, request.url.path, exc_info=error)
    return problem_response(InternalError("The gateway failed on this request; see its log."), request)


def codes_of(*kinds: type[OtoscopeError]) -> list[str]:
    """The codes of all subclasses of those errors."""
    return [code for code, kind in BY_CODE.items() if issubclass(kind, kinds)]


CLASSIFY_NOW_CODES = (
    "invalid_base64", "invalid_request", "unsupported_media_type", "payload_too_large", "request_timeout",
    "url_not_allowed", "url_unreachable", "model_not_found", *codes_of(AudioError, Busy, JobFailure),
)  # fmt: skip
"""Of a route that reads a sound, classifies it, and answers with its predictions: also the errors of the job."""


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of a route that can answer with these error codes."""
    grouped: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        entry = grouped.setdefault(
            STATUS[code],
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        titles = [entry["description"], BY_CODE[code].title]
        entry["description"] = "; ".join(title for title in titles if title)
        example = {
            "type": f"urn:otoscope:error:{code}",
            "title": BY_CODE[code].title,
            "status": STATUS[code],
            "code": code,
            "detail": HTTPStatus(STATUS[code]).description or BY_CODE[code].title,
        }
        entry["content"][MEDIA_TYPE]["examples"][code] = {"value": example}
    return grouped
