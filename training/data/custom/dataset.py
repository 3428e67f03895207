"""A collection as a trainer's data set: `train` to learn from, `val` to stop by, `test` to be measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.base import Clip, Dataset, DatasetInfo, Fold, digest_lines, hold_out
from training.data.custom.manifest import MANIFEST, read_manifest
from training.data.custom.prepare import load_segments, prepare_segments
from training.data.custom.segments import FULL_SCALE
from training.data.custom.split import read_split
from training.data.esc50 import load_esc50
from training.errors import DatasetError
from worker.model.frontend import FrontendConfig


@dataclass(frozen=True)
class CustomDataset(Dataset):
    """Its clips are the pieces of a cache, cut for one rate and one window."""

    rate: int
    waveforms: NDArray[np.int16]  # (pieces, samples), a memory map

    @property
    def default_fold(self) -> Fold:
        return "test"

    def train_validation_split(self, test_fold: Fold, share: float, seed: int) -> tuple[list[Clip], list[Clip]]:
        """What is held out is the split's val part; only without one the recipe's share of the train part."""
        if test_fold != "test":
            raise DatasetError(f"{self.root} is tested on its test part; there is nothing else to keep out of training")
        train, val = self._clips_of("train"), self._clips_of("val")
        return (train, val) if val else hold_out(train, share, seed)

    def compatible_test_folds(self, fold: Fold) -> tuple[Fold, ...]:
        return ("test",) if fold == "val" else ()

    def load(self, clips: Sequence[Clip], rate: int, samples: int) -> tuple[Tensor, Tensor]:
        if rate != self.rate:
            raise DatasetError(f"{self.root} was prepared at {self.rate:,} Hz and is wanted at {rate:,} Hz")
        waveforms = torch.zeros(len(clips), samples)
        for index, clip in enumerate(clips):
            subset = torch.from_numpy(self.waveforms[clip.segment, :samples].astype(np.float32))
            waveforms[index, : len(subset)] = subset / FULL_SCALE
        return waveforms, torch.arange(len(clips))

    def digest(self, test_fold: Fold) -> str:
        """By what the files hold: a collection refers to them wherever they lie."""
        # A file has several pieces; how many depends on the window.
        return digest_lines(f"{clip.sha256} {clip.fold} {clip.label}" for clip in self.split(test_fold)[0])

    def _clips_of(self, name: str) -> list[Clip]:
        return [clip for clip in self.clips if clip.fold == name]


def load_custom_dataset(root: Path, frontend: FrontendConfig) -> CustomDataset:
    """Prepared for that front end's rate and window, which takes a while the first time. Raises DatasetError."""
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
    dataset = CustomDataset(root, clips, classes, DatasetInfo(root.resolve().name), frontend.sample_rate, waveforms)
    for subset in ("train", "test"):
        present = {clip.label for clip in dataset._clips_of(subset)}
        if missing := [name for label, name in enumerate(classes) if label not in present]:
            raise DatasetError(f"{root}: nothing is to be heard of {missing[0]!r} in the {subset} part; split again")
    return dataset


def load_dataset(root: Path, frontend: FrontendConfig) -> Dataset:
    """A collection or a folder in the layout of ESC-50, whichever it is. Raises DatasetError."""
    return load_custom_dataset(root, frontend) if (root / MANIFEST).is_file() else load_esc50(root)
