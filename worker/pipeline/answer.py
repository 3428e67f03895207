"""From the probabilities of the windows of a sound to its predictions, its verdict and its detections.

Training measures its models with these functions, too, so that a report says what the service answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otoscope.results import Detection
from otoscope.types import Combine, Verdict
from shared.audio.level import BLOCK_SECONDS, FRAME_SECONDS
from worker.model.answers import AnswerConfig
from worker.pipeline.activity import Activity

_EVENT_RANGE_DB = 25.0  # below the loudest moment of an event: there it begins and ends
_EVENT_FLOOR_DB = 6.0  # above the noise of the recording
_STEADY_DB = 12.0  # below its loudest moment, at least: a sound that is steady throughout is its own noise floor
_STRONG = 0.9  # share of the strongest evidence: the loudest moment of an event is in one of these windows
_EXPLAINED = 0.5  # share of the time of a detection
_BRIEF_SECONDS = 0.3  # shorter sounds do not have enough for the known score
_HYSTERESIS = 0.5  # an event goes on while its evidence is above this share of the threshold


@dataclass(frozen=True)
class Answer:
    """What the windows of a sound say together."""

    confidences: NDArray[np.float32]  # (classes,), 0 to 1
    evidence: NDArray[np.float32]  # (windows, classes): of each class in each window; 0 where nothing is heard
    window: int  # the deciding window: the one that the confidence of the first class is from; of a mean, the strongest
    known: float | None  # its known score

    @property
    def first(self) -> int:
        """Index of the first class."""
        return int(self.confidences.argmax())


def combine_windows(
    probabilities: NDArray[np.float32],
    known: NDArray[np.float32] | None,
    active: NDArray[np.bool_],
    combine: Combine,
) -> Answer:
    """`probabilities` (windows, classes), known scores (windows,) if the model has them, and which windows are active.

    Only active windows count, unless none is. `evidence`: the confidence of a class is its highest probability in any
    window, weighted by the square of the known score relative to the highest one: a second of siren in a minute of
    noise is a siren. The square, because a window with the end of an event and much noise has a known score, too. `max`
    is the same without known scores, `mean` the mean over the windows. For a single window all three are its
    probabilities.
    """
    used = active if active.any() else np.ones_like(active)
    weights = np.where(used, 1.0 if known is None else np.maximum(known, 1e-6), 0.0).astype(np.float32)  # (windows,)
    evidence = probabilities * weights[:, None]  # (windows, classes)
    if combine == "mean":
        deciding, confidences = evidence, probabilities[used].mean(axis=0)
    else:
        deciding = probabilities if combine == "max" else evidence * (weights / weights.max() ** 2)[:, None]
        confidences = deciding[used].max(axis=0)
    chosen = int(np.where(used, deciding[:, confidences.argmax()], -1.0).argmax())
    if not active.any():
        evidence = np.zeros_like(evidence)
    return Answer(confidences, evidence, chosen, None if known is None else float(known[chosen]))


def decide(
    answer: Answer,
    active: bool,
    config: AnswerConfig,
    unknown_threshold: float | None = None,
    min_confidence: float | None = None,
    named_from: NDArray[np.float32] | None = None,
    *,
    seconds: float,
) -> Verdict:
    """The verdict of the answer to a sound of that many seconds. The thresholds are those of the config where none are
    given. A sound of less than 0.3 s is never `unknown`: so little of a known sound is refused like any other.

    `named_from` (classes,) are the thresholds of the classes of a multi-label model: it is named if any class reaches
    its own.
    """
    if not active:
        return "silent"
    threshold = config.unknown_threshold if unknown_threshold is None else unknown_threshold
    if threshold is not None and answer.known is not None and answer.known < threshold:
        return "unknown" if seconds >= _BRIEF_SECONDS else "unsure"
    minimum = config.min_confidence if min_confidence is None else min_confidence
    if minimum is None and named_from is not None:
        return "named" if (answer.confidences >= named_from).any() else "unsure"
    if minimum is not None and answer.confidences.max() < minimum:
        return "unsure"
    return "named"


def class_thresholds(classes: Sequence[str], config: AnswerConfig) -> NDArray[np.float32]:
    """(classes,): the evidence from which on each class is detected."""
    return np.array([config.class_thresholds.get(name, config.detection_threshold) for name in classes], np.float32)


def detect(
    answer: Answer,
    spans: Sequence[tuple[float, float]],
    classes: Sequence[str],
    activity: Activity,
    config: AnswerConfig,
    merge_gap: float,
    min_duration: float,
) -> list[Detection]:
    """Which classes are heard when, by their start; several may overlap. `spans` are (start, end) of the windows in
    seconds.

    A class is detected in consecutive windows whose evidence stays above half of its threshold and exceeds it once.
    Within these windows the event is where the sound is within 25 dB of its loudest moment and 6 dB above the noise of
    the recording (the level that a fifth of it is below), or within 12 dB of its loudest moment.
    """
    floor = float(np.quantile(activity.levels, 0.2))
    detections: list[Detection] = []
    for index, (name, threshold) in enumerate(zip(classes, class_thresholds(classes, config).tolist(), strict=True)):
        evidence = answer.evidence[:, index]
        if evidence.max() < threshold:
            continue
        events = [_event(run, evidence, spans, activity, floor) for run in _runs(evidence, threshold)]
        merged: list[tuple[float, float, float, float]] = []
        for event in events:
            if merged and event[0] - merged[-1][1] <= merge_gap:
                last = merged[-1]
                best = event if event[2] > last[2] else last
                merged[-1] = (last[0], max(last[1], event[1]), best[2], best[3])
            else:
                merged.append(event)
        detections += [
            Detection(name, round(start, 3), round(end, 3), round(confidence, 6), round(peak, 3))
            for start, end, confidence, peak in merged
            if end - start >= min_duration
        ]
    return sorted(detections, key=lambda detection: (detection.start, -detection.confidence))


def most_specific(detections: Sequence[Detection], parents: Mapping[str, Sequence[str]]) -> list[Detection]:
    """The detections without those that more specific ones explain: where a bark is heard, a dog and an animal are.

    `parents` are what each class is a kind of. A detection is left out if those of its descendants last for half of its
    time.
    """
    above = {detection.class_: ancestors(detection.class_, parents) for detection in detections}

    def explained(of: Detection) -> float:
        """Seconds in which a more specific class is detected."""
        return sum(
            max(0.0, min(of.end, one.end) - max(of.start, one.start))
            for one in detections
            if of.class_ in above[one.class_]
        )

    return [one for one in detections if explained(one) < _EXPLAINED * (one.end - one.start)]


def ancestors(name: str, parents: Mapping[str, Sequence[str]]) -> set[str]:
    """What a class is a kind of, and so on upwards."""
    found: set[str] = set()
    queue = list(parents.get(name, ()))
    while queue:
        if (one := queue.pop()) not in found:
            found.add(one)
            queue += parents.get(one, ())
    return found


def _runs(evidence: NDArray[np.float32], threshold: float) -> list[tuple[int, int]]:
    """(first, last) window of each run that stays above the lower threshold and exceeds the higher one."""
    above = np.concatenate([[False], evidence >= threshold * _HYSTERESIS, [False]])
    edges = np.flatnonzero(above[1:] != above[:-1]).reshape(-1, 2)
    return [(int(a), int(b) - 1) for a, b in edges if evidence[a:b].max() >= threshold]


def _event(
    run: tuple[int, int],
    evidence: NDArray[np.float32],
    spans: Sequence[tuple[float, float]],
    activity: Activity,
    floor: float,
) -> tuple[float, float, float, float]:
    """(start, end, confidence, peak) of what is heard in a run of windows, in seconds; `floor` is the level of the
    noise, in dBFS."""
    first, last = run
    best = first + int(evidence[first : last + 1].argmax())
    strong = [index for index in range(first, last + 1) if evidence[index] >= _STRONG * evidence[best]]
    candidates = [activity.frames(*spans[index]) for index in strong]
    peak = max(
        (frames.start + int(activity.levels[frames].argmax()) for frames in candidates), key=activity.levels.__getitem__
    )
    loudest = activity.levels[peak]
    threshold = min(max(loudest - _EVENT_RANGE_DB, floor + _EVENT_FLOOR_DB), loudest - _STEADY_DB)
    frames = activity.frames(spans[first][0], spans[last][1])
    heard = frames.start + np.flatnonzero(activity.levels[frames] >= threshold)
    return (
        float(heard[0]) * BLOCK_SECONDS,
        float(heard[-1]) * BLOCK_SECONDS + FRAME_SECONDS,
        float(evidence[best]),
        peak * BLOCK_SECONDS + FRAME_SECONDS / 2,
    )
