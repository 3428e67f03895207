"""Notifications of job changes: one subscription per gateway and Redis server, fanned out to every request that waits
for a job.

A message on the channel names the job and its new status, so that a request that waits for the end need not read the
job before. It is a hint only: the truth is in the job's record and stream, which are read after each notification and
after every timeout. A lost message therefore costs time and nothing else.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

from otoscope.errors import OtoscopeError
from shared.jobs import ShardedJobStore
from shared.jobs.servers import Server
from shared.outage_log import OutageLog

log = logging.getLogger(__name__)

UNFINISHED = ("queued", "running")
"""The states of a job in which a caller waits for it."""

RETRY_SECONDS = 1.0
"""Between two attempts of a waiting request to read a job whose server is unavailable."""

_RECONNECT_SECONDS = 0.5
_POLL_SECONDS = 1.0


class Subscription:
    """Wakes one waiter; a notification that arrives between two calls of `wait` is kept."""

    def __init__(self, *, final_only: bool = False) -> None:
        self._event, self._final_only = asyncio.Event(), final_only

    def notify(self, status: str = "") -> None:
        """The job has that status now; any status where it is empty."""
        if not (self._final_only and status in UNFINISHED):
            self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Whether a notification came before the timeout. Read the job again in either case."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


Subscribers = dict[str, set[Subscription]]  # by job id


class Notifications:
    """`run`, for each server, and `poll_queue_positions` are background tasks; `subscribe` is for requests."""

    def __init__(self, store: ShardedJobStore) -> None:
        self._store = store
        self._subscribers: Subscribers = {}
        self._position_subscribers: Subscribers = {}

    @contextmanager
    def subscribe(
        self, *job_ids: str, final_only: bool = False, queue_position: bool = False
    ) -> Iterator[Subscription]:
        """Subscribe to jobs, then read them: a change in between is notified.

        `final_only` leaves out every change before the end. `queue_position` adds changes of the job's position in the
        queue, within about a second.
        """
        subscription = Subscription(final_only=final_only)
        registries = (self._subscribers, self._position_subscribers) if queue_position else (self._subscribers,)
        for registry, job_id in product(registries, job_ids):
            registry.setdefault(job_id, set()).add(subscription)
        try:
            yield subscription
        finally:
            for registry, job_id in product(registries, job_ids):
                registry[job_id].discard(subscription)
                if not registry[job_id]:
                    del registry[job_id]

    async def run(self, server: Server) -> None:
        """Background task: receive messages of a server; after each reconnection all subscribers are notified."""
        lost, back = "lost the subscription to job changes", "subscribed to job changes again"
        outage = OutageLog(log, lost, back, server=server.number)

        def receive(job_id: str | None, status: str) -> None:
            outage.succeeded()
            self._dispatch(job_id, status)

        while True:
            try:
                await server.jobs.subscribe(receive)
            except OtoscopeError as error:
                outage.failed(f"{error} ({error.__cause__})")
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def poll_queue_positions(self) -> None:
        """Background task: read the queues once a second for all subscribers of positions."""
        before: dict[str, int] = {}
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                positions = await self._store.positions() if self._position_subscribers else {}
            except OtoscopeError:
                continue  # `run` logs it
            for job_id, subscriptions in self._position_subscribers.items():
                if positions.get(job_id) != before.get(job_id):
                    for subscription in subscriptions:
                        subscription.notify()
            before = positions

    def _dispatch(self, job_id: str | None, status: str) -> None:
        """Notify the subscribers of a job, or all of them where `job_id` is None."""
        if job_id is None:
            for subscriptions in self._subscribers.values():
                for subscription in subscriptions:
                    subscription.notify()
            return
        for subscription in self._subscribers.get(job_id, ()):
            subscription.notify(status)
