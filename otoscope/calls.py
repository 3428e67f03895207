"""The calls of the HTTP API, each once: what is sent, what is tried again, how long is waited."""

import random
import time
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import TypedDict
from urllib.parse import quote

import httpx

from otoscope.audio import Sound
from otoscope.errors import OtoscopeError
from otoscope.responses import ServiceUnreachable, WaitTimeout, error_of, failure_of, parse, read, unreachable
from otoscope.results import Result, unpack_result
from otoscope.sansio import Call, Emit, Flow, JobEvent, Load, More, Open, Pause, Send
from otoscope.sse import EventParser
from otoscope.types import FINAL, Job, ModelList, Ready

HOLD = 30.0  # seconds that a request waits for news before it is sent anew
SILENCE = 60.0  # seconds without even a keep-alive after which an event stream counts as lost
LATE = 2.0  # seconds that the answer may take which ends a request that was held up to the deadline
OUTAGE = 60.0  # seconds that a service which has answered before may be away, as in a restart


class Options(TypedDict, total=False):
    """What `submit` and `classify` may ask for. Absent or None means the server's default, and the client's timeout."""

    model: str | None
    top_k: int | None
    include: str | Iterable[str]  # otoscope.types.Part names
    window: int | None  # which window the arrays are of
    layer: str | None  # to look into: all of its channels
    timeout: float | None  # seconds for the whole call, waiting and trying again included
    idempotency_key: str | None  # submissions with the same key are one job; without, each call makes its own


def submit(sound: Sound, rate: int | None, options: Options, timeout: float, hold: float | None = None) -> Flow[Job]:
    """POST /v1/jobs. With `hold` the finished job, if it finishes within so many seconds."""
    timeout = _chosen(options, timeout)
    deadline = time.monotonic() + timeout
    name, body = yield Load(sound, rate)
    # Under a key it is harmless to submit again what may have arrived.
    headers = {"Idempotency-Key": options.get("idempotency_key") or uuid.uuid4().hex}
    call = Call("POST", "/v1/jobs", hold, headers=headers, data=_form(options), files={"file": (name, body)})
    response = yield from _exchange(Send(call), deadline)
    return read(Job, response)


def classify(sound: Sound, rate: int | None, options: Options, timeout: float) -> Flow[Job]:
    """Submit and wait. Returns the succeeded job; raises the error of a failed one."""
    timeout = _chosen(options, timeout)
    deadline = time.monotonic() + timeout
    job = yield from submit(sound, rate, options, timeout, hold=min(HOLD, timeout))
    if job.status not in FINAL:
        job = yield from wait(job.id, deadline - time.monotonic(), known=job)
    if failure := failure_of(job):
        raise failure
    return job


def get_job(job_id: str, timeout: float) -> Flow[Job]:
    """GET /v1/jobs/{id}."""
    response = yield from _exchange(Send(Call("GET", _path(job_id))), time.monotonic() + timeout)
    return read(Job, response)


def wait(job_id: str, timeout: float | None, known: Job | None = None) -> Flow[Job]:
    """The job once it is finished, however that went. Raises WaitTimeout."""
    deadline = _deadline(timeout)
    status = known.status if known else None
    met = known is not None  # a service that has never answered is not waited for
    while True:
        asked = time.monotonic()
        hold = max(0.0, min(HOLD, deadline - asked))
        call = Send(Call("GET", _path(job_id), hold))
        job = read(Job, (yield from _exchange(call, deadline, met=met)))
        if job.status in FINAL:
            return job
        now = time.monotonic()
        if now >= deadline:
            raise WaitTimeout(f"Job {job_id} is still {job.status}; it goes on, and can be waited for again.")
        if job.status == status and now - asked < min(hold, 1.0):
            yield Pause(min(1.0, deadline - now))  # whatever answers there does not hold the line
        status, met = job.status, True


def stream(job_id: str, timeout: float | None) -> Flow[None]:
    """Emit the job's events up to its result, once each and in order, over as many connections as it takes."""
    deadline = _deadline(timeout)
    last: JobEvent | None = None
    met, trouble_since, pause = False, 0.0, 0.5
    while True:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last is not None:
            headers["Last-Event-ID"] = last.id
        patience = min(SILENCE, max(0.01, deadline - time.monotonic()))
        opening = Open(Call("GET", f"{_path(job_id)}/events", patience=patience, headers=headers))
        try:
            yield from _exchange(opening, deadline, met=met)
        except ServiceUnreachable as error:
            if met and time.monotonic() + patience >= deadline:
                raise _unfinished(job_id) from error
            raise
        met, news, parser = True, False, EventParser()
        lost: httpx.TransportError | None = None
        while True:
            try:
                chunk: bytes = yield More()
            except httpx.TransportError as error:
                lost = error
                break
            if not chunk or time.monotonic() >= deadline:
                break
            for message in parser.feed(chunk):
                if message.event in ("status", "result"):
                    last = JobEvent(message.id, message.event, parse(Job, message.data))  # type: ignore[arg-type]
                    news = True
                    yield Emit(last)
                    if last.kind == "result":
                        return
        now = time.monotonic()
        if last is not None and last.job.status in FINAL and lost is None and not news:
            return  # there is no more to come
        if now >= deadline:
            raise _unfinished(job_id)
        trouble_since = now if news or not trouble_since else trouble_since
        if now - trouble_since > OUTAGE:
            raise unreachable(lost) if lost else ServiceUnreachable(f"The events of job {job_id} keep breaking off.")
        pause = 0.5 if news else min(pause * 2, 5.0)
        yield Pause(min(parser.retry or pause, max(0.0, deadline - now)))


def result(job_id: str, timeout: float) -> Flow[Result]:
    """GET /v1/jobs/{id}/result as MessagePack: the arrays come as numpy float16."""
    call = Call("GET", f"{_path(job_id)}/result", headers={"Accept": "application/msgpack"})
    response = yield from _exchange(Send(call), time.monotonic() + timeout)
    return unpack_result(response.content)


def cancel(job_id: str, timeout: float) -> Flow[None]:
    """DELETE /v1/jobs/{id}."""
    yield from _exchange(Send(Call("DELETE", _path(job_id))), time.monotonic() + timeout)


def models(timeout: float) -> Flow[ModelList]:
    """GET /v1/models."""
    response = yield from _exchange(Send(Call("GET", "/v1/models")), time.monotonic() + timeout)
    return read(ModelList, response)


def ready(timeout: float) -> Flow[Ready]:
    """GET /health/ready: "not ready" is an answer here, no error."""
    try:
        response: httpx.Response = yield Send(Call("GET", "/health/ready", patience=timeout))
    except httpx.TransportError as error:
        raise unreachable(error) from error
    if response.status_code not in (200, 503):
        raise error_of(response)
    return read(Ready, response)


def _exchange(step: Send | Open, deadline: float, *, met: bool = False) -> Flow[httpx.Response]:
    """Carry a request through to its answer, or raise the error that it ended in.

    Nothing is waited for past the deadline, but for LATE. Until then "come back later" (429, 503) is obeyed, and a
    connection that fails is tried again for OUTAGE seconds where there is a service: it was met before, or has taken
    the connection.
    """
    lost_at: float | None = None
    while True:
        failure: OtoscopeError
        left, hold = max(0.01, deadline - time.monotonic()), step.call.hold
        hold, beyond = (None, left) if hold is None else (min(hold, left), max(left - hold, LATE))
        step = replace(step, call=replace(step.call, hold=hold, patience=min(step.call.patience, beyond)))
        try:
            response: httpx.Response = yield step
        except httpx.TransportError as error:
            met = met or not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol)
            lost_at = time.monotonic() if lost_at is None else lost_at
            failure, pause, limit = unreachable(error), 0.5, min(deadline, lost_at + OUTAGE if met else 0.0)
            failure.__cause__ = error
        else:
            if response.is_success:
                return response
            lost_at = None
            failure = error_of(response)
            if response.status_code not in (429, 503):
                raise failure
            # Spread a little, so that those who were sent away together do not come back together.
            wanted = 1.0 if failure.retry_after is None else max(failure.retry_after, 0.1)
            pause, limit = wanted * random.uniform(1.0, 1.2), deadline
        if time.monotonic() + pause > limit:
            raise failure
        yield Pause(pause)


def _unfinished(job_id: str) -> WaitTimeout:
    return WaitTimeout(f"Job {job_id} is not finished; it goes on, and can be followed again.")


def _form(options: Options) -> dict[str, str]:
    include = options.get("include", ())
    parts = include if isinstance(include, str) else ",".join(include)
    plain = {name: options.get(name) for name in ("model", "top_k", "window", "layer")}
    fields = {name: str(value) for name, value in plain.items() if value is not None}
    return fields | ({"include": parts} if parts else {})


def _chosen(options: Options, timeout: float) -> float:
    chosen = options.get("timeout")
    return timeout if chosen is None else chosen


def _path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _deadline(timeout: float | None) -> float:
    return time.monotonic() + timeout if timeout is not None else float("inf")
