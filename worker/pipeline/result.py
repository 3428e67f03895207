"""From what was heard in a sound, window by window, to the result of its job."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from otoscope.arithmetic import Arithmetic
from otoscope.results import Array, Level, Result, SoundWarning, WindowPrediction
from otoscope.types import JobOptions, Part
from shared.audio.decode import FileInfo
from shared.audio.level import QUIET_DBFS
from shared.results import window_top_k
from worker.inference.engine import LoadedModel, WindowOutput
from worker.pipeline.activity import Activity
from worker.pipeline.answer import Answer, class_thresholds, combine_windows, decide, detect, most_specific


@dataclass(frozen=True)
class HeardWindow:
    """What is kept of a window of a sound once the network has run."""

    span: tuple[float, float]  # start and end in seconds, without padding
    output: WindowOutput
    level: Level | None  # None where it was not requested


@dataclass(frozen=True)
class Heard:
    """A sound without its samples."""

    info: FileInfo
    seconds: float
    windows: list[HeardWindow]
    activity: Activity
    envelope: Array | None  # None where it was not requested
    ltsa: Array | None  # the same

    @cached_property
    def spans(self) -> list[tuple[float, float]]:
        return [window.span for window in self.windows]

    @cached_property
    def active(self) -> NDArray[np.bool_]:
        """(windows,): which have something to hear."""
        return self.activity.windows(self.spans)


@dataclass(frozen=True)
class Detail:
    """The window that a result describes in detail, and what the network returned for it."""

    index: int
    output: WindowOutput


def answer_of(heard: Heard, model: LoadedModel, options: JobOptions) -> Answer:
    """What the windows say together."""
    outputs = [window.output for window in heard.windows]
    scores = [output.known for output in outputs if output.known is not None]
    return combine_windows(
        np.stack([output.probabilities for output in outputs]),
        np.array(scores, np.float32) if len(scores) == len(outputs) else None,
        heard.active,
        options.combine or model.model.config.answers.combine,
    )


def build_result(
    model: LoadedModel,
    options: JobOptions,
    heard: Heard,
    answer: Answer,
    detail: Detail,
    full_spectrogram: Array | None = None,
) -> Result:
    """The result, with the requested parts."""
    config, parts = model.model.config, options.include
    classes = config.classes
    in_window = window_top_k(options.top_k, len(heard.windows))

    def ranked(row: NDArray[np.float32], top_k: int) -> list[tuple[str, float]]:
        order = np.argsort(-row, kind="stable")[:top_k]
        return [(classes[i], round(float(row[i]), 6)) for i in order]

    windows = [
        WindowPrediction(
            round(window.span[0], 6),
            round(window.span[1], 6),
            ranked(window.output.probabilities, in_window),
            bool(active),
            None if window.output.known is None else round(window.output.known, 4),
            window.level,
        )
        for window, active in zip(heard.windows, heard.active, strict=True)
    ]
    detections = []
    if Part.DETECTIONS in parts:
        detections = detect(
            answer, heard.spans, classes, heard.activity, config.answers, options.merge_gap, options.min_duration
        )
        detections = most_specific(detections, config.parents)
    combine = options.combine or config.answers.combine
    is_active = bool(heard.active.any())
    return Result(
        model=model.name,
        predictions=ranked(answer.confidences, options.top_k),
        duration=round(heard.seconds, 6),
        sample_rate=heard.info.source_rate,
        windows=windows,
        combined="single window" if len(windows) == 1 else f"{combine} of {len(windows)} windows",
        window=detail.index,
        spectrogram=detail.output.spectrogram if Part.SPECTROGRAM in parts else None,
        maps=detail.output.maps,
        embedding=detail.output.embedding,
        cam=detail.output.cam,
        occlusion=detail.output.occlusion,
        waveform=heard.envelope,
        full_spectrogram=full_spectrogram,
        ltsa=heard.ltsa,
        channels=detail.output.channels,
        arithmetic=None
        if detail.output.operations is None
        else Arithmetic(options.cell or "", detail.output.operations, detail.output.logits, config.temperature),
        parts=sorted(parts),
        verdict=decide(
            answer,
            is_active,
            config.answers,
            options.unknown_threshold,
            options.min_confidence,
            class_thresholds(classes, config.answers) if config.multi_label else None,
            seconds=heard.seconds,
        ),
        known=None if answer.known is None else round(answer.known, 4),
        level=heard.info.level,
        warnings=_warnings(heard.info, heard.activity),
        detections=detections,
    )


def _warnings(info: FileInfo, activity: Activity) -> list[SoundWarning]:
    """Those of the decoder, and those of the level."""
    if not activity.active:
        loudest = "digital silence" if info.level.peak_dbfs is None else f"{activity.loudest_dbfs:.0f} dBFS at most"
        return [SoundWarning("silent", f"There is nothing above the noise floor ({loudest})."), *info.warnings]
    if activity.loudest_dbfs < QUIET_DBFS:
        detail = f"The loudest tenth of a second is at {activity.loudest_dbfs:.0f} dBFS."
        return [SoundWarning("quiet", detail), *info.warnings]
    return list(info.warnings)
