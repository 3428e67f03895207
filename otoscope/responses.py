"""Answers read: bodies as the models of `otoscope.types`, problem documents as the errors of `otoscope.errors`.

Two errors are the client's own:

    OtoscopeError
    ├── ServiceUnreachable          unreachable; nothing answers, or the connection broke
    └── WaitTimeout                 wait_timeout; also a TimeoutError
"""

from typing import ClassVar, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from otoscope.errors import BY_CODE, JobCancelled, KeyRequired, OtoscopeError
from otoscope.types import Job, Problem

M = TypeVar("M", bound=BaseModel)

_KEYLESS = "This service asks for a key. Set OTOSCOPE_KEY to one that its operator made with `otoscope keys create`."


class ServiceUnreachable(OtoscopeError):
    """Nothing answers, or the connection broke."""

    code: ClassVar[str] = "unreachable"
    title: ClassVar[str] = "Service unreachable"


class WaitTimeout(OtoscopeError, TimeoutError):
    """The caller's timeout is over; the job goes on."""

    code: ClassVar[str] = "wait_timeout"
    title: ClassVar[str] = "Waited too long"


def error_of(response: httpx.Response) -> OtoscopeError:
    """The exception that a problem document stands for."""
    wanted = response.headers.get("retry-after", "")
    retry_after = int(wanted) if wanted.isdigit() else None
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        told = f"{response.url} answered {response.status_code} {response.reason_phrase}"
        return OtoscopeError(f"{told}, without saying why.", retry_after=retry_after)
    keyless = problem.code == KeyRequired.code and "authorization" not in response.request.headers
    detail = _KEYLESS if keyless else problem.detail
    return BY_CODE.get(problem.code, OtoscopeError)(detail, retry_after=retry_after)


def unreachable(error: httpx.TransportError) -> ServiceUnreachable:
    """The same in words that say what to do."""
    where = error.request.url.copy_with(raw_path=b"/")
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return ServiceUnreachable(
            f"No Otoscope answers at {where} ({error or 'no connection'})."
            " Start one with `otoscope up`, or set OTOSCOPE_URL to where one runs."
        )
    if isinstance(error, httpx.TimeoutException):
        return ServiceUnreachable(f"{where} took the request but did not answer in time.")
    return ServiceUnreachable(f"The connection to {where} broke: {error or type(error).__name__}.")


def read(kind: type[M], response: httpx.Response) -> M:
    """The body of an answer."""
    return parse(kind, response.content)


def parse(kind: type[M], text: str | bytes) -> M:
    """JSON as one of the public models."""
    try:
        return kind.model_validate_json(text, extra="ignore")  # a newer service may say more
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        told = f"The answer is not a {kind.__name__} ({where}: {first['msg']}); is this Otoscope?"
        raise OtoscopeError(told) from error


def failure_of(job: Job) -> OtoscopeError | None:
    """The error with which a job ended, as an exception."""
    if job.status == "cancelled":
        return JobCancelled(f"Job {job.id} was cancelled.")
    if job.status != "failed":
        return None
    if job.error is None:
        return OtoscopeError(f"Job {job.id} failed and does not say why.")
    return BY_CODE.get(job.error.code, OtoscopeError)(job.error.detail)
