"""From a claimed job to its result: decode, split into windows, run them through the batcher, combine."""

import time
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from otoscope.errors import DeadlineExceeded, InvalidRequest, JobCancelled
from otoscope.results import Array, Result, WindowPrediction
from otoscope.types import JobOptions, Part, Timings
from shared import tracing
from shared.audio.decode import Decoded
from shared.jobs.records import ClaimedJob
from worker.decode.pool import DecoderPool
from worker.inference.batcher import Batcher, Expired
from worker.inference.engine import LoadedModel, SpectrogramOnly, Window, WindowOutput
from worker.inference.registry import Registry
from worker.pipeline.chunks import join_chunks, split_chunks
from worker.pipeline.inflight import InFlightJob
from worker.pipeline.windows import envelope, split_windows
from worker.telemetry.metrics import WorkerMetrics

_WINDOW_PARTS = frozenset(part for part in Part if part.info.of == "window")


@dataclass(frozen=True)
class _Detail:
    """The window that a result describes in detail, and what the network returned for it."""

    index: int
    output: WindowOutput


class Classifier:
    """Runs the windows of a job through the batcher. `classify` may be called from many threads at once."""

    def __init__(
        self,
        registry: Registry,
        decoder: DecoderPool,
        batcher: Batcher[Window, WindowOutput],
        metrics: WorkerMetrics,
        batch_size: int,
    ) -> None:
        self._registry, self._decoder, self._batcher, self._metrics = registry, decoder, batcher, metrics
        self._batch_size = batch_size

    def classify(self, job: ClaimedJob, in_flight: InFlightJob, timings: Timings) -> Result:
        """The result of a job; `timings` is filled in stage by stage.

        Raises OtoscopeError for what is wrong with the job (JobCancelled and DeadlineExceeded included), BatcherStopped
        and DecoderStopped while the worker shuts down.
        """
        self._metrics.observe_stage("queue", job.waited)
        in_flight.check()
        model, options = self._registry.get(job.model), job.options
        if options.layer is not None:
            model.card.require_layer(options.layer)
        decoded = self._decode(job, model.model.config.frontend.sample_rate, in_flight, timings)
        windows = split_windows(decoded.waveform, model.model.config.frontend.window_samples)
        if options.window is not None and options.window >= len(windows):
            raise InvalidRequest(
                f"The sound has {len(windows)} windows, 0 to {len(windows) - 1}; window {options.window} was requested."
            )
        probabilities, detail = self._run_windows(model, options, [clip for _, clip in windows], in_flight, timings)
        full_spectrogram: Array | None = None
        if Part.FULL_SPECTROGRAM in options.include:
            full_spectrogram = (
                detail.output.spectrogram
                if len(windows) == 1
                else self._full_spectrogram(model, decoded.waveform, in_flight, timings)
            )
        self._metrics.observe_stage("batch_wait", timings.batch or 0.0)
        self._metrics.observe_stage("forward", timings.forward or 0.0)
        return _result(
            model, options, decoded, [start for start, _ in windows], probabilities, detail, full_spectrogram
        )

    def _decode(self, job: ClaimedJob, rate: int, in_flight: InFlightJob, timings: Timings) -> Decoded:
        began = time.monotonic()
        with tracing.span("decode"):
            decoded = self._decoder.decode(job.audio, rate, timeout=in_flight.seconds_left)
        timings.decode = round(time.monotonic() - began, 6)
        self._metrics.observe_stage("decode", timings.decode)
        in_flight.check()
        return decoded

    def _run_windows(
        self,
        model: LoadedModel,
        options: JobOptions,
        clips: list[NDArray[np.float32]],
        in_flight: InFlightJob,
        timings: Timings,
    ) -> tuple[NDArray[np.float32], _Detail]:
        """Probabilities of all windows (windows, classes), and the detail window.

        The detail window is the requested one, or else the one with the highest probability of the first class.
        """
        parts = frozenset(options.include)
        detail_parts = parts & _WINDOW_PARTS
        if Part.FULL_SPECTROGRAM in parts and len(clips) == 1:
            detail_parts |= {Part.SPECTROGRAM}

        def with_details(index: int, cam_class: int | None = None) -> Window:
            return Window(clips[index], detail_parts, options.layer, cam_class)

        # A second pass over the detail window is needed only if all windows have to be classified first: to know which
        # one is the most confident, or which class the CAM of several windows is of.
        known = 0 if len(clips) == 1 else None if Part.CAM in parts else options.window
        batch = [with_details(index) if index == known else Window(clip) for index, clip in enumerate(clips)]
        outputs = self._run(model, batch, in_flight, timings)
        probabilities = np.stack([output.probabilities for output in outputs])  # (windows, classes)
        first_class = int(probabilities.mean(axis=0).argmax())
        chosen = int(probabilities[:, first_class].argmax()) if options.window is None else options.window
        detail = outputs[chosen]
        if known is None and (detail_parts or options.layer is not None):
            (detail,) = self._run(model, [with_details(chosen, first_class)], in_flight, timings)
        return probabilities, _Detail(chosen, detail)

    def _full_spectrogram(
        self, model: LoadedModel, waveform: NDArray[np.float32], in_flight: InFlightJob, timings: Timings
    ) -> Array:
        """(mels, frames) of a whole sound that is longer than a window."""
        chunks = split_chunks(waveform, model.model.config.frontend)
        outputs = self._run(SpectrogramOnly(model), [Window(chunk.samples) for chunk in chunks], in_flight, timings)
        return join_chunks(chunks, [output.spectrogram for output in outputs if output.spectrogram is not None])

    def _run(
        self, model: LoadedModel | SpectrogramOnly, windows: list[Window], in_flight: InFlightJob, timings: Timings
    ) -> list[WindowOutput]:
        """Submit windows to the batcher, at most one batch at a time, so that short sounds get in between."""
        outputs: list[WindowOutput] = []
        if trace_link := tracing.current_link():
            windows = [replace(window, trace_link=trace_link) for window in windows]
        for at in range(0, len(windows), self._batch_size):
            in_flight.check()
            in_flight.futures = futures = [
                self._batcher.submit(window, key=model, deadline=in_flight.deadline)
                for window in windows[at : at + self._batch_size]
            ]
            try:
                in_flight.check()  # a cancellation between the check above and the submission found no futures
                outputs += [future.result(timeout=max(in_flight.seconds_left, 0) + 5) for future in futures]
            except CancelledError as error:
                raise JobCancelled("The job was cancelled.") from error
            except (Expired, TimeoutError) as error:
                raise DeadlineExceeded("The job's deadline passed while it waited for the network.") from error
            finally:
                for future in futures:  # the other windows of a job that has failed are not needed
                    future.cancel()
            timings.batch = round((timings.batch or 0.0) + max(future.wait_seconds for future in futures), 6)
            began, ended = min(future.started_at for future in futures), max(future.finished_at for future in futures)
            timings.forward = round((timings.forward or 0.0) + ended - began, 6)
            tracing.record_span("batch_wait", futures[0].submitted_at, began)
            tracing.record_span("forward", began, ended, trace_link)
        return outputs


def _result(
    model: LoadedModel,
    options: JobOptions,
    decoded: Decoded,
    starts: list[int],
    probabilities: NDArray[np.float32],
    detail: _Detail,
    full_spectrogram: Array | None,
) -> Result:
    """`starts` are the first samples of the windows, `probabilities` (windows, classes) their calibrated outputs."""
    classes, rate, parts = model.model.config.classes, decoded.rate, options.include
    size, end = model.model.config.frontend.window_samples, len(decoded.waveform)

    def ranked(row: NDArray[np.float32]) -> list[tuple[str, float]]:
        order = np.argsort(-row, kind="stable")[: options.top_k]
        return [(classes[i], round(float(row[i]), 6)) for i in order]

    return Result(
        model=model.name,
        predictions=ranked(probabilities.mean(axis=0)),
        duration=round(decoded.seconds, 6),
        sample_rate=decoded.source_rate,
        windows=[
            WindowPrediction(round(start / rate, 6), round(min(start + size, end) / rate, 6), ranked(row))
            for start, row in zip(starts, probabilities, strict=True)
        ],
        combined="single window" if len(starts) == 1 else f"mean of the probabilities of {len(starts)} windows",
        window=detail.index,
        spectrogram=detail.output.spectrogram if Part.SPECTROGRAM in parts else None,
        maps=detail.output.maps,
        embedding=detail.output.embedding,
        cam=detail.output.cam,
        waveform=envelope(decoded.waveform) if Part.WAVEFORM in parts else None,
        full_spectrogram=full_spectrogram,
        channels=detail.output.channels,
        parts=sorted(parts),
    )
