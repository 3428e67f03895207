"""Labelled clips in folds, common to ESC-50 and custom data sets: splitting, hold-out and decoding."""

import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from otoscope.errors import AudioError
from shared.audio.decode import decode
from training.data.windows import WindowFile, Windows
from training.errors import DatasetError, cause
from training.progress import progress_bar
from worker.model.frontend import FrontendConfig
from worker.pipeline.windows import split_windows

_IN_MEMORY = 2**30  # bytes of decoded windows; more are written to a temporary file

Fold = int | str
"""The fold of a clip: a number, or `train`, `val` or `test` in a custom data set."""


def fold_name(fold: Fold) -> str:
    """`fold 5`, `test set`."""
    return f"fold {fold}" if isinstance(fold, int) else f"{fold} set"


@dataclass(frozen=True)
class Clip:
    path: Path
    fold: Fold
    label: int
    source: str  # the recording from which the clip was cut
    segment: int = -1  # row in the segment cache; custom data sets only
    sha256: str = ""  # SHA-256 of the file; custom data sets only
    others: tuple[int, ...] = ()  # more labels of a clip of a multi-label data set

    @property
    def labels(self) -> tuple[int, ...]:
        """All labels, the lowest first."""
        return (self.label, *self.others)

    @property
    def label_text(self) -> str:
        """`3`, `3;7`."""
        return ";".join(map(str, self.labels))

    def relabelled(self, labels: Mapping[int, int]) -> "Clip":
        """With other numbers for the classes; those that have none are left out, and the first one must have one."""
        first, *others = sorted(labels[label] for label in self.labels if label in labels)
        return replace(self, label=first, others=tuple(others))


@dataclass(frozen=True)
class DatasetInfo:
    """Name, licence and attribution of a data set. A model trained on it is bound by the same licence."""

    name: str
    licence: str = ""
    credit: str = ""


class LeftOut(BaseModel):
    """What of one class is in no window of a data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    files: int = 0  # that cannot be decoded, have samples that are no numbers, or are silent throughout
    silent_windows: int = 0  # of these and of other files
    short_ends: int = 0  # rests of a fiftieth to half a window at the end of a file

    def __str__(self) -> str:
        counts = {"file": self.files, "silent window": self.silent_windows, "short end": self.short_ends}
        stated = [f"{count:,} {what}{'s' * (count != 1)}" for what, count in counts.items() if count]
        return f"{self.label} ({', '.join(stated)})"


@dataclass(frozen=True)
class Dataset:
    """Clips and the names of their classes, in label order."""

    root: Path
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    info: DatasetInfo
    silent: tuple[Clip, ...] = field(default=(), kw_only=True)
    """Recordings that are silent throughout and thus in no clip: measured, and not trained on."""

    @property
    def folds(self) -> tuple[Fold, ...]:
        return tuple(sorted({clip.fold for clip in self.clips}, key=str))

    @property
    def multi_label(self) -> bool:
        """Whether a clip may have several classes."""
        return any(clip.others for clip in self.clips)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """The classes of which something was left out while the data set was prepared."""
        return ()

    @property
    def skipped(self) -> tuple[str, ...]:
        """The files of which nothing is in the data set, each with the reason."""
        return ()

    @property
    def default_fold(self) -> Fold:
        """The test fold when none is specified: the test set, or the last fold, which is the hardest in ESC-50."""
        return "test" if "test" in self.folds else self.folds[-1]

    @property
    def only_measured(self) -> bool:
        """Whether nothing of it is for training: a custom data set without a split."""
        return self.folds == ("test",)

    def named(self, path: Path) -> str:
        """A file as reports name it: relative to the folder of the data set if it is inside."""
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def in_classes(self, classes: tuple[str, ...]) -> Self:
        """The same clips with the labels of a model that has more classes; unchanged if the model lacks one of them."""
        if self.classes == classes or not set(self.classes) <= set(classes):
            return self
        labels = {number: classes.index(name) for number, name in enumerate(self.classes)}
        clips, silent = (tuple(clip.relabelled(labels) for clip in part) for part in (self.clips, self.silent))
        return replace(self, clips=clips, classes=classes, silent=silent)

    def select_classes(self, classes: Sequence[str], name: str) -> Self:
        """The clips of the given classes as a data set of its own, under the same licence. Raises DatasetError."""
        if unknown := [label for label in classes if label not in self.classes]:
            raise DatasetError(f"{self.root} has no class {unknown[0]!r}")
        labels = {self.classes.index(label): number for number, label in enumerate(classes)}
        clips, silent = (
            tuple(clip.relabelled(labels) for clip in part if not labels.keys().isdisjoint(clip.labels))
            for part in (self.clips, self.silent)
        )
        return replace(self, clips=clips, classes=tuple(classes), info=replace(self.info, name=name), silent=silent)

    def split(self, test_fold: Fold) -> tuple[list[Clip], list[Clip]]:
        """Split into training clips and the clips of `test_fold`. Raises DatasetError."""
        if test_fold not in self.folds:
            raise DatasetError(f"{self.root} has no fold {test_fold}; it has {', '.join(map(str, self.folds))}")
        return (
            [clip for clip in self.clips if clip.fold != test_fold],
            [clip for clip in self.clips if clip.fold == test_fold],
        )

    def recordings(self, fold: Fold) -> list[Clip]:
        """A clip of each file of `fold`, which is what is measured of it. Raises DatasetError."""
        clips = [*self.split(fold)[1], *(clip for clip in self.silent if clip.fold == fold)]
        return list({clip.path: clip for clip in clips}.values())

    def train_validation_split(self, test_fold: Fold, share: float, seed: int) -> tuple[list[Clip], list[Clip]]:
        """Split the clips outside `test_fold` into training and validation clips. Raises DatasetError."""
        return hold_out(self.split(test_fold)[0], share, seed)

    def compatible_test_folds(self, fold: Fold) -> tuple[Fold, ...]:
        """Other test folds whose models have not been trained on the clips of `fold` either."""
        return ()

    def load(self, clips: Sequence[Clip], front: FrontendConfig) -> tuple[Tensor, Tensor]:
        """Decode the clips for a front end: its rate, its window, and how a short sound fills one.

        Returns the windows (windows, samples) as float32, and the index of the clip to which each window belongs
        (windows,). Raises DatasetError.
        """
        waves, clip_index = self.open(clips, front)
        return waves if isinstance(waves, Tensor) else waves[:], clip_index

    def open(self, clips: Sequence[Clip], front: FrontendConfig) -> tuple[Windows, Tensor]:
        """As `load`, with the windows in a file if there are many. Raises DatasetError."""
        return load_windows(clips, front.sample_rate, front.window_samples, front.pause_samples)

    def digest(self, test_fold: Fold) -> str:
        """SHA-256 of everything on which a run with this test fold depends: files, folds and labels of the others."""
        return clips_digest(self.root, self.split(test_fold)[0])

    def crossing_clips(self, test_fold: Fold) -> list[Clip]:
        """Clips of `test_fold` whose source recording also occurs in another fold: a leak between training and test."""
        rest, test = self.split(test_fold)
        sources = {clip.source for clip in rest}
        return [clip for clip in test if clip.source in sources]


def most_folds(dataset: Dataset) -> int:
    """How many folds a cross-validation can have: those of the data set, or up to five by source, of which each class
    needs one for each fold; 0 if there are not two."""
    if "test" not in dataset.folds:
        return len(dataset.folds)
    sources = {
        label: {clip.source for clip in dataset.clips if label in clip.labels} for label in range(len(dataset.classes))
    }
    most = min(5, *map(len, sources.values()))
    return most if most > 1 else 0


def hold_out(clips: Sequence[Clip], share: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Hold out at least `share` of the clips of every class for validation. Returns training and validation clips.

    Whole recordings are moved, never single clips of one recording, and every class keeps at least one recording for
    training. If this is impossible for one class, for example because all of its clips come from one recording, nothing
    is held out: a validation set without that class would decide early stopping for the other classes only.
    """
    if not share:
        return list(clips), []
    shuffled = random.Random(seed)
    held_out: set[str] = set()
    counts: dict[int, Counter[str]] = {
        label: Counter() for label in sorted({one for clip in clips for one in clip.labels})
    }
    for clip in clips:
        for label in clip.labels:
            counts[label][clip.source] += 1
    recordings_left = Counter({label: len(own) for label, own in counts.items()})  # for training, by label
    for own in counts.values():
        sources = sorted(own)
        shuffled.shuffle(sources)
        remaining = share * own.total() - sum(own[source] for source in sources if source in held_out)
        # A long recording alone may be most of a class: those beyond the share come last, the shortest first.
        sources.sort(key=lambda source: own[source] if own[source] > max(remaining, 1) else 0)
        for source in sources:
            if remaining <= 0:
                break
            labels = [label for label in counts if source in counts[label]]
            if source not in held_out and all(recordings_left[label] > 1 for label in labels):
                held_out.add(source)
                recordings_left.subtract(labels)
                remaining -= own[source]
        if held_out.isdisjoint(own):
            return list(clips), []
    return [clip for clip in clips if clip.source not in held_out], [clip for clip in clips if clip.source in held_out]


def stopping_and_calibration(held_out: list[Clip], patience: int, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Of the held-out clips, those that stop a run early, and those that calibrate its confidences and thresholds.

    With early stopping these are halves, by source: the weights are chosen by the first one, so that its loss is too
    low. All clips do both without early stopping, or if one half would have no recording of a class.
    """
    if not patience:
        return held_out, held_out
    stopping, calibration = hold_out(held_out, 0.5, seed)
    return stopping, calibration or stopping


def label_targets(clips: Sequence[Clip], classes: int) -> Tensor:
    """(clips, classes), 1 for each class of a clip."""
    targets = torch.zeros(len(clips), classes)
    for row, clip in enumerate(clips):
        targets[row, list(clip.labels)] = 1.0
    return targets


def clips_digest(root: Path, clips: Sequence[Clip]) -> str:
    """Identifies a table of clips, independent of the location of the folder and of the audio format of the files."""
    paths = [clip.path.relative_to(root) if clip.path.is_relative_to(root) else clip.path for clip in clips]
    return digest_lines(
        f"{path.with_suffix('')} {clip.fold} {';'.join(map(str, clip.labels))}"
        for path, clip in zip(paths, clips, strict=True)
    )


def digest_lines(lines: Iterable[str]) -> str:
    """SHA-256 of a set of lines, independent of their order and of duplicates."""
    return hashlib.sha256("\n".join(sorted(set(lines))).encode()).hexdigest()


def load_windows(clips: Sequence[Clip], rate: int, samples: int, pause: int | None = None) -> tuple[Windows, Tensor]:
    """Decode all clips in parallel and cut them into windows exactly as the service does; short sounds are repeated
    after `pause` samples of silence, or with None not at all.

    Returns the windows (windows, samples) as float32, in a temporary file if they are more than a gigabyte, and the
    index of the clip to which each window belongs (windows,). The first windows of all clips come first, in the order
    of the clips; the other windows of longer clips follow. Raises DatasetError, which names the file.
    """
    stored = WindowFile(samples) if 4 * samples * len(clips) > _IN_MEMORY else None
    first = torch.zeros(0 if stored else len(clips), samples)
    later: list[list[Tensor]] = [[] for _ in clips]
    places: list[list[int]] = [[] for _ in clips]  # of the later windows in the file
    free = count(len(clips))

    def load(index: int) -> None:
        path = clips[index].path
        try:
            wave = decode(path.read_bytes(), rate).waveform
        except (AudioError, OSError) as error:
            raise DatasetError(f"{path}: {cause(error)}") from error
        head, *rest = (window for _, window in split_windows(wave, samples, pause=pause))
        if stored is None:
            first[index], later[index] = torch.from_numpy(head), list(map(torch.from_numpy, rest))
            return
        places[index] = [next(free) for _ in rest]
        try:
            for place, window in zip([index, *places[index]], [head, *rest], strict=True):
                stored.write(place, window)
        except OSError as error:
            raise DatasetError(
                f"the decoded windows cannot be written to {tempfile.gettempdir()}: {cause(error)}"
            ) from error

    with ThreadPoolExecutor() as pool:
        list(progress_bar(pool.map(load, range(len(clips))), total=len(clips), desc="decode", unit="clip"))
    counts = [len(own) for own in (places if stored else later)]
    clip_index = torch.tensor([*range(len(clips)), *(index for index, own in enumerate(counts) for _ in range(own))])
    if stored:
        return stored.windows(np.array([*range(len(clips)), *(place for own in places for place in own)])), clip_index
    flat = [window for own in later for window in own]
    return torch.cat([first, torch.stack(flat)]) if flat else first, clip_index
