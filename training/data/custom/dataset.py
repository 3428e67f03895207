"""A custom data set for the training loop: folds `train`, `val` (early stopping, calibration) and `test`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.base import Clip, Dataset, DatasetInfo, Fold, LeftOut, digest_lines, hold_out
from training.data.custom.manifest import MANIFEST, read_manifest
from training.data.custom.prepare import load_segments, prepare_segments, read_cache_info
from training.data.custom.segments import FULL_SCALE
from training.data.custom.split import read_split
from training.data.esc50 import load_esc50
from training.errors import DatasetError
from worker.model.frontend import FrontendConfig


@dataclass(frozen=True)
class CustomDataset(Dataset):
    """A data set whose clips are the cached segments for one sample rate and one window length."""

    rate: int  # Hz
    waveforms: NDArray[np.int16]  # (segments, samples), a memory map
    dropped: tuple[LeftOut, ...] = ()

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        return self.dropped

    @property
    def default_fold(self) -> Fold:
        return "test"

    def train_validation_split(self, test_fold: Fold, share: float, seed: int) -> tuple[list[Clip], list[Clip]]:
        """Training and validation clips. A val set has priority; without one, `share` of the train set is held out."""
        if test_fold != "test":
            raise DatasetError(f"{self.root} has one test set and no other folds; the test fold must be 'test'")
        train, val = self._clips_of("train"), self._clips_of("val")
        return (train, val) if val else hold_out(train, share, seed)

    def compatible_test_folds(self, fold: Fold) -> tuple[Fold, ...]:
        return ("test",) if fold == "val" else ()

    def load(self, clips: Sequence[Clip], rate: int, samples: int) -> tuple[Tensor, Tensor]:
        if rate != self.rate:
            raise DatasetError(f"{self.root} was prepared at {self.rate:,} Hz, but {rate:,} Hz are requested")
        waveforms = torch.zeros(len(clips), samples)
        for index, clip in enumerate(clips):
            segment = torch.from_numpy(self.waveforms[clip.segment, :samples].astype(np.float32))
            waveforms[index, : len(segment)] = segment / FULL_SCALE
        return waveforms, torch.arange(len(clips))

    def digest(self, test_fold: Fold) -> str:
        """As in the base class, but by the content of the files: they may be moved."""
        # digest_lines ignores duplicates: the number of segments of a file depends on the window length.
        return digest_lines(f"{clip.sha256} {clip.fold} {clip.label}" for clip in self.split(test_fold)[0])

    def _clips_of(self, name: str) -> list[Clip]:
        return [clip for clip in self.clips if clip.fold == name]


def load_custom_dataset(root: Path, frontend: FrontendConfig) -> CustomDataset:
    """Load the data set for the sample rate and window length of `frontend`; decodes all files the first time.

    Raises DatasetError.
    """
    subsets = read_split(root)
    cache = prepare_segments(root, rate=frontend.sample_rate, window_seconds=frontend.window_seconds)
    waveforms, segments = load_segments(cache)
    classes = tuple(sorted({segment.label for segment in segments}))
    sha256 = {entry.file: entry.sha256 for entry in read_manifest(root)}
    clips = tuple(
        Clip(
            root / segment.file,
            subsets[segment.source],
            classes.index(segment.label),
            segment.source,
            index,
            sha256[segment.file],
        )
        for index, segment in enumerate(segments)
    )
    info, dropped = DatasetInfo(root.resolve().name), read_cache_info(cache).left_out
    dataset = CustomDataset(root, clips, classes, info, frontend.sample_rate, waveforms, dropped)
    for subset in ("train", "test"):
        present = {clip.label for clip in dataset._clips_of(subset)}
        if missing := [name for label, name in enumerate(classes) if label not in present]:
            raise DatasetError(f"{root}: the {subset} set has no audible sound of class {missing[0]!r}; split again")
    return dataset


def load_dataset(root: Path, frontend: FrontendConfig) -> Dataset:
    """Load a custom data set or a folder in the layout of ESC-50, whichever `root` is. Raises DatasetError."""
    return load_custom_dataset(root, frontend) if (root / MANIFEST).is_file() else load_esc50(root)
