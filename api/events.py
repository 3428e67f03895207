"""A job's changes as server-sent events: `status` at every change, `result` last, resumable by `Last-Event-ID`.

A place in the queue that has changed is told by a `status` without an id: it is no change of state, and nobody has to
be told it later.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

from sse_starlette import ServerSentEvent

from api.changes import Changes
from api.render import render_job
from shared.errors import InvalidRequest, JobExpired, JobNotFound, StoreUnavailable
from shared.records import JobRecord
from shared.store import AsyncJobStore

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
) -> AsyncIterator[ServerSentEvent]:
    """Every event after `after`, in order, until the job is finished; the last has the result if it is to be included.

    The stream is read from a position of its own, never from "now", so nothing that happens between two reads is lost.
    A store that cannot be reached for a while is waited for.
    """
    told: int | None = None  # the last place in the queue
    ended = False
    async with changes.watching(job_id, place=True) as changed:
        while True:
            changed.clear()
            try:
                entries = await store.events(job_id, after)
                job = await store.get(job_id)
            except (JobNotFound, JobExpired):
                return
            except StoreUnavailable:
                yield ServerSentEvent(comment="the queue cannot be reached; waiting")
                await asyncio.sleep(1.0)
                continue
            for entry in entries:
                after = entry.id
                if entry.kind == "result":
                    packed = await store.result(job_id) if include_result else None
                    text = await asyncio.to_thread(render_job, job, packed)
                    yield ServerSentEvent(text.decode(), event="result", id=entry.id)
                    return
                # Of a job that has moved on since, the event still tells what it was then.
                yield ServerSentEvent(
                    render_job(job if entry.kind == job.status else _as_of(job, entry.kind)).decode(),
                    event="status",
                    id=entry.id,
                )
            if not entries:
                if job.final:
                    if ended:
                        return  # the client has seen the last event already
                    ended = True  # or it came between the two readings
                    continue
                if job.position not in (None, told):
                    yield ServerSentEvent(render_job(job).decode(), event="status")
            told = job.position
            try:
                async with asyncio.timeout(keepalive):
                    await changed.wait()
            except TimeoutError:
                yield ServerSentEvent(comment="keep-alive")


def _as_of(job: JobRecord, status: str) -> JobRecord:
    """The job as it was at an earlier change."""
    started = None if status == "queued" else job.started_at
    return replace(job, status=status, started_at=started, finished_at=None, error=None, position=None)
