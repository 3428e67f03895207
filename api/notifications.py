"""One subscription a gateway that wakes whoever waits for a job, instead of one connection for each of them.

The message on the channel says which job has become what, so that who waits for the end need not look before. It is a
hint and no more: what happened is in the job's record and stream, which are read after it and when time is up, so a
lost message loses nothing but time.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from otoscope.errors import OtoscopeError
from shared.jobs import AsyncJobStore

log = logging.getLogger(__name__)

_UNFINISHED = ("queued", "running")


class Watch:
    """Somebody who waits for news of a job; what was told since the last `news` is not lost."""

    def __init__(self, *, end_only: bool = False) -> None:
        self._event, self._end_only = asyncio.Event(), end_only

    def tell(self, status: str = "") -> None:
        """The job has that status now; without one, it may have any."""
        if not (self._end_only and status in _UNFINISHED):
            self._event.set()

    async def news(self, seconds: float) -> bool:
        """Whether there was any before time was up; look again, either way."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


Watchers = dict[str, set[Watch]]


class Changes:
    """`run` and `follow_queue` are the sources; `watching` registers somebody for the news of one job."""

    def __init__(self, store: AsyncJobStore) -> None:
        self._store = store
        self._watchers: Watchers = {}
        self._queuing: Watchers = {}

    @contextmanager
    def watching(self, job_id: str, *, end_only: bool = False, place: bool = False) -> Iterator[Watch]:
        """Register first, then read: what changes in between is told.

        With `end_only` nothing is told but the end; with `place` also that the job has moved in the queue, within about
        a second.
        """
        watch = Watch(end_only=end_only)
        books = (self._watchers, self._queuing) if place else (self._watchers,)
        for book in books:
            book.setdefault(job_id, set()).add(watch)
        try:
            yield watch
        finally:
            for book in books:
                book[job_id].discard(watch)
                if not book[job_id]:
                    del book[job_id]

    async def run(self) -> None:
        """For ever; after a lost connection everybody looks again."""
        while True:
            try:
                await self._store.watch(self._wake)
            except OtoscopeError as error:
                log.warning("no news from the queue: %s (%s)", error, error.__cause__)
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
            for job_id, watches in self._queuing.items():
                if places.get(job_id) != before.get(job_id):
                    for watch in watches:
                        watch.tell()
            before = places

    def _wake(self, job_id: str | None, status: str) -> None:
        if job_id is None:
            for watches in self._watchers.values():
                for watch in watches:
                    watch.tell()
            return
        for watch in self._watchers.get(job_id, ()):
            watch.tell(status)
