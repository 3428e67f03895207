"""The calls of the HTTP API, each defined once: the request, what is retried, and how long is waited."""

import math
import random
import time
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import TypedDict
from urllib.parse import quote

import httpx2
from msgpack import UnpackException

from otoscope.audio import AudioInput
from otoscope.errors import InvalidRequest, OtoscopeError
from otoscope.exports import Format
from otoscope.responses import (
    ServiceUnreachable,
    WaitTimeout,
    error_from_response,
    is_untrusted,
    job_error,
    parse_response,
    tls_error,
    unreachable_error,
)
from otoscope.results import Result, unpack_result
from otoscope.sansio import Flow, LoadAudio, OpenStream, Request, SendRequest, Sleep
from otoscope.types import FINAL, Combine, Detection, DetectionList, Job, Limits, ModelList, Ready

LONG_POLL = 30.0  # seconds that a request waits for a change before it is sent again
RESPONSE_GRACE = 2.0  # seconds past the deadline in which the response to a long poll up to the deadline may arrive
LONGEST_PAUSE = 60.0  # seconds between two attempts, whatever the service requests
_TLS_SECONDS = 2.0  # for an answer of a port that may expect TLS
RETRY_PAUSE = 0.5  # seconds before a connection that failed is tried again
OUTAGE = 60.0  # seconds of retries against a service that has answered before, as during a restart

_MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, UnpackException)
"""What unpacking raises for bytes that are no result."""


class Options(TypedDict, total=False):
    """The options of `submit` and `classify`. Absent or None: the server's default, and the client's timeout."""

    model: str | None
    top_k: int | None
    include: str | Iterable[str]  # otoscope.types.Part names
    window: int | None  # index of the window that the arrays are of
    layer: str | None  # return all channels of this layer
    cam_class: str | None  # the class of the parts cam and occlusion
    cell: str | None  # LAYER:CHANNEL:ROW:COLUMN or logits:CLASS: return how this number was computed
    combine: Combine | None  # how the windows become one answer
    unknown_threshold: float | None  # known score below which the verdict is `unknown`
    min_confidence: float | None  # confidence below which the verdict is `unsure`
    channel: int | str | None  # which channel is classified: a number from 1 on, left, loudest or mean
    strict: bool | None  # refuse a sound that is cut or damaged
    overlap: float | None  # share by which the windows of a long sound overlap
    merge_gap: float | None  # seconds: closer detections of one class are joined
    min_duration: float | None  # seconds: shorter detections are left out
    keep_sound: bool | None  # keep the sound as long as the result
    timeout: float | None  # seconds for the whole call, waiting and retries included
    idempotency_key: str | None  # submissions with the same key are one job; each call has its own by default


def submit(
    sound: AudioInput, rate: int | None, options: Options, timeout: float, wait: float | None = None
) -> Flow[Job]:
    """POST /v1/jobs. With `wait` the finished job, if it finishes within that many seconds."""
    timeout = call_timeout(options, timeout)
    deadline = time.monotonic() + timeout
    name, body = yield LoadAudio(sound, rate)
    # With a key a submission may safely be repeated, even if the first one did arrive.
    headers = {"Idempotency-Key": options.get("idempotency_key") or uuid.uuid4().hex}
    request = Request(
        "POST", "/v1/jobs", wait, headers=headers, data=form_fields(options), files=[("file", (name, body))]
    )
    response = yield from exchange(SendRequest(request), deadline)
    return parse_response(Job, response)


def classify(sound: AudioInput, rate: int | None, options: Options, timeout: float) -> Flow[Job]:
    """Submit and wait. Returns the succeeded job; raises the error of a failed one."""
    timeout = call_timeout(options, timeout)
    deadline = time.monotonic() + timeout
    job = yield from submit(sound, rate, options, timeout, wait=min(LONG_POLL, timeout))
    if job.status not in FINAL:
        job = yield from wait(job.id, deadline - time.monotonic(), known=job)
    if error := job_error(job):
        raise error
    return job


def get_job(job_id: str, timeout: float) -> Flow[Job]:
    """GET /v1/jobs/{id}."""
    response = yield from exchange(SendRequest(Request("GET", job_path(job_id))), time.monotonic() + timeout)
    return parse_response(Job, response)


def wait(job_id: str, timeout: float | None, known: Job | None = None) -> Flow[Job]:
    """The job once it is in a final state, failed ones too. Raises WaitTimeout, also where the deadline falls into an
    outage, and what `exchange` does."""
    deadline = deadline_after(timeout)
    status = known.status if known else None
    reached = known is not None  # a service that has never answered is not retried
    while True:
        sent_at = time.monotonic()
        long_poll = max(0.0, min(LONG_POLL, deadline - sent_at))
        step = SendRequest(Request("GET", job_path(job_id), long_poll))
        try:
            response = yield from exchange(step, deadline, reached=reached)
        except ServiceUnreachable as error:
            if reached and time.monotonic() + RETRY_PAUSE >= deadline:
                raise WaitTimeout(
                    f"The job {job_id} was {status} before the connection broke; it continues, and can be waited for"
                    " again."
                ) from error
            raise
        job = parse_response(Job, response)
        if job.status in FINAL:
            return job
        now = time.monotonic()
        if now >= deadline:
            raise WaitTimeout(f"Job {job_id} is still {job.status}; it continues, and can be waited for again.")
        if job.status == status and now - sent_at < min(long_poll, 1.0):
            yield Sleep(min(1.0, deadline - now))  # something on the way, a cache or a proxy, ends the long poll early
        status, reached = job.status, True


def result(job_id: str, timeout: float) -> Flow[Result]:
    """GET /v1/jobs/{id}/result as MessagePack: arrays become numpy float16."""
    request = Request("GET", f"{job_path(job_id)}/result", headers={"Accept": "application/msgpack"})
    response = yield from exchange(SendRequest(request), time.monotonic() + timeout)
    try:
        return unpack_result(response.content)
    except _MALFORMED as error:
        raise OtoscopeError(f"The answer is not a result ({type(error).__name__}); is this Otoscope?") from error


def detections(job: Job | str, format: Format | None, timeout: float) -> Flow[list[Detection] | str]:
    """GET /v1/jobs/{id}/detections: a list, or the text of a file in a format."""
    path = f"{job_path(job.id if isinstance(job, Job) else job)}/detections?format={format or 'json'}"
    request = Request("GET", path, headers={"Accept": "*/*"})
    response = yield from exchange(SendRequest(request), time.monotonic() + timeout)
    if format is None:
        return parse_response(DetectionList, response).detections
    try:
        return response.content.decode()
    except UnicodeDecodeError as error:
        raise OtoscopeError("The answer is not text in UTF-8; is this Otoscope?") from error


def audio(job_id: str, timeout: float) -> Flow[bytes]:
    """GET /v1/jobs/{id}/audio."""
    request = Request("GET", f"{job_path(job_id)}/audio", headers={"Accept": "*/*"})
    return (yield from exchange(SendRequest(request), time.monotonic() + timeout)).content


def cancel(job_id: str, timeout: float) -> Flow[None]:
    """DELETE /v1/jobs/{id}."""
    yield from exchange(SendRequest(Request("DELETE", job_path(job_id))), time.monotonic() + timeout)


def models(timeout: float) -> Flow[ModelList]:
    """GET /v1/models."""
    response = yield from exchange(SendRequest(Request("GET", "/v1/models")), time.monotonic() + timeout)
    return parse_response(ModelList, response)


def limits(timeout: float) -> Flow[Limits]:
    """GET /v1/limits."""
    response = yield from exchange(SendRequest(Request("GET", "/v1/limits")), time.monotonic() + timeout)
    return parse_response(Limits, response)


def ready(timeout: float) -> Flow[Ready]:
    """GET /health/ready: "not ready" is an answer here, not an error."""
    try:
        response: httpx2.Response = yield SendRequest(Request("GET", "/health/ready", read_timeout=timeout))
    except httpx2.TransportError as error:
        raise unreachable_error(error) from error
    if response.status_code not in (200, 503):
        raise error_from_response(response)
    return parse_response(Ready, response)


def exchange(step: SendRequest | OpenStream, deadline: float, *, reached: bool = False) -> Flow[httpx2.Response]:
    """Send a request, with retries, until it succeeds or fails for good.

    The deadline bounds all waiting, except for RESPONSE_GRACE. Until then `Retry-After` of 429 and 503 is obeyed, and a
    failed connection is retried for OUTAGE seconds if there is a service: it was `reached` before, or has accepted the
    connection.
    """
    lost_at: float | None = None
    while True:
        failure: OtoscopeError
        left, wait = max(0.01, deadline - time.monotonic()), step.request.wait
        wait, beyond = (None, left) if wait is None else (min(wait, left), max(left - wait, RESPONSE_GRACE))
        read_timeout = min(step.request.read_timeout, beyond)
        by = deadline + RESPONSE_GRACE if isinstance(step, SendRequest) else math.inf
        step = replace(step, request=replace(step.request, wait=wait, read_timeout=read_timeout, deadline=by))
        try:
            response: httpx2.Response = yield step
        except (httpx2.LocalProtocolError, ValueError) as error:  # also of text that cannot be encoded
            raise InvalidRequest(f"The request cannot be sent: {error}.") from error
        except httpx2.TransportError as error:
            never_connected = httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol
            if not (reached or isinstance(error, (never_connected, httpx2.TimeoutException))):
                yield from _refuse_tls(error)
            reached = reached or not isinstance(error, never_connected)
            lost_at = time.monotonic() if lost_at is None else lost_at
            failure, pause = unreachable_error(error), RETRY_PAUSE
            limit = min(deadline, lost_at + OUTAGE if reached else 0.0)
            failure.__cause__ = error
        else:
            if response.is_success:
                return response
            lost_at = None
            failure = error_from_response(response)
            if response.status_code not in (429, 503):
                raise failure
            # With jitter, so that callers who were refused together do not come back together.
            retry_after = 1.0 if failure.retry_after is None else max(failure.retry_after, 0.1)
            pause, limit = min(retry_after, LONGEST_PAUSE) * random.uniform(1.0, 1.2), deadline
        if time.monotonic() + pause > limit:
            raise failure
        yield Sleep(pause)


def _refuse_tls(error: httpx2.TransportError) -> Flow[None]:
    """Raise ServiceUnreachable where a connection broke because its port expects TLS.

    Many servers end a connection that begins with HTTP without an answer. A request with TLS shows the cause.
    """
    url = error.request.url
    if url.scheme != "http":
        return
    address = url.copy_with(scheme="https", port=url.port or 80, path="/health/live", query=None)
    try:
        yield SendRequest(
            Request("GET", str(address), read_timeout=_TLS_SECONDS, deadline=time.monotonic() + _TLS_SECONDS)
        )
    except httpx2.TransportError as refusal:
        if not is_untrusted(refusal):
            return
    raise tls_error(url) from error


def form_fields(options: Options) -> dict[str, str]:
    """Of an option that does not exist, too: the service refuses it."""
    include = options.get("include", ())
    parts = include if isinstance(include, str) else ",".join(include)
    given = {name: value for name, value in options.items() if value is not None and name not in _NO_FIELDS}
    fields = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()}
    return fields | ({"include": parts} if parts else {})


_NO_FIELDS = ("include", "timeout", "idempotency_key")
"""Options that are no form fields under their own names."""


def call_timeout(options: Options, default: float) -> float:
    timeout = options.get("timeout")
    return default if timeout is None else timeout


def job_path(job_id: str) -> str:
    return f"/v1/jobs/{quoted_id(job_id)}"


def quoted_id(id: str) -> str:
    """An id as a segment of a path. Raises TypeError."""
    if not isinstance(id, str):
        raise TypeError(f"an id is text, as in job.id and batch.id; this is of the type {type(id).__name__}")
    return quote(id, safe="")


def deadline_after(timeout: float | None) -> float:
    """On a monotonic clock; without a timeout infinite."""
    return time.monotonic() + timeout if timeout is not None else math.inf
