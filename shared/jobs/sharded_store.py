"""The gateway's store of jobs and of batches, over one Redis server or several.

A job, with all that belongs to it, is on one server, whose number is in its id (`shared.contract`). Requests for a job
of a server that is down get StoreUnavailable; all others go on.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from itertools import chain
from typing import TypeVar

from otoscope.errors import BatchNotFound, JobNotFound, QueueFull, StoreUnavailable
from otoscope.types import JobOptions, ModelCard
from shared import contract
from shared.config.settings import Settings
from shared.jobs.batches import BatchRecord, MemberState
from shared.jobs.records import Event, JobRecord, NewJob, ServerHealth, ServerState, Submission, WorkerHeartbeat
from shared.jobs.servers import Server, Servers
from shared.redis_client.connection import was_refused

T = TypeVar("T")


class ShardedJobStore:
    """A method that AsyncJobStore has, too, does the same here. Every method but `health` and `states` raises
    StoreUnavailable: those for one job where its server is down, the others where every server is."""

    def __init__(self, servers: Servers, settings: Settings) -> None:
        self._servers, self._settings = servers, settings

    def new_job_id(self, model: str) -> str:
        """An id for a job that is about to be submitted, with the server that suits it best."""
        return contract.new_job_id(self._servers.choose(model).number)

    def server_of_key(self, key: str) -> int:
        """The number of the server of an idempotency key."""
        return self._servers.of_key(key).number

    async def server_with_places(self, model: str, options: JobOptions, places: int) -> int:
        """The number of a server for a batch of so many jobs, which has room for them. Raises QueueFull."""
        full: QueueFull | None = None
        unavailable: StoreUnavailable | None = None
        for server in self._servers.for_model(model):
            try:
                async with self._servers.using(server):
                    await server.jobs.require_memory(options)
                    if await server.jobs.unfinished() + places <= self._settings.queue_limit:
                        self._servers.count(server, places)
                        return server.number
                    full = QueueFull(f"The queue has no place for {places} sounds now.", retry_after=5)
            except QueueFull as error:
                full = error
            except StoreUnavailable as error:
                unavailable = error
        raise full or unavailable or AssertionError("there is always a server")

    async def submit(self, job: NewJob, job_id: str | None = None, *, exact: bool = False) -> Submission:
        """As AsyncJobStore.submit, on the first server that takes the job.

        `job_id` is one of `new_job_id`. The job has another id where another server has taken it, unless `exact`: then
        its own is the only one. An idempotency key has one server, too.
        """
        servers = self._candidates(job, job_id, exact=exact)
        job_id = job_id or contract.new_job_id()
        full: QueueFull | None = None
        unavailable: StoreUnavailable | None = None
        for server in servers:
            try:
                if len(servers) > 1:
                    async with self._servers.using(server):
                        await server.jobs.check_connection()
            except StoreUnavailable as error:
                unavailable = error
                continue
            try:
                async with self._servers.using(server):
                    return await server.jobs.submit(job, contract.at_server(job_id, server.number))
            except QueueFull as error:
                full = error
            except StoreUnavailable as error:
                if not was_refused(error):
                    raise  # the server may have the job: on another one it would run twice
                unavailable = error
        raise full or unavailable or AssertionError("there is always a server")

    def _candidates(self, job: NewJob, job_id: str | None, *, exact: bool) -> list[Server]:
        """The servers that may take a job, the first one first."""
        if job.idempotency_key:
            return [self._servers.of_key(f"{job.caller}\0{job.idempotency_key}")]
        first = self._of(job_id) if job_id else self._servers.choose(job.model)
        if exact or len(self._servers) == 1:
            return [first]
        return [first, *(server for server in self._servers.for_model(job.model) if server is not first)]

    async def get(self, job_id: str, *, with_result: bool = False) -> JobRecord:
        async with self._using(job_id) as server:
            return await server.jobs.get(job_id, with_result=with_result)

    async def events_since(
        self, job_id: str, after: str, *, with_result: bool = False
    ) -> tuple[list[Event], JobRecord]:
        async with self._using(job_id) as server:
            return await server.jobs.events_since(job_id, after, with_result=with_result)

    async def sound(self, job_id: str) -> bytes | None:
        async with self._using(job_id) as server:
            return await server.jobs.sound(job_id)

    async def with_result(self, job: JobRecord) -> JobRecord:
        async with self._using(job.id) as server:
            return await server.jobs.with_result(job)

    async def cancel(self, job_id: str) -> str:
        async with self._using(job_id) as server:
            return await server.jobs.cancel(job_id)

    async def positions(self) -> dict[str, int]:
        """The position of every queued job in the queue of its server; 1 is next."""
        found = await self._servers.each(lambda server: server.jobs.positions())
        return dict(chain.from_iterable(positions.items() for positions in found.values()))

    async def workers(self) -> list[WorkerHeartbeat]:
        found = await self._servers.each(lambda server: server.jobs.workers())
        return list(chain.from_iterable(found.values()))

    async def cards(self) -> dict[str, ModelCard]:
        """As AsyncJobStore.cards. A model is not unknown because its server is down: its last card is returned then."""
        found = await self._servers.each(lambda server: server.jobs.cards())
        for server in self._servers:
            server.cards = found.get(server.number, server.cards)
        return dict(chain.from_iterable(server.cards.items() for server in self._servers))

    async def expire_overdue(self) -> list[str]:
        found = await self._servers.each(lambda server: server.jobs.expire_overdue())
        return list(chain.from_iterable(found.values()))

    @property
    def queue_limit(self) -> int:
        """Unfinished jobs beyond which submissions are refused, over all servers."""
        return self._settings.queue_limit * len(self._servers)

    async def health(self) -> dict[int, ServerHealth | None]:
        """Whether each server works, by its number; None for one that does not answer."""
        return await self._of_each(_health)

    async def states(self) -> dict[int, ServerState | None]:
        """What each server has, by its number; None for one that does not answer."""
        return await self._of_each(_state)

    async def _of_each(self, call: Callable[[Server], Awaitable[T]]) -> dict[int, T | None]:
        found: dict[int, T] = {}
        with suppress(StoreUnavailable):
            found = await self._servers.each(call)
        return {server.number: found.get(server.number) for server in self._servers}

    def _using(self, job_id: str) -> AbstractAsyncContextManager[Server]:
        return self._servers.using(self._of(job_id))

    def _of(self, job_id: str) -> Server:
        """Raises JobNotFound."""
        server = self._servers.of(job_id)
        if server is None:
            raise JobNotFound(f"There is no job {job_id}.")
        return server


class ShardedBatchStore:
    """The methods of BatchStore. Each raises StoreUnavailable where the server of the batch is down."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    async def create(self, record: BatchRecord, digest: str, seconds: float | None) -> BatchRecord:
        async with self._using(record.id) as server:
            return await server.batches.create(record, digest, seconds)

    async def get(self, batch_id: str) -> BatchRecord:
        async with self._using(batch_id) as server:
            return await server.batches.get(batch_id)

    async def states(self, record: BatchRecord) -> list[MemberState]:
        async with self._using(record.id) as server:
            return await server.batches.states(record)

    async def delete(self, batch_id: str) -> None:
        async with self._using(batch_id) as server:
            await server.batches.delete(batch_id)

    def _using(self, batch_id: str) -> AbstractAsyncContextManager[Server]:
        """Raises BatchNotFound."""
        server = self._servers.of(batch_id)
        if server is None:
            raise BatchNotFound(f"There is no batch {batch_id}, or it has expired.")
        return self._servers.using(server)


async def _health(server: Server) -> ServerHealth:
    return ServerHealth(await server.jobs.workers(), (await server.jobs.persistence()).write)


async def _state(server: Server) -> ServerState:
    jobs = server.jobs
    totals, load, workers = await jobs.totals(), await jobs.load(), await jobs.workers()
    return ServerState(load, totals, len(workers), jobs.certificate_expiry)
