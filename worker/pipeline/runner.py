"""The lifecycle of a job in a worker: claim it, run it, store its result or its error, or requeue it."""

import logging
import threading
import time
from contextlib import suppress

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

REQUEUE_ERRORS = (StoreUnavailable, ContractMismatch, ModelNotFound, BatcherStopped, DecoderStopped)
"""Errors of `JobRunner.run` that are not the fault of the job: it has to be delivered again. A model may have been
removed from this worker since the job was delivered; another one may serve it."""


class JobRunner:
    """Runs delivered jobs; the Celery task calls it from many threads at once."""

    def __init__(self, worker_id: str, store: JobStore, classifier: Classifier, metrics: WorkerMetrics) -> None:
        self._worker_id, self._store, self._classifier, self._metrics = worker_id, store, classifier, metrics
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

    def run(self, job_id: str) -> None:
        """Run a delivered job to its end. Raises REQUEUE_ERRORS only.

        A quarantined job (it was in flight when a worker died) runs isolated: no other quarantined job runs beside it,
        so that the next crash is attributed to the right one.
        """
        with self._in_flight.exclusive(job_id):
            job = self._store.claim(job_id, self._worker_id)
            if job == SkippedJob("quarantined"):
                self._metrics.job_redelivered()
                with self._isolation:
                    self._run_traced(job_id, self._store.claim(job_id, self._worker_id, isolated=True))
            else:
                self._run_traced(job_id, job)

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
        log.info("started", extra={"job": job.id, "model": job.model, "waited": round(job.waited, 6)})
        timings, accepted = Timings(), time.monotonic() - job.waited
        try:
            with self._in_flight.track(job) as in_flight:
                result = self._classifier.classify(job, in_flight, timings)
            began = time.monotonic()
            with tracing.span("store"):
                stored = self._store.succeed(job.id, pack_result(result), timings)
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
