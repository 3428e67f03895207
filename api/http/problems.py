"""Error code -> HTTP status, and every error as `application/problem+json` (RFC 9457), in this one place."""

import logging
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from api.http.head_routes import allowed
from otoscope.errors import (
    BY_CODE,
    InternalError,
    InvalidRequest,
    KeyRequired,
    MethodNotAllowed,
    OtoscopeError,
    RouteNotFound,
)

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
    "invalid_request": 422,
    "invalid_base64": 400,
    "unsupported_media_type": 415,
    "not_acceptable": 406,
    "payload_too_large": 413,
    "not_found": 404,
    "method_not_allowed": 405,
    "model_not_found": 404,
    "job_not_found": 404,
    "job_expired": 410,
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
    # A job that was accepted and failed is told with 200 in the job itself; these are for synchronous calls.
    "decoder_died": 422,
    "inference_failed": 500,
    "deadline_exceeded": 504,
    "poison": 500,
    "cancelled": 409,
    "internal_error": 500,
}

MEDIA_TYPE = "application/problem+json"

_LONGEST = 1_000  # characters of a detail: it may repeat what was sent


def problem(error: OtoscopeError, instance: str | None = None) -> dict[str, Any]:
    """The problem document of an error."""
    return {
        "type": f"urn:otoscope:error:{error.code}",
        "title": error.title,
        "status": STATUS[error.code],
        "detail": error.detail if len(error.detail) <= _LONGEST else f"{error.detail[: _LONGEST - 1]}…",
        "code": error.code,
        "instance": instance,
    }


def respond(error: OtoscopeError, request: Request, headers: dict[str, str] | None = None) -> Response:
    """An error as the answer to a request."""
    request.state.error_code = error.code
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, KeyRequired):
        headers["WWW-Authenticate"] = "Bearer"
    document = problem(error, str(request.url.path))
    return Response(orjson.dumps(document), STATUS[error.code], headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every failure with a problem document; bugs are left to `api.middleware`."""
    # An address with a slash too many is one that is not there: a redirection would lead to whatever host was named.
    app.router.redirect_slashes = False

    @app.exception_handler(OtoscopeError)
    async def known(request: Request, error: OtoscopeError) -> Response:
        return respond(error, request)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return respond(InvalidRequest(describe(error.errors())), request)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        by_status: dict[int, OtoscopeError] = {
            404: RouteNotFound(f"There is nothing at {request.url.path}."),
            405: MethodNotAllowed(f"{request.method} is not possible on {request.url.path}."),
        }
        translated = by_status.get(error.status_code)
        if translated is None:
            translated = InvalidRequest(str(error.detail))
            log.warning("untranslated HTTP error %s: %s", error.status_code, error.detail)
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (there := allowed(request.scope)):
            headers["Allow"] = ", ".join(there)  # of all routes; Starlette names the methods of the first
        return respond(translated, request, headers)


def bug(request: Request, error: Exception) -> Response:
    """The answer to a request on which the gateway itself failed."""
    log.error("bug in %s %r", request.method, request.url.path, exc_info=error)
    return respond(InternalError("The gateway failed on this request; its log says more."), request)


def describe(errors: Any) -> str:
    """Pydantic's findings as one sentence a person can act on."""
    told = []
    for error in errors:
        where = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "header", "path"))
        told.append(f"{where or 'request'}: {error['msg']}")
    return "; ".join(told) + "."


def codes_of(*kinds: type[OtoscopeError]) -> list[str]:
    """The codes of all errors of those kinds."""
    return [code for code, kind in BY_CODE.items() if issubclass(kind, kinds)]


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of the errors that a route can answer with."""
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
