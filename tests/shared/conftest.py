"""Both halves of the store on one database, the gateway's called as if it were synchronous."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar, cast

import pytest
import redis

from otoscope.types import AudioInfo, JobOptions, Timings
from shared.config.settings import Settings
from shared.contract import queue_key
from shared.jobs import AsyncJobStore, JobStore
from shared.jobs.records import ClaimedJob, NewJob, SkippedJob
from shared.redis_client.connection import connect, connect_async

Answer = TypeVar("Answer")

AUDIO = AudioInfo(bytes=5, container="WAV", codec="PCM 16 bit", sample_rate=16_000, channels=1, duration=1.0)


class Stores:
    """`gateway` and `worker` are the halves, `run` runs a coroutine to its end, `raw` is Redis itself."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self.settings = settings
        self._loop = stack.enter_context(asyncio.Runner())
        client = connect_async(settings)
        stack.callback(lambda: self.run(client.aclose()))
        self.gateway = AsyncJobStore(client, settings)
        worker = connect(settings)
        stack.callback(worker.close)
        self.worker = JobStore(worker, settings)
        self.raw: redis.Redis = redis.Redis.from_url(settings.redis_url)
        stack.callback(self.raw.close)

    def run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        return self._loop.run(coroutine)

    def submit(
        self,
        body: bytes = b"sound",
        model: str = "tiny",
        options: JobOptions | None = None,
        token: str | None = None,
        caller: str = "",
        result_bytes: int = 0,
    ) -> str:
        job = NewJob(model, options or JobOptions(), AUDIO, body, caller, token, result_bytes=result_bytes)
        return self.run(self.gateway.submit(job)).id

    def claim(self, job_id: str, worker: str = "w1") -> ClaimedJob:
        job = self.worker.claim(job_id, worker)
        if job == SkippedJob("quarantined"):
            job = self.worker.claim(job_id, worker, isolated=True)
        assert isinstance(job, ClaimedJob), job
        return job

    def succeed(self, job_id: str, packed: bytes = b"result") -> bool:
        return self.worker.succeed(job_id, packed, Timings(decode=0.25))

    def status(self, job_id: str) -> str:
        return self.run(self.gateway.get(job_id)).status

    def queued_ids(self, caller: str = "") -> list[str]:
        """The ids of a caller's jobs that have not been delivered, the next one first."""
        queued = cast("list[bytes]", self.raw.lrange(queue_key(caller), 0, -1))
        return [job_id.decode() for job_id in reversed(queued)]

    def kinds(self, job_id: str, after: str = "0-0") -> list[str]:
        events, _ = self.run(self.gateway.events_since(job_id, after))
        return [event.kind for event in events]


@pytest.fixture
def open_stores(settings: Settings) -> Iterator[Callable[..., Stores]]:
    """Stores with some settings changed."""
    with ExitStack() as stack:
        yield lambda **changed: Stores(settings.model_copy(update=changed), stack)


@pytest.fixture
def stores(open_stores: Callable[..., Stores]) -> Stores:
    """Stores with the default settings."""
    return open_stores()
