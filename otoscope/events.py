"""Streams of server-sent events, which are opened again when they break."""

import time

import httpx2

from otoscope.calls import LONGEST_PAUSE, OUTAGE, RETRY_PAUSE, deadline_after, exchange, job_path
from otoscope.responses import ServiceUnreachable, WaitTimeout, parse_model, unreachable_error
from otoscope.sansio import EmitEvent, Flow, JobEvent, OpenStream, ReadChunk, Request, Sleep
from otoscope.sse import ServerSentEvent, SSEParser
from otoscope.types import FINAL, Job

_IDLE = 60.0  # seconds without even a keep-alive after which a stream counts as lost
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 5.0  # seconds before a stream is opened again


def stream(job_id: str, timeout: float | None) -> Flow[None]:
    """Emit the job's events up to its result, once each and in order; reconnects as often as needed."""
    events = EventStream(job_path(job_id), f"job {job_id}", timeout)
    last: JobEvent | None = None
    while last is None or last.kind != "result":
        event = yield from events.next()
        if event is None:
            if last is not None and last.job.status in FINAL:
                return  # there are no more events
        elif event.event in ("status", "result"):
            last = JobEvent(event.id, event.event, parse_model(Job, event.data))  # type: ignore[arg-type]
            yield EmitEvent(last)


class EventStream:
    """The events below a path. A connection goes on behind the last event of the one before."""

    def __init__(self, path: str, subject: str, timeout: float | None, *, reached: bool = False) -> None:
        """`subject` is what the events are of, for messages. A service that was `reached` before is retried from the
        beginning."""
        self._path, self._subject, self._deadline = path, subject, deadline_after(timeout)
        self._reached, self._last_id, self._events = reached, "", list[ServerSentEvent]()
        # Of the connection that is open, or was the last one.
        self._parser: SSEParser | None = None
        self._is_open = self._received = False
        self._lost: httpx2.TransportError | None = None
        # Since the last event.
        self._trouble_since: float | None = None
        self._pause = _FIRST_PAUSE

    def next(self) -> Flow[ServerSentEvent | None]:
        """The next event; None where a connection has ended without any.

        Raises WaitTimeout, ServiceUnreachable, and what `exchange` does.
        """
        while not self._events:
            parser = self._parser if self._is_open and self._parser else (yield from self._open())
            try:
                chunk: bytes = yield ReadChunk()
            except httpx2.TransportError as error:
                chunk, self._lost = b"", error
            self._is_open = bool(chunk) and time.monotonic() < self._deadline
            if self._is_open:
                self._events = parser.feed(chunk)
                self._received = self._received or bool(self._events)
            elif not (chunk or self._lost or self._received):
                return None
        event = self._events.pop(0)
        self._last_id = event.id
        return event

    def _open(self) -> Flow[SSEParser]:
        if self._parser is not None:
            yield from self._wait(self._parser.retry)
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        read_timeout = min(_IDLE, max(0.01, self._deadline - time.monotonic()))
        opening = OpenStream(Request("GET", f"{self._path}/events", read_timeout=read_timeout, headers=headers))
        try:
            yield from exchange(opening, self._deadline, reached=self._reached)
        except ServiceUnreachable as error:
            if self._reached and time.monotonic() + RETRY_PAUSE >= self._deadline:
                raise self._unfinished() from error
            raise
        self._reached, self._received, self._lost, self._parser = True, False, None, SSEParser()
        return self._parser

    def _wait(self, retry: float | None) -> Flow[None]:
        """Before the stream is opened again; `retry` is what the service requested, in seconds."""
        now = time.monotonic()
        if now >= self._deadline:
            raise self._unfinished()
        if self._received or self._trouble_since is None:
            self._trouble_since = now
        if now - self._trouble_since > OUTAGE:
            if self._lost is not None:
                raise unreachable_error(self._lost)
            raise ServiceUnreachable(f"The event stream of {self._subject} keeps ending early.")
        self._pause = _FIRST_PAUSE if self._received else min(self._pause * 2, _LAST_PAUSE)
        yield Sleep(min(retry or self._pause, LONGEST_PAUSE, self._deadline - now))

    def _unfinished(self) -> WaitTimeout:
        return WaitTimeout(f"The {self._subject} is not finished; it continues, and can be waited for again.")
