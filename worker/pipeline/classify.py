"""From a claimed job to its result: decode, split into windows, run them through the batcher, combine."""

import time
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from otoscope.errors import DeadlineExceeded, InvalidRequest, JobCancelled
from otoscope.results import Array, Result, SoundWarning, WindowPrediction
from otoscope.types import JobOptions, Part, Timings
from shared import tracing
from shared.audio.decode import Decoded
from shared.audio.level import QUIET_DBFS, level_of
from shared.jobs.records import ClaimedJob
from worker.decode.pool import DecoderPool
from worker.inference.batcher import Batcher, Expired
from worker.inference.engine import LoadedModel, SpectrogramOnly, Window, WindowOutput
from worker.inference.registry import Registry
from worker.pipeline.activity import Activity, measure_activity
from worker.pipeline.answer import Answer, combine_windows, decide, detect
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
        cam_class = _class_index(model, options.cam_class)
        config = model.model.config
        rate, size = config.frontend.sample_rate, config.frontend.window_samples
        decoded = self._decode(job, rate, in_flight, timings)
        windows = split_windows(decoded.waveform, size, options.overlap)
        if options.window is not None and options.window >= len(windows):
            raise InvalidRequest(
                f"The sound has {len(windows)} windows, 0 to {len(windows) - 1}; window {options.window} was requested."
            )
        end = len(decoded.waveform)
        spans = [(start / rate, min(start + size, end) / rate) for start, _ in windows]
        activity = measure_activity(decoded.waveform, rate, config.answers)
        active = activity.windows(spans)  # (windows,)
        outputs, answer, detail = self._run_windows(
            model, options, [clip for _, clip in windows], active, cam_class, in_flight, timings
        )
        full_spectrogram: Array | None = None
        if Part.FULL_SPECTROGRAM in options.include:
            full_spectrogram = (
                detail.output.spectrogram
                if len(windows) == 1
                else self._full_spectrogram(model, decoded.waveform, in_flight, timings)
            )
        self._metrics.observe_stage("batch_wait", timings.batch or 0.0)
        self._metrics.observe_stage("forward", timings.forward or 0.0)
        heard = _Heard(windows, spans, activity, active)
        return _result(model, options, decoded, heard, outputs, answer, detail, full_spectrogram)

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
        active: NDArray[np.bool_],
        cam_class: int | None,
        in_flight: InFlightJob,
        timings: Timings,
    ) -> tuple[list[WindowOutput], Answer, _Detail]:
        """The outputs of all windows, what they say together, and the detail window: the requested one, or else the one
        that decides."""
        parts = frozenset(options.include)
        detail_parts = parts & _WINDOW_PARTS
        if Part.FULL_SPECTROGRAM in parts and len(clips) == 1:
            detail_parts |= {Part.SPECTROGRAM}

        def with_details(index: int, cam_class: int | None = None) -> Window:
            return Window(clips[index], detail_parts, options.layer, cam_class)

        # A second pass over the detail window is needed only if all windows have to be classified first: to know which
        # one decides, or which class the CAM of several windows is of.
        cam_is_known = Part.CAM not in parts or cam_class is not None
        predetermined = 0 if len(clips) == 1 else options.window if cam_is_known else None
        batch = [
            with_details(index, cam_class) if index == predetermined else Window(clip)
            for index, clip in enumerate(clips)
        ]
        outputs = self._run(model, batch, in_flight, timings)
        answers = model.model.config.answers
        answer = combine_windows(
            np.stack([output.probabilities for output in outputs]),
            _known_scores(outputs),
            active,
            options.combine or answers.combine,
        )
        chosen = answer.window if options.window is None else options.window
        detail = outputs[chosen]
        if predetermined is None and (detail_parts or options.layer is not None):
            of = answer.first if cam_class is None else cam_class
            (detail,) = self._run(model, [with_details(chosen, of)], in_flight, timings)
        return outputs, answer, _Detail(chosen, detail)

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


@dataclass(frozen=True)
class _Heard:
    """A sound as windows, and where there is something to hear in it."""

    windows: list[tuple[int, NDArray[np.float32]]]  # index of the first sample, samples
    spans: list[tuple[float, float]]  # seconds
    activity: Activity
    active: NDArray[np.bool_]  # (windows,)


def _class_index(model: LoadedModel, name: str | None) -> int | None:
    """Raises InvalidRequest."""
    if name is None:
        return None
    classes = model.model.config.classes
    if name not in classes:
        known = ", ".join(classes[:6]) + (" and so on" if len(classes) > 6 else "")
        raise InvalidRequest(f"Model {model.name} has no class {name!r}; it has {known}.")
    return classes.index(name)


def _known_scores(outputs: list[WindowOutput]) -> NDArray[np.float32] | None:
    """(windows,); None if the model has no open-set scorer."""
    scores = [output.known for output in outputs if output.known is not None]
    return np.array(scores, np.float32) if len(scores) == len(outputs) else None


def _result(
    model: LoadedModel,
    options: JobOptions,
    decoded: Decoded,
    heard: _Heard,
    outputs: list[WindowOutput],
    answer: Answer,
    detail: _Detail,
    full_spectrogram: Array | None,
) -> Result:
    config, parts = model.model.config, options.include
    classes = config.classes

    def ranked(row: NDArray[np.float32]) -> list[tuple[str, float]]:
        order = np.argsort(-row, kind="stable")[: options.top_k]
        return [(classes[i], round(float(row[i]), 6)) for i in order]

    is_active = bool(heard.active.any())
    windows = [
        WindowPrediction(
            round(start, 6),
            round(end, 6),
            ranked(output.probabilities),
            bool(active),
            None if output.known is None else round(output.known, 4),
            level_of(samples[: max(1, round((end - start) * decoded.rate))]) if Part.WINDOWS in parts else None,
        )
        for (_, samples), (start, end), active, output in zip(
            heard.windows, heard.spans, heard.active, outputs, strict=True
        )
    ]
    detections = []
    if Part.DETECTIONS in parts:
        detections = detect(
            answer, heard.spans, classes, heard.activity, config.answers, options.merge_gap, options.min_duration
        )
    combine = options.combine or config.answers.combine
    return Result(
        model=model.name,
        predictions=ranked(answer.confidences),
        duration=round(decoded.seconds, 6),
        sample_rate=decoded.source_rate,
        windows=windows,
        combined="single window" if len(windows) == 1 else f"{combine} of {len(windows)} windows",
        window=detail.index,
        spectrogram=detail.output.spectrogram if Part.SPECTROGRAM in parts else None,
        maps=detail.output.maps,
        embedding=detail.output.embedding,
        cam=detail.output.cam,
        waveform=envelope(decoded.waveform) if Part.WAVEFORM in parts else None,
        full_spectrogram=full_spectrogram,
        channels=detail.output.channels,
        parts=sorted(parts),
        verdict=decide(answer, is_active, config.answers, options.unknown_threshold, options.min_confidence),
        known=None if answer.known is None else round(answer.known, 4),
        level=decoded.level,
        warnings=_warnings(decoded, heard.activity),
        detections=detections,
    )


def _warnings(decoded: Decoded, activity: Activity) -> list[SoundWarning]:
    """Those of the decoder, and those of the level."""
    if not activity.active:
        loudest = "digital silence" if decoded.level.peak_dbfs is None else f"{activity.loudest_dbfs:.0f} dBFS at most"
        return [SoundWarning("silent", f"There is nothing above the noise floor ({loudest})."), *decoded.warnings]
    if activity.loudest_dbfs < QUIET_DBFS:
        detail = f"The loudest tenth of a second is at {activity.loudest_dbfs:.0f} dBFS."
        return [SoundWarning("quiet", detail), *decoded.warnings]
    return list(decoded.warnings)
