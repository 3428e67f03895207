"""The Redis servers of a service: which of them answer, and which of them gets a new job.

The number of a server is its place in OTOSCOPE_REDIS_URL, and the last two digits of the ids of its jobs. Where there
is one server, it is not probed, and there is nothing to choose.
"""

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import redis.asyncio

from otoscope.errors import OtoscopeError, StoreUnavailable
from otoscope.types import ModelCard
from shared import contract
from shared.config.settings import Settings
from shared.jobs.async_store import AsyncJobStore
from shared.jobs.batches import BatchStore
from shared.redis_client.connection import was_refused

T = TypeVar("T")

log = logging.getLogger(__name__)

_PROBE_SECONDS = 2.0  # that a server may take to answer a probe
_UP_SECONDS, _DOWN_SECONDS = 1.0, 0.5  # between two probes of a server that answers, or does not
_AVOID_SECONDS = 1.0  # without new jobs for a server that answers and has refused one


@dataclass
class Server:
    """One Redis server, and what is known of it."""

    number: int
    jobs: AsyncJobStore
    batches: BatchStore
    probed: AsyncJobStore  # the same, for probes
    up: bool = True  # it has answered last time
    writable: bool = True
    workers: Counter[str] = field(default_factory=Counter)  # that serve each model
    cards: dict[str, ModelCard] = field(default_factory=dict)  # of the models that its workers have announced
    unfinished: int = 0  # jobs at the last probe
    chosen: int = 0  # for so many jobs since then
    avoided_until: float = 0.0  # on the monotonic clock
    requests: set[asyncio.Timeout] = field(default_factory=set)  # that are in progress

    @property
    def usable(self) -> bool:
        """Whether it may get new jobs."""
        return self.up and self.writable and time.monotonic() >= self.avoided_until

    def work(self, model: str) -> float:
        """Unfinished jobs for each worker that serves the model."""
        return (self.unfinished + self.chosen) / max(self.workers[model], 1)


class Servers:
    """By their numbers. `watch` is a background task for each; without it every server is taken to be up."""

    def __init__(
        self,
        clients: "Sequence[redis.asyncio.Redis]",
        settings: Settings,
        probes: "Sequence[redis.asyncio.Redis] | None" = None,
    ) -> None:
        """`probes` are clients for probes alone: requests that wait for a free connection do not delay these."""
        self._all = tuple(
            Server(
                number, AsyncJobStore(client, settings), BatchStore(client, settings), AsyncJobStore(probe, settings)
            )
            for number, (client, probe) in enumerate(zip(clients, probes or clients, strict=True))
        )
        self._next = 0  # number of the server whose turn it is

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Server]:
        return iter(self._all)

    def of(self, job_id: str) -> Server | None:
        """The server of a job or a batch; None where there is no such server.

        A single server has all: gateways of earlier versions made ids without a number.
        """
        if len(self._all) == 1:
            return self._all[0]
        number = contract.server_of(job_id)
        return self._all[number] if number is not None and number < len(self._all) else None

    def of_key(self, key: str) -> Server:
        """The server of an idempotency key, whether or not it answers: only there its first request can be found.

        Rendezvous hashing: a server that is appended takes its share of the keys, and no other key changes its server.
        """
        return max(self._all, key=lambda server: hashlib.sha256(f"{server.number}\0{key}".encode()).digest())

    def for_model(self, model: str) -> list[Server]:
        """The servers for a new job, the best one first.

        Those whose workers serve the model, by the work that each of these workers has, in turn where that is equal.
        They are also returned where none of them may get new jobs: elsewhere a job would wait for a worker in vain.
        Where no worker serves the model, those that have its card: after an outage of a server the heartbeats of its
        workers have expired. Where there are none of these either, all.
        """
        if len(self._all) == 1:
            return list(self._all)
        serving = [server for server in self._all if server.workers[model]]
        serving = serving or [server for server in self._all if model in server.cards] or list(self._all)
        serving = [server for server in serving if server.usable] or serving
        count = len(self._all)
        return sorted(serving, key=lambda server: (server.work(model), (server.number - self._next) % count))

    def choose(self, model: str) -> Server:
        """The best server for a new job, which is counted there."""
        best = self.for_model(model)[0]
        self.count(best, 1)
        return best

    def count(self, server: Server, jobs: int) -> None:
        """That server will get so many new jobs."""
        server.chosen += jobs
        self._next = server.number + 1

    @asynccontextmanager
    async def using(self, server: Server) -> AsyncIterator[Server]:
        """For a request to a server. Raises StoreUnavailable where it is down, or is found to be down meanwhile: no
        request waits for it. An error of the request makes it known as down, too."""
        if len(self._all) == 1:
            yield server
            return
        if not server.up:
            raise _unavailable(server)
        try:
            async with asyncio.timeout(None) as limit:
                server.requests.add(limit)
                try:
                    yield server
                finally:
                    server.requests.discard(limit)
        except TimeoutError as error:
            raise _unavailable(server) from error
        except StoreUnavailable as error:
            if was_refused(error):
                server.avoided_until = time.monotonic() + _AVOID_SECONDS
            else:
                self._set_up(server, up=False)
            raise

    async def each(self, call: Callable[[Server], Awaitable[T]]) -> dict[int, T]:
        """What `call` returns for each server that answers, by its number. Raises StoreUnavailable where none does."""

        async def one(server: Server) -> T:
            async with self.using(server):
                return await call(server)

        found: dict[int, T] = {}
        unavailable: StoreUnavailable | None = None
        for server, reply in zip(
            self._all, await asyncio.gather(*map(one, self._all), return_exceptions=True), strict=True
        ):
            if isinstance(reply, StoreUnavailable):
                unavailable = reply
            elif isinstance(reply, BaseException):
                raise reply
            else:
                found[server.number] = reply
        if unavailable and not found:
            raise unavailable
        return found

    async def probe(self, server: Server) -> None:
        """Find out whether a server answers, what its workers serve and how much they have to do."""
        store = server.probed
        try:
            # Each reply by itself: between two of them a busy gateway answers requests.
            unfinished = await asyncio.wait_for(store.unfinished(), _PROBE_SECONDS)
            workers = await asyncio.wait_for(store.workers(), _PROBE_SECONDS)
            persistence = await asyncio.wait_for(store.persistence(), _PROBE_SECONDS)
        except (OtoscopeError, TimeoutError):
            self._set_up(server, up=False)
        else:
            server.chosen, server.unfinished = 0, unfinished
            server.workers = Counter(model for worker in workers for model in worker.models)
            server.writable = persistence.write
            self._set_up(server, up=True)

    async def watch(self, server: Server) -> None:
        """Background task: probe a server about once a second. One that is down gets no other requests."""
        while True:
            await asyncio.sleep(_UP_SECONDS if server.up else _DOWN_SECONDS)
            await self.probe(server)

    @staticmethod
    def _set_up(server: Server, *, up: bool) -> None:
        if server.up == up:
            return
        server.up = up
        if up:
            log.info("Redis server %d answers again", server.number)
            return
        log.warning("Redis server %d does not answer", server.number)
        now = asyncio.get_running_loop().time()
        for request in server.requests:
            request.reschedule(now)
        server.requests.clear()


def _unavailable(server: Server) -> StoreUnavailable:
    return StoreUnavailable(
        f"The queue cannot be reached right now (Redis server {server.number}); try again.", retry_after=2
    )
