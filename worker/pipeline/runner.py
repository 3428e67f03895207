"""One job, from its id to its stored answer: fetch, decode, cut into windows, batch, combine, store."""

import logging
import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from otoscope.errors import (
    ContractMismatch,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    JobCancelled,
    JobPoison,
    OtoscopeError,
    StoreUnavailable,
)
from otoscope.results import Array, Result, WindowPrediction
from otoscope.types import JobOptions, Part, Timings
from shared import tracing
from shared.audio.decode import Decoded
from shared.jobs import JobStore
from shared.jobs.records import Refused, Work
from shared.results import pack_result
from worker.decode.pool import DecoderPool, DecoderStopped
from worker.inference.batcher import Batcher, BatcherStopped, Expired
from worker.inference.engine import LoadedModel, SpectrogramOnly, Window, WindowOutput
from worker.inference.registry import Registry
from worker.pipeline.chunks import join_chunks, split_chunks
from worker.pipeline.inflight import InFlightJob, InFlightJobs
from worker.pipeline.windows import envelope, split_windows
from worker.telemetry import tracing as traces
from worker.telemetry.metrics import WorkerMetrics

log = logging.getLogger(__name__)

UNFINISHED = (StoreUnavailable, ContractMismatch, BatcherStopped, DecoderStopped)
"""What `Classifier.run` raises where nothing is wrong with the job: it is to be delivered again."""

_OF_WINDOW = frozenset({Part.MAPS, Part.SPECTROGRAM, Part.EMBEDDING, Part.CAM})


class Classifier:
    """What the Celery task calls, from many threads at once."""

    def __init__(
        self,
        worker_id: str,
        store: JobStore,
        registry: Registry,
        decoder: DecoderPool,
        batcher: Batcher[Window, WindowOutput],
        metrics: WorkerMetrics,
        batch_size: int,
    ) -> None:
        self._worker_id, self._store, self._registry = worker_id, store, registry
        self._decoder, self._batcher, self._metrics = decoder, batcher, metrics
        self._batch_size = batch_size
        self._hands = InFlightJobs(metrics.busy.set)
        self._suspects = threading.Lock()  # held by the one job that runs of those whose worker died

    @property
    def held(self) -> list[InFlightJob]:
        """The jobs that are being worked on now."""
        return self._hands.held

    def cancel_abandoned(self) -> None:
        """Stop working on the jobs that nobody waits for any more. Raises StoreUnavailable."""
        held = self.held
        gone = self._store.cancelled([job.id for job in held])
        for job in held:
            if job.id in gone:
                job.cancel()

    def run(self, job_id: str) -> None:
        """Do a delivered job to its end. Raises one of UNFINISHED alone."""
        with self._hands.sole(job_id):
            work = self._store.start(job_id, self._worker_id)
            if work == Refused("suspect"):
                self._metrics.delivered_again()
                with self._suspects:
                    self._run(job_id, self._store.start(job_id, self._worker_id, solo=True))
            else:
                self._run(job_id, work)

    def _run(self, job_id: str, work: Work | Refused) -> None:
        with traces.of_job(job_id, work, self._worker_id):
            self._do(job_id, work)

    def _do(self, job_id: str, work: Work | Refused) -> None:
        if isinstance(work, Refused):
            if work.reason == "poison":
                error = JobPoison("Every worker that started the job died over it.")
                if self._store.fail(job_id, error):
                    self._metrics.finished("failed", code=error.code)
                traces.ended("failed", error.code)
            log.info("not run: %s", work.reason, extra={"job": job_id})
            return
        log.info("started", extra={"job": job_id, "model": work.model, "waited": round(work.waited, 6)})
        timings, accepted = Timings(), time.monotonic() - work.waited
        try:
            with self._hands.hold(work) as held:
                result = self._classify(work, held, timings)
            began = time.monotonic()
            with tracing.span("store"):
                stored = self._store.succeed(job_id, pack_result(result), timings)
            self._metrics.stage("store", time.monotonic() - began)
            if stored:
                self._metrics.answered(result.model, result.predictions[0], time.monotonic() - accepted)
            self._finished(job_id, "succeeded" if stored else "cancelled", timings, result.duration)
        except UNFINISHED:
            with suppress(OtoscopeError):  # a store that is out of reach will see the lease end
                self._store.release(job_id, self._worker_id)
            traces.ended("given back")
            raise
        except JobCancelled:
            self._finished(job_id, "cancelled", timings)
        except OtoscopeError as error:
            self._fail(job_id, error, timings)
        except Exception:
            log.exception("failed by a bug", extra={"job": job_id})
            self._fail(job_id, InternalError("The worker failed on this job; its log says more."), timings)

    def _fail(self, job_id: str, error: OtoscopeError, timings: Timings) -> None:
        with tracing.span("store"):
            stored = self._store.fail(job_id, error, timings)
        self._finished(job_id, "failed" if stored else "cancelled", timings, code=error.code)

    def _finished(self, job_id: str, status: str, timings: Timings, duration: float = 0.0, code: str = "") -> None:
        self._metrics.finished(status, duration, code if status == "failed" else "")
        traces.ended(status, code)
        told = {"status": status, "timings": timings.model_dump(exclude_none=True)}
        log.info("finished", extra={"job": job_id, **told, **({"code": code} if code else {})})

    def _classify(self, work: Work, held: InFlightJob, timings: Timings) -> Result:
        self._metrics.stage("queue", work.waited)
        held.check()
        served = self._registry.get(work.model)
        frontend, options, parts = served.model.config.frontend, work.options, frozenset(work.options.include)
        if options.layer is not None:
            served.card.require_layer(options.layer)

        began = time.monotonic()
        with tracing.span("decode"):
            decoded = self._decoder.decode(work.audio, frontend.sample_rate, timeout=held.seconds_left)
        timings.decode = round(time.monotonic() - began, 6)
        self._metrics.stage("decode", timings.decode)
        held.check()

        clips = split_windows(decoded.waveform, frontend.window_samples)
        if options.window is not None and options.window >= len(clips):
            raise InvalidRequest(f"The sound has {len(clips)} windows, 0 to {len(clips) - 1}; window {options.window}"
                                 " was asked for.")  # fmt: skip
        of_window = parts & _OF_WINDOW
        if Part.FULL_SPECTROGRAM in parts and len(clips) == 1:
            of_window |= {Part.SPECTROGRAM}

        def look(at: int, cam_of: int | None = None) -> Window:
            return Window(clips[at][1], of_window, options.layer, cam_of)

        # Only where many windows have to be seen to know which one decides, or what spoke for which name is wanted, is
        # one of them looked into afterwards.
        known = 0 if len(clips) == 1 else None if Part.CAM in parts else options.window
        windows = [look(at) if at == known else Window(clip) for at, (_, clip) in enumerate(clips)]
        seen = self._see(served, windows, held, timings)
        probabilities = np.stack([one.probabilities for one in seen])  # (windows, classes)
        mean = probabilities.mean(axis=0)
        first = int(mean.argmax())
        chosen = int(probabilities[:, first].argmax()) if options.window is None else options.window
        looked = seen[chosen]
        if known is None and (of_window or options.layer is not None):
            (looked,) = self._see(served, [look(chosen, first)], held, timings)
        whole: Array | None = None
        if Part.FULL_SPECTROGRAM in parts:
            single = len(clips) == 1
            whole = looked.spectrogram if single else self._listen(served, decoded.waveform, held, timings)
        self._metrics.stage("batch_wait", timings.batch or 0.0)
        self._metrics.stage("forward", timings.forward or 0.0)
        return _result(served, options, decoded, clips, probabilities, mean, chosen, looked, whole)

    def _listen(self, served: LoadedModel, waveform: NDArray[np.float32], held: InFlightJob, timings: Timings) -> Array:
        """(mels, frames) of a whole sound that is longer than a window."""
        stretches = split_chunks(waveform, served.model.config.frontend)
        heard = self._see(SpectrogramOnly(served), [Window(stretch.samples) for stretch in stretches], held, timings)
        return join_chunks(stretches, [one.spectrogram for one in heard if one.spectrogram is not None])

    def _see(
        self, served: LoadedModel | SpectrogramOnly, windows: list[Window], held: InFlightJob, timings: Timings
    ) -> list[WindowOutput]:
        """Through the batcher, a batch at a time, so that a long sound lets short ones in between."""
        answers: list[WindowOutput] = []
        if trace_link := tracing.current_link():
            windows = [replace(window, trace_link=trace_link) for window in windows]
        for at in range(0, len(windows), self._batch_size):
            held.check()
            held.tickets = [
                self._batcher.submit(window, key=served, deadline=held.deadline)
                for window in windows[at : at + self._batch_size]
            ]
            try:
                held.check()  # a cancellation between the check above and the submission found no tickets
                answers += [ticket.result(timeout=max(held.seconds_left, 0) + 5) for ticket in held.tickets]
            except CancelledError as error:
                raise JobCancelled("The job was cancelled.") from error
            except (Expired, TimeoutError) as error:
                raise DeadlineExceeded("The job's deadline passed while it waited for the network.") from error
            finally:
                for ticket in held.tickets:  # nobody needs the rest of a job that has failed
                    ticket.cancel()
            timings.batch = round((timings.batch or 0.0) + max(t.waited for t in held.tickets), 6)
            began, ended = min(t.began for t in held.tickets), max(t.ended for t in held.tickets)
            timings.forward = round((timings.forward or 0.0) + ended - began, 6)
            tracing.record_span("batch_wait", held.tickets[0].submitted, began)
            tracing.record_span("forward", began, ended, trace_link)
        return answers


def _result(
    served: LoadedModel,
    options: JobOptions,
    decoded: Decoded,
    clips: list[tuple[int, NDArray[np.float32]]],
    probabilities: NDArray[np.float32],
    mean: NDArray[np.float32],
    chosen: int,
    looked: WindowOutput,
    whole: Array | None,
) -> Result:
    classes, rate, parts = served.model.config.classes, decoded.rate, options.include
    size, end = len(clips[0][1]), len(decoded.waveform)

    def ranked(row: NDArray[np.float32]) -> list[tuple[str, float]]:
        order = np.argsort(-row, kind="stable")[: options.top_k]
        return [(classes[i], round(float(row[i]), 6)) for i in order]

    return Result(
        model=served.name,
        predictions=ranked(mean),
        duration=round(decoded.seconds, 6),
        sample_rate=decoded.source_rate,
        windows=[
            WindowPrediction(round(start / rate, 6), round(min(start + size, end) / rate, 6), ranked(row))
            for (start, _), row in zip(clips, probabilities, strict=True)
        ],
        combined="single window" if len(clips) == 1 else f"mean of the probabilities of {len(clips)} windows",
        window=chosen,
        spectrogram=looked.spectrogram if Part.SPECTROGRAM in parts else None,
        maps=looked.maps,
        embedding=looked.embedding,
        cam=looked.cam,
        waveform=envelope(decoded.waveform) if Part.WAVEFORM in parts else None,
        full_spectrogram=whole,
        channels=looked.channels,
        parts=sorted(parts),
    )
