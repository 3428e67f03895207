"""A recording that is longer than the service accepts, as parts: where they begin, and how their results are joined."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from otoscope.errors import AudioTooLong
from otoscope.types import Combine, Detection, JobOptions, Level, Limits, Prediction, ResultJSON, SoundWarning

PART_SECONDS = 600.0
"""Longest part, even if the service accepts longer sounds: parts are classified at the same time, and resumed."""

_HEADERS_BYTES = 64 * 1024  # of an upload: what surrounds the samples

_OF_ALL_PARTS = ("silent", "quiet")
"""Warnings that hold for the recording only if every part has one of them."""


@dataclass(frozen=True)
class Plan:
    """Parts of equal length that overlap by one window of the model, so that no sound is seen in two halves only."""

    length: int  # frames
    overlap: int  # frames

    @classmethod
    def of(cls, rate: int, frame_bytes: int, limits: Limits, window_seconds: float) -> "Plan":
        """Raises AudioTooLong if the service accepts too little to cut anything."""
        length = min(
            int(min(limits.max_seconds, PART_SECONDS) * rate),
            (limits.max_upload_bytes - _HEADERS_BYTES) // frame_bytes,
        )
        overlap = math.ceil(window_seconds * rate)
        if length <= 2 * overlap:
            raise AudioTooLong(
                f"The service accepts {limits.max_seconds:g} s and {limits.max_upload_bytes:,} bytes: too little to cut"
                f" the recording into parts of more than two windows of {window_seconds:g} s."
            )
        return cls(length, overlap)

    def start(self, index: int) -> int:
        """The frame at which a part begins."""
        return index * (self.length - self.overlap)

    def is_rest(self, index: int, frames: int) -> bool:
        """Whether a part with so few frames holds nothing that the part before it does not."""
        return frames <= (self.overlap if index else 0)

    def count(self, frames: int) -> int:
        """The number of parts of a recording."""
        index = 0
        while not self.is_rest(index, frames - self.start(index)):
            index += 1
        return index


@dataclass(frozen=True)
class PartResult:
    """What was found in a part."""

    start: float  # seconds from the beginning of the recording
    result: ResultJSON


def join_results(parts: Sequence[PartResult], duration: float, rate: int, options: JobOptions) -> ResultJSON:
    """The result of a recording from those of its parts, in their order; `rate` in Hz.

    It is what the service does with windows, for parts: those in which nothing is heard do not count, unless there are
    no others; the confidence of a class is the strongest one, weighted by the known scores (`combine` = `evidence`),
    the strongest (`max`), or the mean (`mean`). The verdict is that of the part with the most evidence.
    """
    results = [part.result for part in parts]
    used = [result for result in results if result.verdict != "silent"] or results
    combine = options.combine or _combine_of(used[0])
    weights = [1.0 if combine != "evidence" or each.known is None else max(each.known, 1e-6) for each in used]
    evidence = [
        {p.class_: weight * p.confidence for p in each.predictions} for weight, each in zip(weights, used, strict=True)
    ]
    names = dict.fromkeys(name for each in evidence for name in each)
    if combine == "mean":
        total = sum(each.window_count for each in used)
        combined = {
            name: sum(each.get(name, 0.0) * of.window_count for each, of in zip(evidence, used, strict=True)) / total
            for name in names
        }
    else:
        highest = max(weights)
        combined = {name: max(each.get(name, 0.0) for each in evidence) / highest for name in names}
    ranked = sorted(combined.items(), key=lambda item: -item[1])[: options.top_k]
    first = ranked[0][0]
    chosen = max(range(len(used)), key=lambda index: evidence[index].get(first, 0.0))
    deciding = used[chosen]
    before = results[: next(index for index, result in enumerate(results) if result is deciding)]
    has_detections = any(result.detections is not None for result in results)
    return ResultJSON(
        model=deciding.model,
        predictions=[Prediction(class_=name, confidence=round(value, 6)) for name, value in ranked],
        duration=round(duration, 6),
        sample_rate=rate,
        combined=f"{combine} of {len(results)} parts",
        window=sum(result.window_count for result in before) + deciding.window,
        window_count=sum(result.window_count for result in results),
        verdict=deciding.verdict,
        known=deciding.known,
        level=_join_levels(results),
        warnings=_join_warnings(results),
        detections=list(_join_detections(parts, options)) if has_detections else None,
    )


def _combine_of(result: ResultJSON) -> Combine:
    """How the service combined windows: `combined` is "max of 12 windows", or "single window"."""
    name = result.combined.partition(" ")[0]
    return "mean" if name == "mean" else "max" if name == "max" else "evidence"


def _join_detections(parts: Iterable[PartResult], options: JobOptions) -> Iterator[Detection]:
    """By their start. A class that is heard on both sides of a cut is one detection, and so is one that both of two
    parts have heard where they overlap."""
    by_class: dict[str, list[Detection]] = {}
    for part in parts:
        for found in part.result.detections or ():
            moved = {name: round(getattr(found, name) + part.start, 3) for name in ("start", "end", "peak")}
            by_class.setdefault(found.class_, []).append(found.model_copy(update=moved))
    joined: list[Detection] = []
    for detections in by_class.values():
        merged: list[Detection] = []
        for found in sorted(detections, key=lambda detection: detection.start):
            if not merged or found.start - merged[-1].end > options.merge_gap:
                merged.append(found)
                continue
            last = merged[-1]
            best = found if found.confidence > last.confidence else last
            merged[-1] = best.model_copy(update={"start": last.start, "end": max(last.end, found.end)})
        joined += (found for found in merged if found.end - found.start >= options.min_duration)
    yield from sorted(joined, key=lambda detection: (detection.start, -detection.confidence))


def _join_warnings(results: Sequence[ResultJSON]) -> list[SoundWarning]:
    """Each code once, with the detail of the first part that has it."""
    found: dict[str, list[SoundWarning]] = {}
    for result in results:
        for warning in result.warnings:
            found.setdefault(warning.code, []).append(warning)
    faint = sum(any(warning.code in _OF_ALL_PARTS for warning in result.warnings) for result in results)
    joined = []
    for code, warnings in found.items():
        if code in _OF_ALL_PARTS and (faint < len(results) or (code == "silent" and len(warnings) < len(results))):
            continue
        share = f" ({len(warnings)} of {len(results)} parts)" if len(results) > 1 else ""
        joined.append(SoundWarning(code=code, detail=f"{warnings[0].detail}{share}"))
    return joined


def _join_levels(results: Sequence[ResultJSON]) -> Level | None:
    """Peak and bandwidth are the largest, everything else is a mean over time."""
    known = [(result.level, result.duration) for result in results if result.level is not None]
    seconds = sum(duration for _, duration in known)
    if not known or not seconds:
        return None

    def mean(values: Iterable[float]) -> float:
        return sum(value * duration for value, (_, duration) in zip(values, known, strict=True)) / seconds

    power = mean(0.0 if level.rms_dbfs is None else 10 ** (level.rms_dbfs / 10) for level, _ in known)
    return Level(
        peak_dbfs=max((level.peak_dbfs for level, _ in known if level.peak_dbfs is not None), default=None),
        rms_dbfs=round(10 * math.log10(power), 2) if power > 0 else None,
        clipped=round(mean(level.clipped for level, _ in known), 6),
        dc_offset=round(mean(level.dc_offset for level, _ in known), 6),
        bandwidth=max((level.bandwidth for level, _ in known if level.bandwidth is not None), default=None),
    )
