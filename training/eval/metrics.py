"""Classification metrics from labels and probabilities, with NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otoscope.types import ReliabilityBin

Labels = NDArray[np.int64]  # (clips,)

_Z_95 = 1.959963984540054  # standard normal quantile of 97.5 %


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class. A score whose denominator is zero is 0."""

    name: str
    clips: int
    precision: float
    recall: float
    f1: float
    average_precision: float | None = None  # of a multi-label model


@dataclass(frozen=True)
class Confusion:
    """Number of clips of one class that were predicted as another."""

    truth: str
    taken_for: str
    clips: int


def reliability_bins(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 10
) -> list[ReliabilityBin]:
    """The bins of equal width that are not empty, for confidences (sounds,) and whether each was right (sounds,)."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        ReliabilityBin(
            low=one / bins,
            high=(one + 1) / bins,
            sounds=int((index == one).sum()),
            confidence=float(confidence[index == one].mean()),
            accuracy=float(correct[index == one].mean()),
        )
        for one in (int(number) for number in np.unique(index))
    ]


def wilson_interval(correct: float, total: float, z: float = _Z_95) -> tuple[float, float]:
    """Wilson score interval for an accuracy (Wilson, 1927), 95 % by default; also valid near 0 and 1."""
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} of {total} is not a proportion")
    share = correct / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * ((share * (1 - share) + z**2 / (4 * total)) / total) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def source_interval(correct: NDArray[np.bool_], sources: Sequence[str]) -> tuple[float, float]:
    """95 % interval for an accuracy over recordings (recordings,) that come from fewer sources (machines, speakers).

    Wilson interval of the effective number of recordings (Kish, 1965): recordings divided by the design effect, which
    is measured by how the share that is right differs between sources. If all or none are right it cannot be measured,
    and each source counts once.
    """
    total, own = len(correct), np.unique(np.asarray(sources), return_inverse=True)[1]
    number = int(own.max()) + 1
    share = float(correct.mean())
    effective = float(number)
    if 0 < share < 1 and number > 1:
        deviations = np.bincount(own, correct - share)  # (sources,): how many more are right than on average
        variance = float(np.square(deviations).sum()) / total**2 * number / (number - 1)
        effective = share * (1 - share) / variance if variance else float(total)
    effective = min(max(effective, 1.0), float(total))
    return wilson_interval(share * effective, effective)


def top_k_correct(truth: Labels, probabilities: NDArray[np.float32], k: int) -> int:
    """Number of clips whose class is among the k most probable ones. Ties count as errors."""
    own = probabilities[np.arange(len(truth)), truth]  # (clips,)
    rank = (probabilities >= own[:, None]).sum(axis=1)  # includes the class itself
    return int((rank <= k).sum())


def confusion_matrix(truth: Labels, predicted: Labels, classes: int) -> NDArray[np.int64]:
    """Confusion matrix (classes, classes): rows are true classes, columns are predicted classes."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    return matrix


def class_scores(matrix: NDArray[np.int64], names: Sequence[str]) -> list[ClassScore]:
    """Precision, recall and F1 of each class, in label order."""
    scores = []
    for label, name in enumerate(names):
        hits, clips, claims = (int(n) for n in (matrix[label, label], matrix[label].sum(), matrix[:, label].sum()))
        precision, recall = _ratio(hits, claims), _ratio(hits, clips)
        scores.append(ClassScore(name, clips, precision, recall, _ratio(2 * hits, clips + claims)))
    return scores


def multi_label_scores(
    present: NDArray[np.bool_], confidences: NDArray[np.float32], thresholds: NDArray[np.float32], names: Sequence[str]
) -> list[ClassScore]:
    """Precision, recall, F1 and average precision of each class of a multi-label model, in label order: labels and
    confidences (recordings, classes), and the confidence (classes,) from which on a class is named."""
    named = confidences >= thresholds
    scores = []
    for label, name in enumerate(names):
        hits = int((present[:, label] & named[:, label]).sum())
        clips, claims = int(present[:, label].sum()), int(named[:, label].sum())
        ranked = average_precision(present[:, label], confidences[:, label])
        f1 = _ratio(2 * hits, clips + claims)
        scores.append(ClassScore(name, clips, _ratio(hits, claims), _ratio(hits, clips), f1, ranked))
    return scores


def confusions(matrix: NDArray[np.int64], names: Sequence[str]) -> list[Confusion]:
    """All confusions, the most frequent first, ties in label order."""
    found = [
        Confusion(names[row], names[column], int(matrix[row, column]))
        for row, column in np.argwhere(matrix)
        if row != column
    ]
    return sorted(found, key=lambda confusion: -confusion.clips)


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else 0.0


def average_precision(truth: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """The mean of the precision at each sound of the class, sounds (sounds,) ordered by their scores (sounds,); 0 for a
    class without sounds. Sounds of the same score are taken together."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])  # (sounds,)
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of each score
    recalled = np.diff(hits[last], prepend=0)
    return _ratio(float((recalled * hits[last] / (last + 1)).sum()), int(truth.sum()))


def calibration_error(truth: Labels, probabilities: NDArray[np.float32], bins: int = 15) -> float:
    """Expected calibration error (Naeini et al., 2015), 0 to 1: the mean gap between confidence and accuracy over bins
    of equal width."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == truth
    bin_index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(float(confidence[bin_index == index].mean() - correct[bin_index == index].mean()))
        * float((bin_index == index).mean())
        for index in np.unique(bin_index)
    ]
    return sum(gaps)


def log_loss(truth: Labels, probabilities: NDArray[np.float32]) -> float:
    """Mean negative log-likelihood, in nats."""
    own = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean())
