"""The events of a job as server-sent events: `status` at every change, `result` last, resumable by `Last-Event-ID`.

A changed position in the queue, or the progress of a long job, is sent as a `status` without an id: it is no change of
state and is not replayed.
Format: https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

from sse_starlette import ServerSentEvent

from api.notifications import Notifications
from api.rendering.results import render_job
from otoscope.errors import InvalidRequest, JobExpired, JobNotFound, StoreUnavailable
from otoscope.types import Progress, Timings
from shared.jobs import AsyncJobStore
from shared.jobs.records import JobRecord

FROM_START = "0-0"


def resume_point(last_event_id: str | None) -> str:
    """The position in the stream after which to resume. Raises InvalidRequest for what is not an event id."""
    if not last_event_id:
        return FROM_START
    if not re.fullmatch(r"\d{1,19}-\d{1,19}", last_event_id):
        raise InvalidRequest("Last-Event-ID must be the id of an event of this stream, such as 1700000000000-0.")
    return last_event_id


async def job_events(
    store: AsyncJobStore,
    notifications: Notifications,
    job_id: str,
    after: str,
    keepalive: float,
    *,
    include_result: bool = True,
) -> AsyncIterator[ServerSentEvent | bytes]:
    """Every event after `after`, in order, until the job is finished; the last has the result if `include_result`.

    The stream is read from a given position, never from "now", so that nothing between two reads is lost. While Redis
    is unreachable the stream stays open. After `keepalive` seconds without an event a comment is sent.
    """
    sent: tuple[int | None, Progress | None] = (None, None)  # position in the queue, progress
    with notifications.subscribe(job_id, queue_position=True) as subscription:
        while True:
            try:
                entries, job = await store.events_since(job_id, after, with_result=include_result)
            except (JobNotFound, JobExpired):
                return
            except StoreUnavailable:
                yield ServerSentEvent(comment="Redis is unreachable; waiting")
                await asyncio.sleep(1.0)
                continue
            for entry in entries:
                after = entry.id
                # A status event shows the job as it was then, also where the job has changed since.
                snapshot = job if entry.kind == "result" else _as_of(job, entry.kind)
                for piece in await _event(snapshot, "result" if entry.kind == "result" else "status", entry.id):
                    yield piece
            if job.final:
                return  # no event follows the end of a job
            moved = job.position, job.progress
            if not entries and moved != (None, None) and moved != sent:
                for piece in await _event(job, "status"):
                    yield piece
            sent = moved
            if not await subscription.wait(keepalive):
                yield ServerSentEvent(comment="keep-alive")


async def _event(job: JobRecord, name: str, entry: str | None = None) -> list[bytes]:
    """One event, in the pieces of the rendered job: with a result it can have tens of megabytes.

    The JSON holds no line ends, so that it is a single `data` line.
    """
    pieces = await render_job(job)
    head = f"id: {entry}\r\n" if entry else ""
    pieces[0] = f"{head}event: {name}\r\ndata: ".encode() + pieces[0]
    pieces[-1] += b"\r\n\r\n"
    return pieces


def _as_of(job: JobRecord, status: str) -> JobRecord:
    """The job as it was at an earlier status: without its result, and without what was not known at that time."""
    if status == job.status:
        return replace(job, packed=None)
    started, queue_seconds = (None, None) if status == "queued" else (job.started_at, job.timings.queue)
    snapshot = replace(job, status=status, started_at=started, timings=Timings(queue=queue_seconds))
    return replace(snapshot, finished_at=None, error=None, position=None, progress=None, packed=None)
