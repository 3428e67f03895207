"""From a claimed job to its result: decode, split into windows, run them through the batcher, combine.

A sound of up to ten minutes is decoded first. A longer one is classified while it is decoded, and what is kept of it
does not grow with its samples: the probabilities of its windows, 50 levels a second, and its envelope.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from otoscope.errors import InvalidRequest
from otoscope.results import Array, Result
from otoscope.types import Part, Progress, Timings
from shared import tracing
from shared.audio.decode import BlockStream, FileInfo, Waveform
from shared.audio.level import FrameLevels, level_of
from shared.audio.limits import NO_FULL_SPECTROGRAM, WHOLE_SECONDS
from shared.jobs.records import ClaimedJob
from worker.decode.pool import DecoderKilled, DecoderPool
from worker.fetch.fetcher import Fetcher
from worker.inference.batcher import Batcher
from worker.inference.engine import LoadedModel, SpectrogramOnly, Window, WindowOutput
from worker.inference.registry import Registry
from worker.model.occlusion import COLUMNS, ROWS, TILES
from worker.pipeline.activity import activity_of, measure_activity
from worker.pipeline.answer import Answer
from worker.pipeline.chunks import join_chunks, split_chunks
from worker.pipeline.inflight import InFlightJob
from worker.pipeline.ltsa import LtsaMeter
from worker.pipeline.network import JobNetwork, Steps, finish
from worker.pipeline.result import Detail, Heard, HeardWindow, answer_of, build_result
from worker.pipeline.windows import (
    EnvelopeMeter,
    WindowCutter,
    count_windows,
    envelope,
    repetition_period,
    split_windows,
)
from worker.telemetry.metrics import WorkerMetrics

log = logging.getLogger(__name__)

_LOOKUP_SECONDS = 0.01  # to find a model that is loaded; more is the time to load it
_TOGETHER_SECONDS = 2.0  # of decoding, for which the jobs that run together with this one may have to wait
_DETAIL_PARTS = frozenset(part for part in Part if part.info.of_window_pass)


class Classifier:
    """Runs the windows of a job through the batcher. Methods may be called from many threads at once."""

    def __init__(
        self,
        registry: Registry,
        decoder: DecoderPool,
        batcher: Batcher[Window, WindowOutput],
        metrics: WorkerMetrics,
        batch_size: int,
        fetcher: Fetcher,
    ) -> None:
        self._registry, self._decoder, self._batcher, self._metrics = registry, decoder, batcher, metrics
        self._batch_size, self._fetcher = batch_size, fetcher

    def classify(self, job: ClaimedJob, in_flight: InFlightJob, timings: Timings) -> Result:
        """All of `steps`."""
        return finish(self.steps(job, in_flight, timings))

    def steps(self, job: ClaimedJob, in_flight: InFlightJob, timings: Timings) -> Steps[Result]:
        """The result of a job; `timings` is filled in stage by stage. Pauses after the decoding, and while batches run.

        A sound whose decode process is killed is classified once more: it may have been killed to free memory, for
        which another file is to blame.

        Raises OtoscopeError for what is wrong with the job (JobCancelled and DeadlineExceeded included), BatcherStopped
        and DecoderStopped while the worker shuts down.
        """
        self._metrics.observe_stage("queue", job.waited)
        in_flight.check()
        if job.url:
            with tracing.span("fetch"):
                audio = self._fetcher.fetch(job.url, in_flight.seconds_left, in_flight.check)
            job = replace(job, audio=audio)
        try:
            return (yield from self._classify(job, in_flight, timings))
        except DecoderKilled as killed:
            log.warning("%s It is decoded once more.", killed.detail, extra={"job": job.id})
            return (yield from self._classify(job, in_flight, timings))

    def _classify(self, job: ClaimedJob, in_flight: InFlightJob, timings: Timings) -> Steps[Result]:
        network = JobNetwork(self._batcher, self._batch_size, in_flight, timings)
        began = time.monotonic()
        task = _Task(job, self._registry.get(job.model), network)
        if (loading := time.monotonic() - began) > _LOOKUP_SECONDS:
            timings.load = round(loading, 6)

        too_long = time.monotonic() + _TOGETHER_SECONDS

        def check() -> None:
            in_flight.check()
            if in_flight.release_others and time.monotonic() > too_long:
                in_flight.release_others()

        def decode() -> AbstractContextManager[BlockStream]:
            long = job.duration is not None and job.duration > WHOLE_SECONDS
            return self._decoder.open(
                job.audio, task.rate, in_flight.seconds_left, check,
                channel=job.options.channel, strict=job.options.strict, long=long,
            )  # fmt: skip

        head: list[Waveform] = []
        with decode() as stream:
            blocks = _timed(iter(stream), timings)
            with tracing.span("decode"):
                is_long = _read(blocks, head, round(WHOLE_SECONDS * task.rate))
            in_flight.check()
            if is_long:
                heard = yield from task.hear_long(chain(_emptied(head), blocks), lambda: stream.info)
        self._metrics.observe_stage("decode", timings.decode or 0.0)
        if is_long:
            result = yield from task.finish_long(heard, decode)
        else:
            result = yield from task.classify_whole(head[0] if len(head) == 1 else np.concatenate(head), stream.info)
        self._metrics.observe_stage("batch_wait", timings.batch or 0.0)
        self._metrics.observe_stage("forward", timings.forward or 0.0)
        return result


def _timed(blocks: Iterator[Waveform], timings: Timings) -> Iterator[Waveform]:
    """Adds up the time that is spent waiting for blocks."""
    while True:
        began = time.monotonic()
        block = next(blocks, None)
        timings.decode = round((timings.decode or 0.0) + time.monotonic() - began, 6)
        if block is None:
            return
        yield block


def _read(blocks: Iterator[Waveform], head: list[Waveform], most: int) -> bool:
    """Append blocks to `head` until it has more than `most` samples; False if there are not so many."""
    samples = 0
    for block in blocks:
        head.append(block)
        samples += len(block)
        if samples > most:
            return True
    return False


def _emptied(head: list[Waveform]) -> Iterator[Waveform]:
    """The blocks of a list, each of which is freed when the next one is taken."""
    while head:
        yield head.pop(0)


@dataclass(frozen=True)
class _Clip:
    """One window of a sound."""

    start: int  # index of its first sample
    end: int  # of the first sample behind it, without padding
    samples: NDArray[np.float32]  # (window samples,)


class _Task:
    """One job while it is classified. Raises InvalidRequest for options that its model cannot fulfil."""

    def __init__(self, job: ClaimedJob, model: LoadedModel, network: JobNetwork) -> None:
        self._job, self._model, self._network = job, model, network
        self._options = options = job.options
        if options.layer is not None:
            model.card.require_layer(options.layer)
        self._cell = None if options.cell is None else model.card.require_cell(options.cell)
        self._cam_class = None if options.cam_class is None else model.card.require_class(options.cam_class)
        self._config = model.model.config
        front = self._config.frontend
        self.rate, self._size, self._pause = front.sample_rate, front.window_samples, front.pause_samples
        self._parts = frozenset(options.include)
        self._detail_parts = self._parts & _DETAIL_PARTS
        self._ltsa = LtsaMeter(front.hop, front.n_mels) if Part.LTSA in self._parts else None
        self._every_parts = frozenset({Part.SPECTROGRAM}) if self._ltsa else frozenset[Part]()  # of every window
        # A second pass over the detail window is needed only if all windows have to be classified first: to know which
        # one decides, or which class the CAM of several windows is of.
        cam_is_known = Part.CAM not in self._parts or self._cam_class is not None
        self._predetermined = options.window if cam_is_known else None

    def classify_whole(self, waveform: Waveform, info: FileInfo) -> Steps[Result]:
        """The result of a sound that is in memory, (samples,)."""
        clips = [
            _Clip(start, min(start + self._size, len(waveform)), samples)
            for start, samples in split_windows(waveform, self._size, self._options.overlap, self._pause)
        ]
        self._require_window(len(clips))
        full_spectrogram: Array | None = None
        if len(clips) == 1:
            self._predetermined = 0
            if Part.FULL_SPECTROGRAM in self._parts:
                self._detail_parts |= {Part.SPECTROGRAM}
        # Before the network runs, which takes the samples out of the core's cache.
        activity = measure_activity(waveform, self.rate, self._config.answers)
        yield
        windows = yield from self._run_windows(clips, len(clips))
        heard = Heard(
            info=info,
            seconds=len(waveform) / self.rate,
            windows=windows,
            activity=activity,
            envelope=envelope(waveform) if Part.WAVEFORM in self._parts else None,
            ltsa=self._ltsa.finish() if self._ltsa else None,
        )
        answer = answer_of(heard, self._model, self._options)
        detail = yield from self._detail(heard, answer, lambda index: clips[index].samples)
        if Part.FULL_SPECTROGRAM in self._parts:
            full_spectrogram = detail.output.spectrogram
            if len(clips) > 1:
                full_spectrogram = yield from self._full_spectrogram(waveform)
        return build_result(self._model, self._options, heard, answer, detail, full_spectrogram)

    def hear_long(self, blocks: Iterable[Waveform], info: Callable[[], FileInfo]) -> Steps[Heard]:
        """Classify the windows of a sound while its blocks come; `info` is called after the last one."""
        if Part.FULL_SPECTROGRAM in self._parts:
            raise InvalidRequest(NO_FULL_SPECTROGRAM)
        cutter, levels, extremes = self._cutter(), FrameLevels(self.rate), EnvelopeMeter()

        def clips() -> Iterator[_Clip]:
            for block in blocks:
                levels.add(block)
                extremes.add(block)
                for start, samples in cutter.add(block):
                    yield _Clip(start, start + self._size, samples)
            start, samples = cutter.finish()
            yield _Clip(start, min(start + self._size, cutter.samples), samples)

        duration = self._job.duration
        total = (
            None if duration is None else count_windows(round(duration * self.rate), self._size, self._options.overlap)
        )
        windows = yield from self._run_windows(clips(), total)
        return Heard(
            info=info(),
            seconds=cutter.samples / self.rate,
            windows=windows,
            activity=activity_of(levels.levels(), self._config.answers),
            envelope=extremes.envelope() if Part.WAVEFORM in self._parts else None,
            ltsa=self._ltsa.finish() if self._ltsa else None,
        )

    def finish_long(self, heard: Heard, decode: Callable[[], AbstractContextManager[BlockStream]]) -> Steps[Result]:
        """The result of a sound whose windows are classified; it is decoded again for a detail window."""
        self._require_window(len(heard.windows))
        answer = answer_of(heard, self._model, self._options)

        def samples_of(index: int) -> NDArray[np.float32]:
            cutter = self._cutter()
            with decode() as stream:
                windows = chain.from_iterable(map(cutter.add, stream))
                _, samples = next(islice(windows, index, None), None) or cutter.finish()
                return samples

        detail = yield from self._detail(heard, answer, samples_of)
        return build_result(self._model, self._options, heard, answer, detail)

    def _cutter(self) -> WindowCutter:
        return WindowCutter(self._size, self._options.overlap, self._pause)

    def _require_window(self, count: int) -> None:
        """Raises InvalidRequest."""
        requested = self._options.window
        if requested is not None and requested >= count:
            raise InvalidRequest(f"The sound has {count} windows, 0 to {count - 1}; window {requested} was requested.")

    def _run_windows(self, clips: Iterable[_Clip], total: int | None) -> Steps[list[HeardWindow]]:
        """Run clips batch by batch; `total` is how many there are, as far as is known."""
        heard: list[HeardWindow] = []
        in_flight, size = self._network.in_flight, self._network.batch_size
        remaining = iter(clips)
        while batch := list(islice(remaining, size)):
            windows = [
                self._with_details(clip.samples, self._cam_class, self._every_parts)
                if index == self._predetermined
                else Window(clip.samples, self._every_parts)
                for index, clip in enumerate(batch, len(heard))
            ]
            outputs = yield from self._network.run(self._model, windows)
            for clip, output in zip(batch, outputs, strict=True):
                span = clip.start / self.rate, clip.end / self.rate
                level = level_of(clip.samples[: clip.end - clip.start]) if Part.WINDOWS in self._parts else None
                if self._ltsa and output.spectrogram is not None:
                    self._ltsa.add(clip.start, output.spectrogram)
                    if len(heard) != self._predetermined:
                        output.spectrogram = None  # all of them would be as large as that of the whole sound
                heard.append(HeardWindow(span, output, level))
            if total is None or total > size:
                of = None if total is None else max(total, len(heard))
                in_flight.progress = Progress(done=len(heard), of=of)
        return heard

    def _with_details(
        self, samples: NDArray[np.float32], cam_class: int | None, more: frozenset[Part] = frozenset()
    ) -> Window:
        return Window(samples, self._detail_parts | more, self._options.layer, cam_class, self._cell)

    def _detail(self, heard: Heard, answer: Answer, samples_of: Callable[[int], NDArray[np.float32]]) -> Steps[Detail]:
        """The requested window, or else the one that decides; it is run again unless it was run with its details."""
        chosen = answer.window if self._options.window is None else self._options.window
        needs_details = self._detail_parts or self._options.layer is not None or self._cell is not None
        again, occlusion = self._predetermined is None and needs_details, Part.OCCLUSION in self._parts
        output = heard.windows[chosen].output
        if again or occlusion:
            samples, of = samples_of(chosen), answer.first if self._cam_class is None else self._cam_class
            if again:
                (output,) = yield from self._network.run(self._model, [self._with_details(samples, of)])
            if occlusion:
                period = repetition_period(round(heard.seconds * self.rate), self._size, self._pause)
                occlusion_map = yield from self._occlusion(samples, of, period)
                output = replace(output, occlusion=occlusion_map)
        return Detail(chosen, output)

    def _occlusion(self, samples: NDArray[np.float32], of: int, period: int | None) -> Steps[Array]:
        """(rows, columns): by how much the confidence of a class falls without each tile of a window.

        Batch by batch, as the windows of a long sound, so that other jobs get in between. The whole window runs with
        them: where it had its layers computed, it was in another arithmetic than OpenVINO's.
        """
        variants = [Window(samples, muted=tile, period=period) for tile in (None, *range(TILES))]
        outputs = yield from self._network.run(self._model, variants)
        whole, *without = (output.probabilities[of] for output in outputs)
        falls: Array = (whole - np.array(without)).reshape(ROWS, COLUMNS).astype(np.float16)
        return falls

    def _full_spectrogram(self, waveform: Waveform) -> Steps[Array]:
        """(mels, frames) of a whole sound that is longer than a window."""
        chunks = split_chunks(waveform, self._config.frontend)
        outputs = yield from self._network.run(
            SpectrogramOnly(self._model), [Window(chunk.samples) for chunk in chunks]
        )
        return join_chunks(chunks, [output.spectrogram for output in outputs if output.spectrogram is not None])
