"""A job's changes as server-sent events: `status` at every change, `result` last, resumable by `Last-Event-ID`.

A place in the queue that has changed is told by a `status` without an id: it is no change of state, and nobody has to
be told it later.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

from sse_starlette import ServerSentEvent

from api.notifications import Changes
from api.rendering.results import render_job
from otoscope.errors import InvalidRequest, JobExpired, JobNotFound, StoreUnavailable
from otoscope.types import Timings
from shared.jobs import AsyncJobStore
from shared.jobs.records import JobRecord

FROM_START = "0-0"


def resume_point(last_event_id: str | None) -> str:
    """The stream position after which to go on. Raises InvalidRequest for what is no event id of ours."""
    if not last_event_id:
        return FROM_START
    if not re.fullmatch(r"\d{1,19}-\d{1,19}", last_event_id):
        raise InvalidRequest("Last-Event-ID must be the id of an event of this stream.")
    return last_event_id


async def job_events(
    store: AsyncJobStore, changes: Changes, job_id: str, after: str, keepalive: float, *, include_result: bool = True
) -> AsyncIterator[ServerSentEvent | bytes]:
    """Every event after `after`, in order, until the job is finished; the last has the result if it is to be included.

    The stream is read from a position of its own, never from "now", so nothing that happens between two reads is lost.
    A store that cannot be reached for a while is waited for.
    """
    told: int | None = None  # the last place in the queue
    with changes.watching(job_id, place=True) as watch:
        while True:
            try:
                entries, job = await store.follow(job_id, after, with_result=include_result)
            except (JobNotFound, JobExpired):
                return
            except StoreUnavailable:
                yield ServerSentEvent(comment="the queue cannot be reached; waiting")
                await asyncio.sleep(1.0)
                continue
            for entry in entries:
                after = entry.id
                # Of a job that has moved on since, a status still tells what it was then.
                then = job if entry.kind == "result" else _as_of(job, entry.kind)
                for piece in await _event(then, "result" if entry.kind == "result" else "status", entry.id):
                    yield piece
            if job.final:
                return  # the stream of a finished job has nothing more to tell
            if not entries and job.position not in (None, told):
                for piece in await _event(job, "status"):
                    yield piece
            told = job.position
            if not await watch.news(keepalive):
                yield ServerSentEvent(comment="keep-alive")


async def _event(job: JobRecord, name: str, entry: str | None = None) -> list[bytes]:
    """In the pieces in which the job comes: with a result they are tens of megabytes. JSON has no line ends of its own,
    at which it would have to be parted."""
    pieces = await render_job(job)
    head = f"id: {entry}\r\n" if entry else ""
    pieces[0] = f"{head}event: {name}\r\ndata: ".encode() + pieces[0]
    pieces[-1] += b"\r\n\r\n"
    return pieces


def _as_of(job: JobRecord, status: str) -> JobRecord:
    """The job as it was at an earlier change, without its result, and without what was not known then."""
    if status == job.status:
        return replace(job, packed=None)
    started, waited = (None, None) if status == "queued" else (job.started_at, job.timings.queue)
    then = replace(job, status=status, started_at=started, timings=Timings(queue=waited))
    return replace(then, finished_at=None, error=None, position=None, packed=None)
