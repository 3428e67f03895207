"""What every route works with: the store, the news of changes, the list of models."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends, Request

from api.http.uploads import Upload
from api.metrics import GatewayMetrics
from api.middleware.auth import Caller, caller_of
from api.notifications import Changes, Watch
from otoscope.errors import (
    JobNotFound,
    ModelNotFound,
    NotReady,
    OtoscopeError,
    QueueFull,
    ResultNotReady,
    StoreUnavailable,
)
from otoscope.types import ModelCard
from shared import tracing
from shared.audio.decode import AudioLimits
from shared.config.settings import Settings
from shared.contract import new_job_id
from shared.jobs import AsyncJobStore
from shared.jobs.records import JobRecord, Submission
from shared.ttl_cache import Recent

log = logging.getLogger(__name__)

REFUSED_SECONDS = 0.2
"""How long a refusal stands: in that time a few places come free, which the next to ask will find."""
MOST_REFUSED = 10_000

_SENDING = {**tracing.QUEUED, "messaging.operation.type": "send", "messaging.operation.name": "submit"}


class Gateway:
    """One for each process; built by `create_app`."""

    def __init__(self, settings: Settings, store: AsyncJobStore) -> None:
        self.settings, self.store = settings, store
        self.changes = Changes(store)
        self.metrics = GatewayMetrics(settings.queue_limit)
        self.drawing = asyncio.Semaphore(2)
        """Pictures drawn at once: one of ten minutes of sound takes 70 MB for a moment."""
        self._cards: Recent[dict[str, ModelCard] | None] = Recent(self._read_cards, None)
        self._aac: Recent[bool | None] = Recent(self._read_aac, None)
        self._refused: dict[str, tuple[float, QueueFull]] = {}  # by caller: until when, and why

    async def models(self) -> dict[str, ModelCard]:
        """Cards of the models that workers serve, read at most once a second. Raises StoreUnavailable."""
        return await self._cards.get() or {}

    async def _read_cards(self) -> dict[str, ModelCard] | None:
        return dict(sorted((await self.store.cards()).items())) or None

    async def audio_limits(self) -> AudioLimits:
        """What a sound may be. M4A is for workers to decode, who say whether they can, read as often; it may be one
        until all of them have said no."""
        with suppress(StoreUnavailable):  # which is no matter of what a sound may be
            await self._aac.get()
        return replace(self.settings.audio_limits, aac=self._aac.value is not False)

    async def _read_aac(self) -> bool | None:
        """Without any worker, it is as the last ones said; None before there was one."""
        said = {worker.aac for worker in await self.store.workers()}
        return said != {False} if said else self._aac.value

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

    def check_room(self, caller: Caller) -> None:
        """Raises the QueueFull that the caller was told a moment ago: for a sound that has no place, none is read.

        When that moment is over, one is let through to find out, and the others are told the same until it has.
        """
        until, why = self._refused.get(caller.name, (0.0, None))
        late = time.monotonic() - until
        if why is None or late > 1.0:
            return
        if late < 0:
            raise QueueFull(why.detail, retry_after=why.retry_after)
        self._refused[caller.name] = time.monotonic() + REFUSED_SECONDS, why

    async def submit(
        self, upload: Upload, caller: Caller, idempotency: str | None = None, job_id: str | None = None
    ) -> Submission:
        """Store the job and send its message.

        Raises Busy errors, ModelNotFound, InvalidRequest for a layer that the model lacks, or IdempotencyConflict.
        """
        card = await self.resolve(upload.options.model)
        if upload.options.layer is not None:
            card.require_layer(upload.options.layer)
        try:
            with tracing.span("submit", "producer", noted=_SENDING):
                submission = await self.store.submit(
                    card.name, upload.options, upload.audio, upload.body, idempotency, job_id,
                    caller=caller.name, trace=tracing.context(),
                )  # fmt: skip
                tracing.note({"messaging.message.id": submission.id, tracing.MODEL: submission.job.model})
        except QueueFull as full:
            if len(self._refused) >= MOST_REFUSED:
                self._refused.clear()
            self._refused[caller.name] = time.monotonic() + REFUSED_SECONDS, full
            raise
        self._refused.pop(caller.name, None)
        tracing.about(submission.id, submission.job.trace)
        self.metrics.submitted(len(upload.body), created=submission.created)
        log.info(
            "accepted" if submission.created else "repeated",
            extra={
                "job": submission.id,
                "caller": caller.name,
                "model": submission.job.model,
                "bytes": len(upload.body),
                "format": upload.audio.container,
            },
        )
        return submission

    async def submit_and_wait(
        self,
        request: Request,
        upload: Upload,
        caller: Caller,
        seconds: float,
        idempotency: str | None = None,
        *,
        only_end: bool = False,
    ) -> JobRecord:
        """The submitted job once it is finished, or when time is up or the client has gone. Raises what `submit` does.

        What has been accepted is told as it was then, should the store go away meanwhile: its id would be lost. Who can
        use its end alone (`only_end`) is told of the store.
        """
        job_id = new_job_id()
        with self.changes.watching(job_id, end_only=True) as watch:
            job = (await self.submit(upload, caller, idempotency, job_id)).job
            try:
                if job.id == job_id:
                    return await self._follow(request, watch, job, seconds, until_final=True)
                # An earlier one, with the same key.
                return await self.wait(request, job.id, caller, seconds, until_final=True)
            except StoreUnavailable:
                if only_end:
                    raise
                return job

    async def get(self, job_id: str, caller: Caller, *, with_result: bool = False) -> JobRecord:
        """A job of the caller's. Raises JobNotFound, JobExpired or StoreUnavailable."""
        job = await self.store.get(job_id, with_result=with_result)
        if not caller.may_see(job):
            raise JobNotFound(f"There is no job {job_id}.")  # in the words for what never was
        tracing.about(job_id, job.trace)
        return job

    async def cancel(self, job_id: str, caller: Caller) -> None:
        """Cancel or forget a job of the caller's. Raises JobNotFound, JobExpired or StoreUnavailable."""
        await self.get(job_id, caller)
        if await self.store.cancel(job_id) == "cancelled":
            log.info("cancelled", extra={"job": job_id, "caller": caller.name})

    async def wait(
        self, request: Request, job_id: str, caller: Caller, seconds: float, *, until_final: bool
    ) -> JobRecord:
        """The job, with its result, once it is finished, or (`until_final=False`) has changed, or when time is up or
        the client has gone."""
        with self.changes.watching(job_id, end_only=until_final) as watch:
            job = await self.get(job_id, caller, with_result=True)
            return await self._follow(request, watch, job, seconds, until_final=until_final)

    async def _follow(
        self, request: Request, watch: Watch, job: JobRecord, seconds: float, *, until_final: bool
    ) -> JobRecord:
        seen = job.status
        deadline = time.monotonic() + min(seconds, self.settings.max_wait)
        with _listening(request, watch) as gone:
            while not (job.final or gone.done()) and (until_final or job.status == seen):
                if (left := deadline - time.monotonic()) <= 0:
                    break
                await watch.news(left)
                job = await self.store.get(job.id, with_result=True)
        return job

    async def finished(self, job_id: str, caller: Caller) -> bytes:
        """The packed result of a job by its id. Raises ResultNotReady, JobNotFound, JobExpired or StoreUnavailable."""
        job = await self.get(job_id, caller, with_result=True)
        if job.packed is None:
            why = f": {job.error.detail}" if job.error else ""
            raise ResultNotReady(f"The job is {job.status}{why}", retry_after=None if job.final else 1)
        return job.packed

    async def reap(self) -> None:
        """For ever: fail what is past its deadline, so that no job stays unfinished when no worker is there."""
        while True:
            await asyncio.sleep(1.0)
            try:
                for job_id in await self.store.reap():
                    log.warning("not finished by its deadline", extra={"job": job_id})
            except OtoscopeError:
                continue  # unreachable: the request that needs it will say so

    async def watch_loop(self) -> None:
        """For ever: note how late the event loop is, which everybody who is served waits for."""
        clock, pause = asyncio.get_running_loop().time, 0.05
        while True:
            due = clock() + pause
            await asyncio.sleep(pause)
            self.metrics.late(clock() - due)

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


@contextmanager
def _listening(request: Request, watch: Watch) -> Iterator[asyncio.Task[None]]:
    """A task that ends when the client goes, which is news to who watches."""

    async def listen() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        watch.tell()

    gone = asyncio.create_task(listen())
    try:
        yield gone
    finally:
        gone.cancel()


def current(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


Here = Annotated[Gateway, Depends(current)]
"""The gateway, as a route's parameter."""

Asking = Annotated[Caller, Depends(caller_of)]
"""Who asks, as a route's parameter."""
