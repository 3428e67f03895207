"""The events of a job as server-sent events: `status` at every change, `result` last, resumable by `Last-Event-ID`.

A changed position in the queue, or the progress of a long job, is sent as a `status` without an id: it is no change of
state and is not replayed.
Format: https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace

from sse_starlette import ServerSentEvent

from api.notifications import RETRY_SECONDS, Notifications
from api.rendering.results import render_job
from otoscope.errors import (
    ContractMismatch,
    InvalidRequest,
    JobExpired,
    JobNotFound,
    RateLimited,
    StoreUnavailable,
    TooManyConnections,
)
from otoscope.types import Progress, Timings
from shared.jobs import ShardedJobStore
from shared.jobs.records import Event, JobRecord

FROM_START = "0-0"

Load = Callable[[JobRecord], AbstractAsyncContextManager[JobRecord]]
"""A job -> the job with its result, within the block; `Gateway.loaded`."""


def resume_point(last_event_id: str | None) -> str:
    """The position in the stream after which to resume. Raises InvalidRequest for what is not an event id."""
    if not last_event_id:
        return FROM_START
    if not re.fullmatch(r"\d{1,19}-\d{1,19}", last_event_id):
        raise InvalidRequest("Last-Event-ID must be the id of an event of this stream, such as 1700000000000-0.")
    return last_event_id


async def job_events(
    store: ShardedJobStore,
    notifications: Notifications,
    job_id: str,
    after: str,
    keepalive: float,
    load: Load | None,
) -> AsyncIterator[ServerSentEvent | bytes]:
    """Every event after `after`, in order, until the job is finished.

    The last one has the result, which `load` reads where it is large; None: it has none. A result
    for which there is no memory is sent as soon as there is.

    The stream is read from a given position, never from "now", so that nothing between two reads is lost. While Redis
    is unreachable the stream stays open. After `keepalive` seconds without an event a comment is sent.
    """
    sent: tuple[int | None, Progress | None] = (None, None)  # position in the queue, progress
    with notifications.subscribe(job_id, queue_position=True) as subscription:
        while True:
            try:
                entries, job = await store.events_since(job_id, after, with_result=load is not None)
                for entry in entries:
                    for piece in await _entry_event(entry, job, load):
                        yield piece
                    after = entry.id
            except (JobNotFound, JobExpired):
                return
            except (StoreUnavailable, RateLimited, TooManyConnections) as error:
                what = "Redis is unreachable" if isinstance(error, StoreUnavailable) else "no memory for the result"
                yield ServerSentEvent(comment=f"{what}; waiting")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if job.final:
                return  # no event follows the end of a job
            moved = job.position, job.progress
            if not entries and moved != (None, None) and moved != sent:
                for piece in await _event(job, "status"):
                    yield piece
            sent = moved
            if not await subscription.wait(keepalive):
                yield ServerSentEvent(comment="keep-alive")


async def _entry_event(entry: Event, job: JobRecord, load: Load | None) -> list[bytes]:
    """The event of an entry of the job's stream. Raises what `load` does."""
    if entry.kind != "result":  # the job as it was then, also where it has changed since
        return await _event(_as_of(job, entry.kind), "status", entry.id)
    async with load(job) if load else nullcontext(job) as complete:
        try:
            return await _event(complete, "result", entry.id)
        except ContractMismatch as error:  # the stream has begun; a newer gateway has the result
            return await _event(replace(complete.without_result(), error=error), "result", entry.id)


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
    job = job.without_result()
    if status == job.status:
        return job
    started, queue_seconds = (None, None) if status == "queued" else (job.started_at, job.timings.queue)
    job = replace(job, status=status, started_at=started, timings=Timings(queue=queue_seconds))
    return replace(job, finished_at=None, error=None, position=None, progress=None)
