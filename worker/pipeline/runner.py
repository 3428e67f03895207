"""The lifecycle of a job in a worker: claim it, run it, store its result or its error, or requeue it."""

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial

from otoscope.errors import (
    ContractMismatch,
    InternalError,
    JobCancelled,
    JobPoison,
    ModelNotFound,
    OtoscopeError,
    StoreUnavailable,
)
from otoscope.types import Timings
from shared import tracing
from shared.jobs import JobStore
from shared.jobs.records import ClaimedJob, SkippedJob
from shared.results import pack_result
from worker.decode.pool import DecoderStopped
from worker.inference.batcher import BatcherStopped
from worker.pipeline.classify import Classifier
from worker.pipeline.groups import Group, Groups, Rest
from worker.pipeline.inflight import InFlightJob, InFlightJobs
from worker.telemetry.metrics import WorkerMetrics
from worker.telemetry.tracing import job_span, record_outcome

log = logging.getLogger(__name__)

REQUEUE_ERRORS = (StoreUnavailable, ContractMismatch, ModelNotFound, BatcherStopped, DecoderStopped)
"""Errors of `JobRunner.run` that are not the fault of the job: it has to be delivered again. A model may have been
removed from this worker since the job was delivered; another one may serve it."""


@dataclass(frozen=True)
class _Ending:
    """A result that is to be stored."""

    packed: bytes
    timings: Timings


_Steps = Generator[_Ending | None, bool | None, None]
"""A claimed job up to its end. It yields its result, and is sent whether that was stored; or None, where it would
wait."""


class JobRunner:
    """Runs delivered jobs; the Celery task calls it from many threads at once."""

    def __init__(
        self, worker_id: str, store: JobStore, classifier: Classifier, metrics: WorkerMetrics, *, lanes: int = 1
    ) -> None:
        """`lanes`: groups of short jobs that should run at the same time."""
        self._worker_id, self._store, self._classifier, self._metrics = worker_id, store, classifier, metrics
        self._groups = Groups(lanes)
        self._in_flight = InFlightJobs(metrics.jobs_in_progress.set)
        self._isolation = threading.Lock()  # held by the one quarantined job that runs

    @property
    def in_flight(self) -> list[InFlightJob]:
        """The jobs that are in flight now."""
        return self._in_flight.jobs

    def abort_cancelled(self) -> None:
        """Stop the in-flight jobs that were cancelled, or have expired, in the store. Raises StoreUnavailable."""
        jobs = self.in_flight
        cancelled = self._store.no_longer_running([job.id for job in jobs])
        for job in jobs:
            if job.id in cancelled:
                job.cancel()

    def report_progress(self) -> None:
        """Store how far the in-flight jobs with many windows are. Raises StoreUnavailable."""
        for job in self.in_flight:
            progress = job.progress
            if progress is not None and progress != job.reported:
                self._store.report_progress(job.id, self._worker_id, progress)
                job.reported = progress

    def expect(self, together: Sequence[str], alone: Sequence[str]) -> None:
        """These jobs were delivered, and `run` is about to be called for each: some are short, others not."""
        self._groups.expect(together, alone)

    def run(self, job_id: str) -> None:
        """Run a delivered job to its end. Raises REQUEUE_ERRORS only.

        A quarantined job (it was in flight when a worker died) runs isolated: no other quarantined job runs beside it,
        so that the next crash is attributed to the right one.
        """
        claimed: Rest = None
        if group := self._groups.take(job_id):
            if group.lead():
                self._run_group(group)
            claimed = group.rest[job_id].result()
            if claimed is None:
                return
        with self._in_flight.exclusive(job_id):
            job = claimed or self._store.claim(job_id, self._worker_id)
            if job == SkippedJob("quarantined"):
                self._metrics.job_redelivered()
                with self._isolation:
                    self._run_traced(job_id, self._store.claim(job_id, self._worker_id, isolated=True))
            else:
                self._run_traced(job_id, job)

    def _run_group(self, group: Group) -> None:
        """Run the jobs of a group step by step, each step of all of them before the next one."""
        self._groups.began()
        members = [_Member(job_id, rest, self._in_flight.exclusive(job_id)) for job_id, rest in group.rest.items()]
        try:
            jobs = self._store.claim_each([member.job_id for member in members], self._worker_id)
            for member, job in zip(members, jobs, strict=True):
                if isinstance(job, ClaimedJob):
                    others = [other for other in members if other is not member]
                    member.start(job, self._traced_steps(job, partial(_release, others)))
                elif isinstance(job, SkippedJob):
                    member.end(job)
                else:
                    member.fail(job)
            while running := [member for member in members if member.runs]:
                results = [(member, ending) for member in running if (ending := member.advance())]
                if not results:
                    continue
                stored = self._store.succeed_each([(each.job_id, end.packed, end.timings) for each, end in results])
                for (member, _), reply in zip(results, stored, strict=True):
                    member.advance(reply)
        except BaseException as error:
            for member in members:
                member.fail(error)
            raise
        finally:
            self._groups.ended()

    def _traced_steps(self, job: ClaimedJob, release_others: Callable[[], None]) -> _Steps:
        with job_span(job.id, job, self._worker_id):
            yield from self._steps(job, release_others)

    def _run_traced(self, job_id: str, job: ClaimedJob | SkippedJob) -> None:
        with job_span(job_id, job, self._worker_id):
            if isinstance(job, SkippedJob):
                self._skip(job_id, job)
            else:
                self._run_claimed(job)

    def _skip(self, job_id: str, job: SkippedJob) -> None:
        if job.reason == "poison":
            error = JobPoison("Every worker that started the job died while running it.")
            if self._store.fail(job_id, error):
                self._metrics.job_finished("failed", code=error.code)
            record_outcome("failed", error.code)
        log.info("skipped: %s", job.reason, extra={"job": job_id})

    def _run_claimed(self, job: ClaimedJob) -> None:
        steps = self._steps(job)
        with suppress(StopIteration):
            ending = next(steps)
            while True:
                if ending is None:
                    ending = next(steps)
                    continue
                try:
                    stored = self._store.succeed(job.id, ending.packed, ending.timings)
                except OtoscopeError as error:
                    ending = steps.throw(error)
                else:
                    ending = steps.send(stored)

    def _steps(self, job: ClaimedJob, release_others: Callable[[], None] | None = None) -> _Steps:
        """Run a claimed job to its end; `release_others` is that of InFlightJob. Raises REQUEUE_ERRORS."""
        log.info("started", extra={"job": job.id, "model": job.model, "waited": round(job.waited, 6)})
        timings, accepted = Timings(), time.monotonic() - job.waited
        try:
            with self._in_flight.track(job, release_others) as in_flight:
                result = yield from self._classifier.steps(job, in_flight, timings)
            began = time.monotonic()
            with tracing.span("store"):
                stored = yield _Ending(pack_result(result), timings)
            self._metrics.observe_stage("store", time.monotonic() - began)
            if stored:
                self._metrics.job_succeeded(result.model, result.predictions[0], time.monotonic() - accepted)
                self._metrics.answer_stored(result.verdict, result.warnings)
            self._finish(job.id, "succeeded" if stored else "cancelled", timings, result.duration)
        except REQUEUE_ERRORS:
            with suppress(OtoscopeError):  # if the store is unreachable, the lease expires instead
                self._store.release(job.id, self._worker_id)
            record_outcome("requeued")
            raise
        except JobCancelled:
            self._finish(job.id, "cancelled", timings)
        except OtoscopeError as error:
            self._fail(job.id, error, timings)
        except Exception:
            log.exception("failed with an unexpected error", extra={"job": job.id})
            self._fail(job.id, InternalError("The worker failed on this job; see its log."), timings)

    def _fail(self, job_id: str, error: OtoscopeError, timings: Timings) -> None:
        with tracing.span("store"):
            stored = self._store.fail(job_id, error, timings)
        self._finish(job_id, "failed" if stored else "cancelled", timings, code=error.code)

    def _finish(self, job_id: str, outcome: str, timings: Timings, duration: float = 0.0, code: str = "") -> None:
        """Metrics, trace and log line of a job that has ended."""
        self._metrics.job_finished(outcome, duration, code if outcome == "failed" else "")
        record_outcome(outcome, code)
        fields = {"status": outcome, "timings": timings.model_dump(exclude_none=True)}
        log.info("finished", extra={"job": job_id, **fields, **({"code": code} if code else {})})


class _Member:
    """A job of a group. Its steps run in a context of their own, so that its spans are not those of the others."""

    def __init__(self, job_id: str, rest: Future[Rest], exclusive: AbstractContextManager[None]) -> None:
        """`exclusive` is held until the job has ended here."""
        self.job_id, self._rest = job_id, rest
        self._held = ExitStack()
        self._held.enter_context(exclusive)
        self._context = copy_context()
        self._job: ClaimedJob | None = None
        self._steps: _Steps | None = None
        self._ending: _Ending | None = None  # that is being stored

    @property
    def runs(self) -> bool:
        """Whether it has further steps."""
        return self._steps is not None

    def start(self, job: ClaimedJob, steps: _Steps) -> None:
        """The job is claimed; its steps follow."""
        self._job, self._steps = job, steps

    def advance(self, stored: bool | OtoscopeError | None = None) -> _Ending | None:
        """Run the next step; `stored` is the reply to the result of the last one. Returns a result to be stored.

        Nothing happens where the job has been released since.
        """
        if self._steps is None:
            return None
        try:
            if isinstance(stored, OtoscopeError):
                self._ending = self._context.run(self._steps.throw, stored)
            else:
                self._ending = self._context.run(self._steps.send, stored)
            return self._ending
        except StopIteration:
            self.end(None)
        except Exception as error:
            self.fail(error)
        return None

    def release(self) -> None:
        """The thread of the job is to run it again from its beginning, unless it has ended or its result is stored."""
        if self._steps is not None and self._ending is None:
            self._context.run(self._steps.close)
            self.end(self._job)

    def end(self, rest: Rest) -> None:
        """The thread of the job is to do what is left."""
        self._steps = None
        self._held.close()
        self._rest.set_result(rest)

    def fail(self, error: BaseException) -> None:
        """The thread of the job is to raise this, unless the job has ended."""
        if not self._rest.done():
            self._steps = None
            self._held.close()
            self._rest.set_exception(error)


def _release(members: Sequence[_Member]) -> None:
    for member in members:
        member.release()
