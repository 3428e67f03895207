"""What every route works with: the store, the sender of messages, the news of changes, the list of models."""

import asyncio
import time
from typing import Annotated, Any

from celery import Celery
from fastapi import Depends, Request
from kombu.exceptions import OperationalError

from api.changes import Changes
from api.ingest import Upload
from api.metrics import GatewayMetrics
from shared.contract import CLASSIFY
from shared.errors import ModelNotFound, NotReady, OtoscopeError, ResultNotReady, StoreUnavailable
from shared.records import JobRecord, Submission
from shared.schemas import ModelCard
from shared.settings import Settings
from shared.store import AsyncJobStore


class Gateway:
    """One for each process; built by `create_app`."""

    def __init__(self, settings: Settings, store: AsyncJobStore, celery: Celery) -> None:
        self.settings, self.store = settings, store
        self._celery = celery
        self.changes = Changes(store)
        self.metrics = GatewayMetrics()
        self.drawing = asyncio.Semaphore(2)
        """Pictures drawn at once: one of ten minutes of sound takes 70 MB for a moment."""
        self._cards: tuple[float, dict[str, ModelCard]] = (0.0, {})

    async def models(self) -> dict[str, ModelCard]:
        """Cards of the models that workers serve, read at most once a second. Raises StoreUnavailable."""
        read_at, cards = self._cards
        if not cards or time.monotonic() - read_at > 1.0:
            cards = dict(sorted((await self.store.cards()).items()))
            self._cards = (time.monotonic(), cards)
        return cards

    async def resolve(self, name: str | None) -> ModelCard:
        """The card of a named model, or of the default. Raises ModelNotFound or NotReady."""
        cards = await self.models()
        if not cards:
            raise NotReady("No worker has announced a model yet; try again.", retry_after=2)
        if name is None:
            # One model that is not the default is still no riddle.
            name = self.settings.default_model if len(cards) > 1 else next(iter(cards))
        card = cards.get(name)
        if card is None:
            raise ModelNotFound(f"There is no model {name!r}; served are: {', '.join(cards)}.")
        return card

    async def submit(self, upload: Upload, idempotency: str | None = None) -> Submission:
        """Store the job, then send its message.

        Raises Busy errors, ModelNotFound, InvalidRequest for a layer that the model lacks, or IdempotencyConflict.
        """
        card = await self.resolve(upload.options.model)
        if upload.options.layer is not None:
            card.require_layer(upload.options.layer)
        submission = await self.store.submit(card.name, upload.options, upload.audio, upload.body, idempotency)
        if submission.created:
            try:
                await asyncio.to_thread(self._send, submission.id)
            except OperationalError as error:
                await self.store.withdraw(submission.id, idempotency)
                raise StoreUnavailable("The queue cannot be reached right now; try again.", retry_after=2) from error
        self.metrics.submitted(len(upload.body), created=submission.created)
        return submission

    def _send(self, job_id: str) -> None:
        self._celery.send_task(CLASSIFY, args=[job_id], task_id=job_id)

    async def wait(self, job_id: str, seconds: float, *, until_final: bool, seen: str | None = None) -> JobRecord:
        """The job once it is finished, or (`until_final=False`) has left the state `seen`, or when time is up."""
        deadline = time.monotonic() + min(seconds, self.settings.max_wait)
        async with self.changes.watching(job_id) as changed:
            while True:
                changed.clear()
                job = await self.store.get(job_id)
                seen = seen or job.status
                left = deadline - time.monotonic()
                if job.final or left <= 0 or (not until_final and job.status != seen):
                    return job
                try:
                    async with asyncio.timeout(left):
                        await changed.wait()
                except TimeoutError:
                    return await self.store.get(job_id)

    async def result(self, job: JobRecord) -> bytes | None:
        """The packed result of a job that has one."""
        return await self.store.result(job.id) if job.status == "succeeded" else None

    async def finished(self, job_id: str) -> bytes:
        """The packed result of a job by its id. Raises ResultNotReady, JobNotFound, JobExpired or StoreUnavailable."""
        job = await self.store.get(job_id)
        packed = await self.result(job)
        if packed is None:
            why = f": {job.error.detail}" if job.error else ""
            raise ResultNotReady(f"The job is {job.status}{why}", retry_after=None if job.final else 1)
        return packed

    async def reap(self) -> None:
        """For ever: fail what is past its deadline, so that no job stays unfinished when no worker is there."""
        while True:
            await asyncio.sleep(1.0)
            try:
                if late := await self.store.reap():
                    self.metrics.ended("expired", late)
            except OtoscopeError:
                continue  # unreachable: the request that needs it will say so

    async def ready(self) -> dict[str, Any]:
        """`Ready` as a tree."""
        redis = await self.store.ping()
        workers = await self.store.workers() if redis else []
        models = sorted({name for worker in workers for name in worker.models})
        return {
            "status": "ready" if workers else "not_ready",
            "redis": redis,
            "workers": len(workers),
            "models": models,
        }


def current(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


Here = Annotated[Gateway, Depends(current)]
"""The gateway, as a route's parameter."""
