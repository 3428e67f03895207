"""The use cases of the API: submit a job, read it, wait for it, cancel it, fetch its result."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

from fastapi import Request

from api.catalogue import WorkerCatalogue
from api.http.uploads import Upload
from api.memory import JSON_GROWTH, RequestMemory, memory_of
from api.metrics import GatewayMetrics
from api.middleware.auth import Caller
from api.notifications import RETRY_SECONDS, Notifications, Subscription
from api.rejections import RecentRejections
from otoscope.errors import (
    DeadlineExceeded,
    InvalidRequest,
    JobCancelled,
    JobNotFound,
    PartNotFound,
    QueueFull,
    ResultNotReady,
    StoreUnavailable,
)
from otoscope.types import AudioInfo, JobOptions, ModelCard, Ready
from shared import tracing
from shared.config.settings import Settings
from shared.jobs import ShardedJobStore
from shared.jobs.records import JobRecord, NewJob, Submission
from shared.results import largest_result

log = logging.getLogger(__name__)

_SEND_ATTRIBUTES = {**tracing.MESSAGING, "messaging.operation.type": "send", "messaging.operation.name": "submit"}


class Gateway:
    """The state of one gateway process and its use cases; built by `create_app`."""

    def __init__(self, settings: Settings, store: ShardedJobStore) -> None:
        self.settings, self.store = settings, store
        self.catalogue = WorkerCatalogue(settings, store)
        self.notifications = Notifications(store)
        self.metrics = GatewayMetrics(settings.queue_limit)
        self.image_slots = asyncio.Semaphore(2)
        """Images rendered at once: one of ten minutes of sound needs 70 MB while it is rendered."""
        self.result_slots = asyncio.Semaphore(8)
        """Large results read and rendered at once: one of ten minutes of sound takes 8 MB packed and three times as
        much as JSON."""
        self._rejections = RecentRejections()
        self._readiness: asyncio.Task[Ready] | None = None

    def check_recent_rejection(self, caller: Caller) -> None:
        """Raises QueueFull where the caller met a full queue a moment ago, so that its upload need not be read."""
        self._rejections.check(caller.name)

    def check_options(self, card: ModelCard, options: JobOptions) -> None:
        """Raises InvalidRequest for a layer, a class or a cell that the model lacks, and for a sound that is to be kept
        where this service keeps none."""
        if options.keep_sound and not self.settings.share_sounds:
            raise InvalidRequest("keep_sound: this service keeps no sounds; they are deleted when their jobs end.")
        if options.layer is not None:
            card.require_layer(options.layer)
        if options.cam_class is not None:
            card.require_class(options.cam_class)
        if options.cell is not None:
            card.require_cell(options.cell)

    async def submit(
        self,
        upload: Upload,
        caller: Caller,
        idempotency_key: str | None = None,
        job_id: str | None = None,
        *,
        exact: bool = False,
    ) -> Submission:
        """Store a job and enqueue it; with a known idempotency key, the earlier job of the caller.

        `job_id` and `exact` are those of ShardedJobStore.submit.

        Raises Busy errors, ModelNotFound, IdempotencyConflict, or what `check_options` does.
        """
        card = await self.catalogue.resolve(upload.options.model)
        self.check_options(card, upload.options)
        try:
            with tracing.span("submit", "producer", attributes=_SEND_ATTRIBUTES):
                new = NewJob(
                    card.name, upload.options, upload.audio, upload.body, caller.name, idempotency_key,
                    trace=tracing.context(), result_bytes=largest_result(card, upload.options, upload.audio.duration),
                )  # fmt: skip
                submission = await self.store.submit(new, job_id, exact=exact)
                tracing.set_attributes({"messaging.message.id": submission.id, tracing.MODEL: submission.job.model})
        except QueueFull as error:
            # One that needs a certain server, or memory for kept sounds, says nothing about the caller's next one.
            if not (idempotency_key or exact or upload.options.keep_sound):
                self._rejections.add(caller.name, error)
            raise
        self._rejections.remove(caller.name)
        tracing.link_job(submission.id, submission.job.trace)
        self.metrics.observe_submission(len(upload.body), created=submission.created)
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
        idempotency_key: str | None = None,
        *,
        final_only: bool = False,
    ) -> JobRecord:
        """Submit a job and wait until it is finished, the time is over or the client has disconnected.

        Raises what `submit` does. Where Redis becomes unreachable after the job was accepted, the job is returned as it
        was then, since the caller would not learn its id; with `final_only`, for a caller who cannot use an unfinished
        job, StoreUnavailable is raised.
        """
        job_id = self.store.new_job_id((await self.catalogue.resolve(upload.options.model)).name)
        with self.notifications.subscribe(job_id, final_only=True) as subscription:
            job = (await self.submit(upload, caller, idempotency_key, job_id)).job
            try:
                if job.id == job_id:
                    return await self._wait(request, subscription, job, seconds, until_final=True)
                # An earlier job with the same idempotency key, or one that another server has taken.
                return await self.wait(request, job.id, caller, seconds, until_final=True)
            except StoreUnavailable:
                if final_only:
                    raise
                return job

    async def classify_now(self, request: Request, upload: Upload, caller: Caller) -> bytes:
        """The packed result, for interfaces without jobs. Raises what `submit` does, and the error of a failed job."""
        job = await self.submit_and_wait(request, upload, caller, self.settings.max_wait, final_only=True)
        async with self.loaded(job, memory_of(request)) as complete:
            if complete.packed is not None:
                return complete.packed
        if job.error is not None:
            raise job.error
        if job.status == "cancelled":
            raise JobCancelled("The job was cancelled.")
        await self.store.cancel(job.id)  # no client knows its id
        if await request.is_disconnected():
            raise JobCancelled("The connection was closed before the job was finished.")
        raise DeadlineExceeded(
            f"The job did not finish within {self.settings.max_wait:g} s; use /v1/jobs for longer ones."
        )

    async def classify_window(
        self,
        job_id: str,
        card: ModelCard,
        options: JobOptions,
        audio: AudioInfo,
        body: bytes,
        turn: str,
        seconds: float,
        accepted: Callable[[str], None],
    ) -> JobRecord:
        """The succeeded job of a window of a stream, with its result, within that many seconds. `turn` is the caller
        under which it is queued; `accepted` is called with its id, which is another one than `job_id` where another
        server has taken it. Unlike `submit` it does not log: a stream has several windows a second.

        Raises Busy errors, the error of the failed job, or DeadlineExceeded.
        """
        with ExitStack() as stack:
            subscription = stack.enter_context(self.notifications.subscribe(job_id, final_only=True))
            with tracing.span("submit", "producer", attributes=_SEND_ATTRIBUTES):
                new = NewJob(
                    card.name, options, audio, body, turn, trace=tracing.context(),
                    result_bytes=largest_result(card, options, audio.duration), deadline=seconds,
                )  # fmt: skip
                submission = await self.store.submit(new, job_id)
            accepted(submission.id)
            job, until = submission.job, time.monotonic() + seconds
            if job.id != job_id:  # another server has taken it
                subscription = stack.enter_context(self.notifications.subscribe(job.id, final_only=True))
                job = await self.store.get(job.id, with_result=True)
            while not job.final and (left := until - time.monotonic()) > 0:
                await subscription.wait(left)
                job = await self.store.get(job.id, with_result=True)
        if job.packed_size:
            job = await self.store.with_result(job)
        if job.error is not None:
            raise job.error
        if job.status != "succeeded":
            raise DeadlineExceeded(f"The window was not classified within {seconds:g} s.")
        return job

    async def get(self, job_id: str, caller: Caller, *, with_result: bool = False) -> JobRecord:
        """A job of the caller. Raises JobNotFound, JobExpired or StoreUnavailable."""
        job = await self.store.get(job_id, with_result=with_result)
        if not caller.may_see(job):
            raise JobNotFound(f"There is no job {job_id}.")  # the same text as for a job that never existed
        tracing.link_job(job_id, job.trace)
        return job

    async def cancel(self, job_id: str, caller: Caller) -> None:
        """Cancel an unfinished job of the caller, or delete a finished one.

        Raises JobNotFound, JobExpired or StoreUnavailable.
        """
        await self.get(job_id, caller)
        if await self.store.cancel(job_id) == "cancelled":
            log.info("cancelled", extra={"job": job_id, "caller": caller.name})

    async def wait(
        self, request: Request, job_id: str, caller: Caller, seconds: float, *, until_final: bool
    ) -> JobRecord:
        """A job with its result, once it is finished or (`until_final=False`) its status has changed.

        Returns it unchanged when the time is over or the client has disconnected. An outage of its server meanwhile is
        waited for as well. Raises what `get` does.
        """
        with self.notifications.subscribe(job_id, final_only=until_final) as subscription:
            job = await self.get(job_id, caller, with_result=True)
            return await self._wait(request, subscription, job, seconds, until_final=until_final)

    async def _wait(
        self, request: Request, subscription: Subscription, job: JobRecord, seconds: float, *, until_final: bool
    ) -> JobRecord:
        status = job.status
        deadline = time.monotonic() + min(seconds, self.settings.max_wait)
        with _notify_on_disconnect(request, subscription) as disconnected:
            while not (job.final or disconnected.done()) and (until_final or job.status == status):
                if (left := deadline - time.monotonic()) <= 0:
                    break
                await subscription.wait(left)
                try:
                    job = await self.store.get(job.id, with_result=True)
                except StoreUnavailable:
                    if time.monotonic() + RETRY_SECONDS >= deadline:
                        raise
                    await asyncio.sleep(RETRY_SECONDS)
                    subscription.notify()
        return job

    @asynccontextmanager
    async def loaded(
        self, job: JobRecord, memory: RequestMemory, growth: int = JSON_GROWTH
    ) -> AsyncIterator[JobRecord]:
        """The job with its result, if it has one. Render a large result within the block: few are read at once.

        The request holds `growth` times the size of the result, until its response has a length. Raises
        TooManyConnections or RateLimited where there is no memory for it, or what `get` does.
        """
        memory.hold(growth * job.result_size)
        if not job.packed_size:
            yield job
            return
        async with self.result_slots:
            yield await self.store.with_result(job)

    @asynccontextmanager
    async def result(
        self, request: Request, job_id: str, caller: Caller, growth: int = JSON_GROWTH
    ) -> AsyncIterator[bytes]:
        """The packed result of a job, to be rendered within the block as by `loaded`.

        Raises ResultNotReady, or what `loaded` does.
        """
        job = await self.get(job_id, caller, with_result=True)
        async with self.loaded(job, memory_of(request), growth) as complete:
            if complete.packed is None:
                reason = f": {job.error.detail}" if job.error else ""
                raise ResultNotReady(f"The job is {job.status}{reason}", retry_after=None if job.final else 1)
            yield complete.packed

    async def sound(self, request: Request, job_id: str, caller: Caller) -> tuple[AudioInfo, bytes]:
        """The upload of a job that keeps it. The request holds its size, as by `loaded`.

        Raises PartNotFound where it was not kept, or what `get` does.
        """
        job = await self.get(job_id, caller)
        body: bytes | None = None
        if job.keeps_sound:
            memory_of(request).hold(job.audio.bytes)
            async with self.result_slots:
                body = await self.store.sound(job_id)
        if body is None:
            raise PartNotFound("The service does not have the sound of this job; submit it with keep_sound to keep it.")
        return job.audio, body

    async def readiness(self) -> Ready:
        """Ready while a Redis server answers and can write, and at least one of its workers sends heartbeats.

        A Redis that cannot write stores no heartbeats: that the workers are missing is a consequence. Requests at the
        same time share an answer, since they need no key.
        """
        if self._readiness is None or self._readiness.done():
            self._readiness = asyncio.create_task(self._read_readiness())
        return await asyncio.shield(self._readiness)

    async def _read_readiness(self) -> Ready:
        health = await self.store.health()
        answering = [found for found in health.values() if found]
        working = [found for found in answering if found.writable]
        return Ready(
            status="ready" if any(found.workers for found in working) else "not_ready",
            redis=bool(answering),
            workers=sum(len(found.workers) for found in answering),
            models=sorted({name for found in answering for worker in found.workers for name in worker.models}),
            writable=bool(working) or not answering,
            servers_down=[number for number, found in health.items() if found not in working],
        )


@contextmanager
def _notify_on_disconnect(request: Request, subscription: Subscription) -> Iterator[asyncio.Task[None]]:
    """A task that ends when the client disconnects, and notifies the subscription then."""

    async def receive() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        subscription.notify()

    disconnected = asyncio.create_task(receive())
    try:
        yield disconnected
    finally:
        disconnected.cancel()
