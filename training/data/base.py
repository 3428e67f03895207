"""Labelled clips in folds, common to ESC-50 and custom datasets: splitting, hold-out and decoding."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from otoscope.errors import AudioError
from shared.audio.decode import decode
from training.errors import DatasetError
from worker.pipeline.windows import split_windows

Fold = int | str
"""Which part of a data set a clip belongs to: a number, or, in a collection, `train`, `val` or `test`."""


@dataclass(frozen=True)
class Clip:
    path: Path
    fold: Fold
    label: int
    source: str  # the recording that the clip was cut from
    segment: int = -1  # in a collection's cache
    sha256: str = ""  # in a collection, of the file's bytes


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is called, whose it is, and on which terms: a model trained on it inherits them."""

    name: str
    licence: str = ""
    credit: str = ""


@dataclass(frozen=True)
class Dataset:
    """Clips and the names of their classes, in label order."""

    root: Path
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    info: DatasetInfo

    @property
    def folds(self) -> tuple[Fold, ...]:
        return tuple(sorted({clip.fold for clip in self.clips}, key=str))

    @property
    def default_fold(self) -> Fold:
        """The one to test on when nobody says which: the last, which in ESC-50 is the hardest."""
        return self.folds[-1]

    def select_classes(self, classes: Sequence[str], name: str) -> "Dataset":
        """The clips of these classes, as a data set of its own on the same terms. Raises DatasetError."""
        if unknown := [label for label in classes if label not in self.classes]:
            raise DatasetError(f"{self.root} has no class {unknown[0]}")
        labels = {self.classes.index(label): number for number, label in enumerate(classes)}
        clips = tuple(replace(clip, label=labels[clip.label]) for clip in self.clips if clip.label in labels)
        return Dataset(self.root, clips, tuple(classes), replace(self.info, name=name))

    def split(self, test_fold: Fold) -> tuple[list[Clip], list[Clip]]:
        """The clips to train on and the clips of `test_fold`. Raises DatasetError."""
        if test_fold not in self.folds:
            raise DatasetError(f"{self.root} has no fold {test_fold}; it has {', '.join(map(str, self.folds))}")
        return (
            [clip for clip in self.clips if clip.fold != test_fold],
            [clip for clip in self.clips if clip.fold == test_fold],
        )

    def train_validation_split(self, test_fold: Fold, share: float, seed: int) -> tuple[list[Clip], list[Clip]]:
        """The clips to learn from and those held out of them to stop by, none of them in `test_fold`."""
        return hold_out(self.split(test_fold)[0], share, seed)

    def compatible_test_folds(self, fold: Fold) -> tuple[Fold, ...]:
        """Test folds whose models did not learn from the clips of `fold` either."""
        return ()

    def load(self, clips: Sequence[Clip], rate: int, samples: int) -> tuple[Tensor, Tensor]:
        """The clips at `rate` Hz as windows (windows, samples), and which of the clips each is of (windows,).

        Raises DatasetError.
        """
        return load_windows(clips, rate, samples)

    def digest(self, test_fold: Fold) -> str:
        """Of what a run that keeps `test_fold` out may learn from and stop by: which files, in which folds, as what."""
        return clips_digest(self.root, self.split(test_fold)[0])

    def crossing_clips(self, test_fold: Fold) -> list[Clip]:
        """Clips of `test_fold` cut from a recording that also stands in another fold: not quite unseen."""
        rest, test = self.split(test_fold)
        sources = {clip.source for clip in rest}
        return [clip for clip in test if clip.source in sources]


def hold_out(clips: Sequence[Clip], share: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Part the clips into those to train on and, of every class, at least `share` to stop by.

    Whole recordings move, never single clips of one, and the last one of a class stays. Where a class cannot be held
    out so, as when it comes from one recording alone, nothing is: what was left of the others would say when to stop
    for them and not for it.
    """
    if not share:
        return list(clips), []
    shuffled = random.Random(seed)
    held: set[str] = set()
    counts: dict[int, Counter[str]] = {label: Counter() for label in sorted({clip.label for clip in clips})}
    for clip in clips:
        counts[clip.label][clip.source] += 1
    left = Counter({label: len(own) for label, own in counts.items()})  # recordings to train on
    for own in counts.values():
        sources = sorted(own)
        shuffled.shuffle(sources)
        wanted = share * own.total() - sum(own[source] for source in sources if source in held)
        for source in sources:
            if wanted <= 0:
                break
            labels = [label for label in counts if source in counts[label]]
            if source not in held and all(left[label] > 1 for label in labels):
                held.add(source)
                left.subtract(labels)
                wanted -= own[source]
        if held.isdisjoint(own):
            return list(clips), []
    return [clip for clip in clips if clip.source not in held], [clip for clip in clips if clip.source in held]


def clips_digest(root: Path, clips: Sequence[Clip]) -> str:
    """Tells a table from any other, wherever the folder lies and whatever format the sounds have been brought into."""
    paths = [clip.path.relative_to(root) if clip.path.is_relative_to(root) else clip.path for clip in clips]
    return digest_lines(
        f"{path.with_suffix('')} {clip.fold} {clip.label}" for path, clip in zip(paths, clips, strict=True)
    )


def digest_lines(lines: Iterable[str]) -> str:
    """Of all of them together, whatever their order and however often each of them comes."""
    return hashlib.sha256("\n".join(sorted(set(lines))).encode()).hexdigest()


def load_windows(clips: Sequence[Clip], rate: int, samples: int) -> tuple[Tensor, Tensor]:
    """Decode every clip and cut it as the service does: windows (windows, samples) float32, and which of the clips each
    is of (windows,). First come the first ones of all clips, then the others of those that are longer than a window.

    Raises DatasetError, which names the file.
    """
    first = torch.zeros(len(clips), samples)
    others: list[list[Tensor]] = [[] for _ in clips]

    def load(index: int) -> None:
        path = clips[index].path
        try:
            wave = decode(path.read_bytes(), rate).waveform
        except (AudioError, OSError) as error:
            raise DatasetError(f"{path}: {error}") from error
        first[index], *others[index] = (torch.from_numpy(window) for _, window in split_windows(wave, samples))

    with ThreadPoolExecutor() as pool:
        list(tqdm(pool.map(load, range(len(clips))), total=len(clips), desc="decode", unit="clip", leave=False))
    of = [*range(len(clips)), *(index for index, windows in enumerate(others) for _ in windows)]
    more = [window for windows in others for window in windows]
    return torch.cat([first, torch.stack(more)]) if more else first, torch.tensor(of)
