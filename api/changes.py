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


class Changes:
    """`run` is the subscription; `watching` gives an event that is set at every change of one job."""

    def __init__(self, store: AsyncJobStore) -> None:
        self._store = store
        self._watchers: dict[str, set[asyncio.Event]] = {}

    @asynccontextmanager
    async def watching(self, job_id: str) -> AsyncIterator[asyncio.Event]:
        """Register first, then read: what changes in between sets the event."""
        event = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            watchers = self._watchers[job_id]
            watchers.discard(event)
            if not watchers:
                del self._watchers[job_id]

    async def run(self) -> None:
        """For ever; after a lost connection everybody looks again."""
        while True:
            try:
                await self._store.watch(self._wake)
            except OtoscopeError as error:
                log.warning("no news from the queue: %s", error)
            await asyncio.sleep(0.5)

    def _wake(self, job_id: str | None) -> None:
        if job_id is None:
            for events in self._watchers.values():
                for event in events:
                    event.set()
            return
        for event in self._watchers.get(job_id, ()):
            event.set()
