"""Responses parsed: bodies to the models of `otoscope.types`, problem documents to the errors of `otoscope.errors`.

Two errors are the client's own:

    OtoscopeError
    ├── ServiceUnreachable          unreachable; no answer, or the connection broke
    └── WaitTimeout                 wait_timeout; also a TimeoutError
"""

import math
import re
import ssl
import time
from typing import ClassVar, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from otoscope.connection import environment_proxy
from otoscope.errors import BY_CODE, JobCancelled, KeyRequired, OtoscopeError
from otoscope.types import Job, Problem

M = TypeVar("M", bound=BaseModel)

_KEY_MISSING = (
    "This service requires a key. Set OTOSCOPE_KEY to one that its operator created with `otoscope keys create`."
)


class ServiceUnreachable(OtoscopeError):
    """No answer, or the connection broke."""

    code: ClassVar[str] = "unreachable"
    title: ClassVar[str] = "Service unreachable"


class WaitTimeout(OtoscopeError, TimeoutError):
    """The caller's timeout expired; the job continues."""

    code: ClassVar[str] = "wait_timeout"
    title: ClassVar[str] = "Wait timed out"


_EXPECTS_TLS = rb"HTTP request to an HTTPS server|plain HTTP request was sent to HTTPS|plain HTTP to an SSL-enabled"
"""What Go (Caddy, Traefik), nginx and Apache answer to HTTP at a port that expects TLS."""

MAX_ANSWER_BYTES = 256 * 2**20
"""Largest response, or event of a stream, that a client reads. Ten minutes of sound with all parts take a tenth."""


class ResponseBody:
    """Collects the body of a response: of limited size, and by a deadline. It is not decompressed.

    A few kilobytes could be decompressed to any size; the client sends `Accept-Encoding: identity`.
    """

    def __init__(self, response: httpx2.Response, deadline: float = math.inf) -> None:
        """`deadline` is of a monotonic clock. Raises OtoscopeError for a compressed body."""
        self._response, self._deadline = response, deadline
        self._chunks: list[bytes] = []
        self._size = 0
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise OtoscopeError(
                f"{_shown(response.url)} answered with Content-Encoding {encoding[:50]!r}, which is not accepted."
            )

    def add(self, chunk: bytes) -> None:
        """Raises OtoscopeError for a body that is too large, or httpx2.ReadTimeout past the deadline."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            raise OtoscopeError(f"{_shown(self._response.url)} answered with more than {MAX_ANSWER_BYTES:,} bytes.")
        if time.monotonic() > self._deadline:
            raise httpx2.ReadTimeout("the response did not arrive in time", request=self._response.request)

    def complete(self) -> httpx2.Response:
        """The response with its body."""
        response = self._response
        # As bytes: a header may have characters beyond ASCII.
        headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"transfer-encoding"]
        return httpx2.Response(
            response.status_code, headers=headers, content=b"".join(self._chunks), request=response.request
        )


def error_from_response(response: httpx2.Response) -> OtoscopeError:
    """The exception of a problem document (RFC 9457)."""
    header = response.headers.get("retry-after", "")
    retry_after = int(header) if re.fullmatch(r"[0-9]{1,9}", header) else None
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        status = f"{_shown(response.url)} answered {response.status_code} {response.reason_phrase}"
        if response.url.scheme == "http" and re.search(_EXPECTS_TLS, response.content):
            return tls_error(response.url)
        if response.has_redirect_location:
            return OtoscopeError(f"{status}, which leads to {response.headers['location']}; use that address.")
        return OtoscopeError(
            f"{status} without a problem document.{_proxy_hint(response.url)}", retry_after=retry_after
        )
    sent_no_key = problem.code == KeyRequired.code and "authorization" not in response.request.headers
    detail = _KEY_MISSING if sent_no_key else problem.detail
    return BY_CODE.get(problem.code, OtoscopeError)(detail, retry_after=retry_after)


def unreachable_error(error: httpx2.TransportError) -> ServiceUnreachable:
    """The same failure with a message that names the remedy."""
    where, hint = _shown(error.request.url.copy_with(raw_path=b"/")), _proxy_hint(error.request.url)
    cause, words = _tls_cause(error), str(error).rstrip(".")  # some messages are a sentence
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ServiceUnreachable(f"The certificate of {where} is not trusted: {words}.")
    if cause is not None:
        return ServiceUnreachable(f"{where} has no TLS ({words}); the address of such a service begins with http://.")
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return ServiceUnreachable(
            f"There is no Otoscope service at {where} ({words or 'no connection'}).{hint}"
            " Start one with `otoscope up`, or set OTOSCOPE_URL to the address of a running one."
        )
    if isinstance(error, httpx2.TimeoutException):
        return ServiceUnreachable(f"{where} accepted the connection but did not answer in time.{hint}")
    return ServiceUnreachable(f"The connection to {where} broke: {words or type(error).__name__}.{hint}")


def is_untrusted(error: httpx2.TransportError) -> bool:
    """Whether a connection was given up because of the certificate of the server."""
    return isinstance(_tls_cause(error), ssl.SSLCertVerificationError)


def tls_error(url: httpx2.URL) -> ServiceUnreachable:
    """The error of an address with `http` whose port expects TLS."""
    where = _shown(url.copy_with(raw_path=b"/"))
    return ServiceUnreachable(f"{where} expects TLS; the address of such a service begins with https://.")


def _tls_cause(error: BaseException) -> ssl.SSLError | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _shown(url: httpx2.URL) -> str:
    """An address without the credentials that may be in it."""
    return str(url.copy_with(userinfo=b""))


def _proxy_hint(url: httpx2.URL) -> str:
    """A sentence on the proxy that the environment names for an address; empty without one."""
    if (proxy := environment_proxy(str(url))) is None:
        return ""
    shown = _shown(httpx2.URL(proxy))
    return f" The environment names the proxy {shown} for it; NO_PROXY={url.host} leaves it out."


def parse_response(kind: type[M], response: httpx2.Response) -> M:
    """The body of a response as one of the public models."""
    return parse_model(kind, response.content)


def parse_model(kind: type[M], text: str | bytes) -> M:
    """JSON as one of the public models. Raises OtoscopeError."""
    try:
        return kind.model_validate_json(text, extra="ignore")  # a newer service may send more fields
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise OtoscopeError(
            f"The answer is not a {kind.__name__} ({where}: {first['msg']}); is this Otoscope?"
        ) from error


def job_error(job: Job) -> OtoscopeError | None:
    """The error of a failed or cancelled job as an exception; None for any other job."""
    if job.status == "cancelled":
        return JobCancelled(f"Job {job.id} was cancelled.")
    if job.status != "failed":
        return None
    if job.error is None:
        return OtoscopeError(f"Job {job.id} failed without an error document.")
    return BY_CODE.get(job.error.code, OtoscopeError)(job.error.detail)
