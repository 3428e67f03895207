"""The lifecycle of a job in a worker: claim it, run it, store its result or its error, or requeue it."""

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from worker.pipeline.inflight import InFlightJob, InFlightJobs
from worker.telemetry.metrics import WorkerMetrics
from worker.telemetry.tracing import job_span, record_outcome

log = logging.getLogger(__name__)

_MOST_RELEASED = 256  # threads for jobs that were released from their groups

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

    def __init__(self, worker_id: str, store: JobStore, classifier: Classifier, metrics: WorkerMetrics) -> None:
        self._worker_id, self._store, self._classifier, self._metrics = worker_id, store, classifier, metrics
        self._released = ThreadPoolExecutor(thread_name_prefix="released", max_workers=_MOST_RELEASED)
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

    def run(self, job_ids: Sequence[str], acknowledge: Callable[[str], None] = lambda job_id: None) -> None:
        """Run delivered jobs to their end: several of short sounds together, in this thread.

        A thread that sleeps and wakes for every job and for every reply of Redis finds its code and data gone from the
        core's cache each time, which costs more than the work. So all jobs of a group are claimed in one round trip,
        each step is run for all of them before the next one, and their results are stored in one round trip.

        Raises REQUEUE_ERRORS only, where jobs have to be delivered again; `acknowledge` was then called for each of the
        others. It is also called for a job that has ended while another one of its group still runs.
        """
        if len(job_ids) == 1:
            self._run_alone(job_ids[0])
        else:
            self._run_group(job_ids, acknowledge)

    def _run_alone(self, job_id: str, claimed: ClaimedJob | SkippedJob | None = None) -> None:
        """Run a job, unless another thread has claimed it already, also claim it. Raises REQUEUE_ERRORS.

        A quarantined job (it was in flight when a worker died) runs isolated: no other quarantined job runs beside it,
        so that the next crash is attributed to the right one.
        """
        with self._in_flight.exclusive(job_id):
            job = claimed or self._store.claim(job_id, self._worker_id)
            if job == SkippedJob("quarantined"):
                self._metrics.job_redelivered()
                with self._isolation:
                    self._run_traced(job_id, self._store.claim(job_id, self._worker_id, isolated=True))
            else:
                self._run_traced(job_id, job)

    def _run_group(self, job_ids: Sequence[str], acknowledge: Callable[[str], None]) -> None:
        """Run jobs step by step, each step of all of them before the next one.

        Where one of them takes long, the others are released: each runs in a thread of its own from its beginning.
        """
        members = [_Member(job_id, self._in_flight.exclusive(job_id)) for job_id in job_ids]
        released: dict[_Member, Future[None]] = {}

        def run_released(member: _Member, job: ClaimedJob) -> None:
            self._run_alone(member.job_id, job)
            acknowledge(member.job_id)

        def release_others(slow: _Member) -> None:
            for member in members:
                if member is not slow and (job := member.release()):
                    released[member] = self._released.submit(run_released, member, job)

        try:
            jobs = self._store.claim_each(job_ids, self._worker_id)
            for member, job in zip(members, jobs, strict=True):
                if isinstance(job, ClaimedJob):
                    member.start(job, self._traced_steps(job, partial(release_others, member)))
                else:
                    member.end(job)
            while running := [member for member in members if member.runs]:
                results = [(member, ending) for member in running if (ending := member.advance())]
                if not results:
                    continue
                stored = self._store.succeed_each([(each.job_id, end.packed, end.timings) for each, end in results])
                for (member, _), reply in zip(results, stored, strict=True):
                    member.advance(reply)
        finally:
            for member in members:
                member.end(None)  # where an unexpected error has ended the loop
        rest = [member for member in members if member.outcome or member in released]
        if rest:
            for member in members:
                if member not in rest:
                    acknowledge(member.job_id)
        for member in rest:
            if member in released:
                member.outcome = self._error_of(released[member].result)
            elif isinstance(member.outcome, SkippedJob):
                member.outcome = self._error_of(partial(self._run_alone, member.job_id, member.outcome))
        errors = {member.job_id: member.outcome for member in rest if isinstance(member.outcome, Exception)}
        if errors:
            for member in rest:
                if member.job_id not in errors:
                    acknowledge(member.job_id)
            raise next(iter(errors.values()))

    @staticmethod
    def _error_of(function: Callable[[], None]) -> Exception | None:
        """What it raises, if that requeues the job."""
        try:
            function()
        except REQUEUE_ERRORS as error:
            return error
        return None

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

    def __init__(self, job_id: str, exclusive: AbstractContextManager[None]) -> None:
        """`exclusive` is held until the job has ended here."""
        self.job_id = job_id
        self.outcome: SkippedJob | Exception | None = None  # what is left to do, or why it has to be requeued
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
        except REQUEUE_ERRORS as error:
            self.end(error)
        return None

    def release(self) -> ClaimedJob | None:
        """The job, which is to be run again from its beginning; None where it has ended or its result is stored."""
        if self._steps is None or self._ending is not None:
            return None
        self._context.run(self._steps.close)
        self.end(None)
        return self._job

    def end(self, outcome: SkippedJob | Exception | None) -> None:
        """The group has nothing more to do for the job; the first outcome is kept."""
        self._steps = None
        self.outcome = self.outcome or outcome
        self._held.close()
