"""One subscription a gateway that wakes whoever waits for a job, instead of one connection for each of them.

The message on the channel only says "look again": what happened is in the job's stream, read from where the reader
stands, so a lost message loses nothing but time.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import OtoscopeError
from shared.store import AsyncJobStore

log = logging.getLogger(__name__)

Watchers = dict[str, set[asyncio.Event]]


class Changes:
    """`run` and `follow_queue` are the sources; `watching` gives an event that is set at every change of one job."""

    def __init__(self, store: AsyncJobStore) -> None:
        self._store = store
        self._watchers: Watchers = {}
        self._queuing: Watchers = {}

    @asynccontextmanager
    async def watching(self, job_id: str, *, place: bool = False) -> AsyncIterator[asyncio.Event]:
        """Register first, then read: what changes in between sets the event.

        With `place` it is also set when the job has moved in the queue, within about a second.
        """
        event = asyncio.Event()
        books = (self._watchers, self._queuing) if place else (self._watchers,)
        for book in books:
            book.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            for book in books:
                book[job_id].discard(event)
                if not book[job_id]:
                    del book[job_id]

    async def run(self) -> None:
        """For ever; after a lost connection everybody looks again."""
        while True:
            try:
                await self._store.watch(self._wake)
            except OtoscopeError as error:
                log.warning("no news from the queue: %s", error)
            await asyncio.sleep(0.5)

    async def follow_queue(self) -> None:
        """For ever: read the queue once a second for everybody who wants to know a place in it."""
        before: dict[str, int] = {}
        while True:
            await asyncio.sleep(1.0)
            try:
                places = await self._store.places() if self._queuing else {}
            except OtoscopeError:
                continue  # `run` says so
            for job_id, events in self._queuing.items():
                if places.get(job_id) != before.get(job_id):
                    for event in events:
                        event.set()
            before = places

    def _wake(self, job_id: str | None) -> None:
        if job_id is None:
            for events in self._watchers.values():
                for event in events:
                    event.set()
            return
        for event in self._watchers.get(job_id, ()):
            event.set()
