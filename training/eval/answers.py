"""What a service with a model answers: classes, verdicts and thresholds, measured on whole recordings.

Windows, activity, combination and verdict are the worker's own functions, so that a report says what users get. A
recording is a file. Thresholds are fitted on the first minute of each.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otoscope.errors import AudioError
from otoscope.types import Verdict
from shared.audio.decode import SoundStream
from shared.audio.level import FrameLevels
from training.data.background import TURNS, background
from training.data.base import Clip
from training.data.custom.folders import walk_files
from training.data.custom.manifest import IMPORT_LIMITS
from training.errors import DatasetError, EvaluationError, cause
from training.eval.predict import Precision, predict_with_embeddings
from training.progress import progress_bar
from worker.model.checkpoint import Model, ModelConfig
from worker.model.open_set import OpenSetScorer
from worker.pipeline.activity import Activity, activity_of
from worker.pipeline.answer import Answer, class_thresholds, combine_windows, decide
from worker.pipeline.windows import WindowCutter

MAX_RECORDINGS = 1_000  # for thresholds: more change them by a negligible amount
MAX_SECONDS = 60.0  # of a recording, for thresholds
FIT_SEED, MEASURE_SEED = 1, 2  # of the background that a scorer is fitted on, and of that which measures it
NO_CLASS = -1  # the label of a sound of none of the classes
SOUND_SUFFIXES = frozenset({".wav", ".ogg", ".oga", ".flac", ".mp3", ".opus", ".m4a", ".aac", ".aif", ".aiff"})

_BATCH = 32  # windows per forward pass
_AT_ONCE = 32 * _BATCH  # windows in memory

Waveform = NDArray[np.float32]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Sound:
    """A sound to classify, which is decoded when it is its turn. Its blocks raise AudioError or OSError."""

    blocks: Callable[[], Iterable[Waveform]]  # of samples at the rate of the model, in order
    kind: str  # its class, or where it comes from
    source: str  # sounds of one source are never separated
    label: int = NO_CLASS
    path: Path | None = None  # None for a synthesised sound
    others: tuple[int, ...] = ()  # more labels of a sound of a multi-label data set

    @property
    def labels(self) -> tuple[int, ...]:
        return (self.label, *self.others)

    def load(self) -> Waveform:
        """The whole sound (samples,). Raises AudioError or OSError."""
        return np.concatenate(list(self.blocks()))


@dataclass(frozen=True)
class Recording:
    """A sound as the network received it, window by window."""

    sound: Sound
    views: Tensor  # logits (views, windows, classes); view 0 is the sound itself
    embeddings: Tensor  # (windows, features)
    active: NDArray[np.bool_]  # (windows,)
    starts: NDArray[np.float64]  # (windows,), in seconds
    seconds: float

    @property
    def logits(self) -> Tensor:
        """(windows, classes)"""
        return self.views[0]

    @property
    def heard(self) -> NDArray[np.bool_]:
        """(windows,): those with sound; all of a silent recording."""
        return self.active if self.active.any() else ~self.active


@dataclass(frozen=True)
class Answered:
    """The answer to a recording, without its verdict: that depends on thresholds."""

    sound: Sound
    answer: Answer
    start: float  # of the deciding window, in seconds
    active: bool
    softmax: float  # largest probability of the mean over all windows, without known scores and activity
    seconds: float

    @property
    def correct(self) -> bool:
        return self.answer.first in self.sound.labels

    @property
    def confidence(self) -> float:
        return float(self.answer.confidences.max())

    @property
    def known(self) -> float:
        """The known score; 1 for a model without a scorer."""
        return 1.0 if self.answer.known is None else self.answer.known


def clip_sounds(clips: Iterable[Clip], classes: Sequence[str], rate: int) -> list[Sound]:
    """The files of clips, each once."""
    files = {clip.path: clip for clip in clips}
    return [
        Sound(_loader(path, rate), classes[clip.label], clip.source, clip.label, path, clip.others)
        for path, clip in files.items()
    ]


def folder_sounds(root: Path, rate: int) -> list[Sound]:
    """The sound files below a folder; their kind is the sub-folder of `root` in which they are.

    Raises EvaluationError for a folder without sounds.
    """
    if not root.is_dir():
        raise EvaluationError(f"{root} is no folder" if root.exists() else f"{root} does not exist")
    files = sorted(path for path in walk_files(root) if path.suffix.lower() in SOUND_SUFFIXES and path.is_file())
    if not files:
        raise EvaluationError(f"{root} has no sound files ({', '.join(sorted(SOUND_SUFFIXES))})")
    kinds = [path.relative_to(root).parts[0] if path.parent != root else root.name for path in files]
    return [Sound(_loader(path, rate), kind, str(path), path=path) for path, kind in zip(files, kinds, strict=True)]


def background_sounds(count: int, samples: int, rate: int, seed: int) -> list[Sound]:
    """Synthesised background of one window each; their kind is the family."""

    def maker(number: int) -> Callable[[], Iterable[Waveform]]:
        return lambda: background(1, samples, rate, seed, number)

    return [Sound(maker(number), TURNS[number % len(TURNS)], str(number)) for number in range(count)]


def _loader(path: Path, rate: int) -> Callable[[], Iterable[Waveform]]:
    return lambda: SoundStream(path.read_bytes(), rate, IMPORT_LIMITS)


def spread_evenly(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most `count` of the items."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


def listen(
    model: Model, sounds: Sequence[Sound], title: str = "recordings", *, precision: Precision = "float32",
    views: int = 1, seconds: float | None = None, strict: bool = False,
) -> list[Recording]:  # fmt: skip
    """Run every window of the sounds, or of their first `seconds`, through the network, `views` times (see `predict`).

    A sound that cannot be decoded is left out, or with `strict` a DatasetError. Of a recording of hours, at most
    `_AT_ONCE` windows are in memory.
    """
    front, config = model.config.frontend, model.config.answers
    rate, size = front.sample_rate, front.window_samples
    limit = None if seconds is None else round(seconds * rate)
    recordings: list[Recording] = []
    waiting: list[tuple[_Outputs, Waveform]] = []

    def flush() -> None:
        if not waiting:
            return
        logits, embeddings = predict_with_embeddings(
            model.frontend, model.network, torch.from_numpy(np.stack([window for _, window in waiting])), precision,
            views=views, batch=_BATCH, title=title,
        )  # fmt: skip
        for (outputs, _), own_logits, embedding in zip(waiting, logits.unbind(dim=1), embeddings, strict=True):
            outputs.logits.append(own_logits)
            outputs.embeddings.append(embedding)
        waiting.clear()

    heard: list[tuple[Sound, _Outputs, Activity, int]] = []
    for sound in progress_bar(sounds, desc=title, unit="sound", hidden=not sounds):
        outputs, levels, cutter = _Outputs(), FrameLevels(rate), WindowCutter(size, pause=front.pause_samples)
        try:
            for start, window in _cut(sound, cutter, levels, limit):
                outputs.starts.append(start)
                waiting.append((outputs, window))
                if len(waiting) == _AT_ONCE:
                    flush()
        except (AudioError, OSError) as error:
            if strict:
                raise DatasetError(f"{sound.path}: {cause(error)}") from error
            waiting[:] = [one for one in waiting if one[0] is not outputs]
            continue
        heard.append((sound, outputs, activity_of(levels.levels(), config), cutter.samples))
        if len(waiting) >= _BATCH:
            flush()
    flush()
    for sound, outputs, activity, samples in heard:
        spans = [(start / rate, min(start + size, samples) / rate) for start in outputs.starts]
        logits, embeddings = torch.stack(outputs.logits, dim=1), torch.stack(outputs.embeddings)
        starts = np.array([start for start, _ in spans])
        recordings.append(Recording(sound, logits, embeddings, activity.windows(spans), starts, samples / rate))
    return recordings


@dataclass(frozen=True)
class _Outputs:
    """What the network gives for the windows of a recording, so far."""

    starts: list[int] = field(default_factory=list)  # in samples
    logits: list[Tensor] = field(default_factory=list)  # each (views, classes)
    embeddings: list[Tensor] = field(default_factory=list)  # each (features,)


def _cut(sound: Sound, cutter: WindowCutter, levels: FrameLevels, limit: int | None) -> Iterator[tuple[int, Waveform]]:
    """The windows of the first `limit` samples of a sound, each with the index of its first sample."""
    for block in sound.blocks():
        part = block if limit is None else block[: limit - cutter.samples]
        levels.add(part)
        yield from cutter.add(part)
        if cutter.samples == limit:
            break
    yield cutter.finish()


def answer(model: Model, scorer: OpenSetScorer | None, recordings: Sequence[Recording]) -> list[Answered]:
    """The answers to recordings, with `scorer` as the open-set scorer of the model."""
    answered: list[Answered] = []
    for one in recordings:
        probabilities = model.probabilities(one.views).mean(dim=0).numpy()
        known = None if scorer is None else scorer(one.embeddings, one.logits).numpy()
        combined = combine_windows(probabilities, known, one.active, model.config.answers.combine)
        mean, start = float(probabilities.mean(axis=0).max()), float(one.starts[combined.window])
        answered.append(Answered(one.sound, combined, start, bool(one.active.any()), mean, one.seconds))
    return answered


def verdict(answered: Answered, model: Model, thresholds: "Thresholds") -> Verdict:
    """The worker's verdict with these thresholds."""
    answers = model.config.answers.model_copy(
        update={"unknown_threshold": thresholds.unknown, "min_confidence": thresholds.confidence}
    )
    return own_verdict(answered, model.config.model_copy(update={"answers": answers}))


def own_verdict(answered: Answered, config: ModelConfig) -> Verdict:
    """That of a worker whose model has this config."""
    named_from = class_thresholds(config.classes, config.answers) if config.multi_label else None
    return decide(answered.answer, answered.active, config.answers, named_from=named_from, seconds=answered.seconds)


# --- thresholds -------------------------------------------------------------------------------------------------------

REFUSED_SHARE = 0.05  # of the known sounds, by design
RIGHT_SHARE = 0.8  # from the lowest confidence of a named sound on


@dataclass(frozen=True)
class Thresholds:
    """The fitted part of an AnswerConfig."""

    unknown: float | None
    confidence: float | None


def fit_thresholds(answered: Sequence[Answered]) -> Thresholds:
    """From the answers to labelled recordings on which the network was not trained.

    `unknown`: the known score that 5 % of them are below. `confidence`: where the model begins to be right in 80 %.
    """
    sounding = [one for one in answered if one.active]
    if not sounding:
        return Thresholds(None, None)
    unknown = None
    if all(one.answer.known is not None for one in sounding):
        unknown = float(np.floor(np.quantile([one.known for one in sounding], REFUSED_SHARE) * 1e4) / 1e4)
    named = [one for one in sounding if unknown is None or one.known >= unknown]
    confidences = np.array([one.confidence for one in named])
    return Thresholds(unknown, confident_from(confidences, np.array([one.correct for one in named])))


def confident_from(
    confidences: NDArray[np.float64], correct: NDArray[np.bool_], share: float = RIGHT_SHARE
) -> float | None:
    """The lowest confidence from which on predictions are right in `share` of the cases; None if they always are, 1 if
    they never are.

    By isotonic regression of `correct` (sounds,) on `confidences` (sounds,), the pool-adjacent-violators algorithm: the
    share that is right among sounds of about the same confidence, which never falls as the confidence grows.
    """
    order = np.argsort(confidences, kind="stable")
    blocks: list[list[float]] = []  # right, sounds
    for value in correct[order]:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            right, sounds = blocks.pop()
            blocks[-1][0] += right
            blocks[-1][1] += sounds
    below = 0
    for right, sounds in blocks:
        if right >= share * sounds:
            break
        below += int(sounds)
    if not below:
        return None
    if below == len(order):
        return 1.0
    return round(float(confidences[order[below]]), 4)


def fit_class_thresholds(
    answered: Sequence[Answered], others: Sequence[Answered], classes: Sequence[str], precision: float, least: float
) -> dict[str, float]:
    """For each class the lowest evidence, at least `least`, from which on detections have the given precision.

    A recording of `answered` (of known sounds) or `others` (of none of the classes) counts by its strongest window. A
    class that reaches the precision at no threshold has the one at which it is most precise.
    """
    everything = [*answered, *others]
    labels = np.array([one.sound.label for one in everything])
    evidence = np.stack([one.answer.evidence.max(axis=0) for one in everything])  # (recordings, classes)
    thresholds: dict[str, float] = {}
    for index, name in enumerate(classes):
        own = evidence[:, index]
        order = np.argsort(-own, kind="stable")
        order = order[own[order] >= least]
        if not len(order):
            thresholds[name] = least
            continue
        precisions = np.cumsum(labels[order] == index) / np.arange(1, len(order) + 1)
        reached = np.flatnonzero(precisions >= precision)
        last = int(reached[-1]) if len(reached) else int(np.flatnonzero(precisions == precisions.max())[-1])
        below = float(own[order[last + 1]]) if last + 1 < len(order) else least
        # Between the last one that counts and the first one that does not, so that the threshold is no sound's own.
        thresholds[name] = round((float(own[order[last]]) + below) / 2 if last + 1 < len(order) else least, 4)
    return thresholds


def best_class_thresholds(answered: Sequence[Answered], classes: Sequence[str], least: float) -> dict[str, float]:
    """For each class of a multi-label model the confidence from which on it is found with the highest F1.

    Between the confidences of two recordings, and at least `least`, which a class without recordings has.
    """
    thresholds: dict[str, float] = {}
    confidences = np.stack([one.answer.confidences for one in answered])  # (recordings, classes)
    for index, name in enumerate(classes):
        own = np.array([index in one.sound.labels for one in answered])
        order = np.argsort(-confidences[:, index], kind="stable")
        hits = np.cumsum(own[order])
        scores = 2 * hits / (np.arange(1, len(order) + 1) + own.sum())
        last = int(scores.argmax())
        ranked = confidences[order, index]
        middle = float(ranked[last : last + 2].mean()) if own.any() else least
        thresholds[name] = round(max(middle, least), 4)
    return thresholds


def halves(answered: Sequence[Answered]) -> tuple[list[Answered], list[Answered]]:
    """Two halves of about equal size, by source: thresholds that are fitted on one half are measured on the other."""
    sources = sorted({(one.sound.kind, one.sound.source) for one in answered})
    first = {source for _, source in sources[::2]}
    return [one for one in answered if one.sound.source in first], [
        one for one in answered if one.sound.source not in first
    ]


def area_under_curve(known: Sequence[float], others: Sequence[float]) -> float:
    """AUROC: how often a known sound has a higher score than another one; a tie counts half."""
    ordered = np.sort(np.asarray(known))
    low, high = np.searchsorted(ordered, others, "left"), np.searchsorted(ordered, others, "right")
    return float(1 - np.mean((low + high) / 2) / len(ordered))
