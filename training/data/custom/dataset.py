"""A collection as a trainer's data set: `train` to learn from, `val` to stop by, `test` to be measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.base import Clip, Dataset, Fold, Origin, digest_of, hold_out
from training.data.custom.manifest import TABLE, read_items
from training.data.custom.prepare import load_pieces, prepare
from training.data.custom.segments import FULL_SCALE
from training.data.custom.split import read_split
from training.data.esc50 import load_esc50
from training.errors import DatasetError
from worker.model.frontend import FrontendConfig


@dataclass(frozen=True)
class CollectionDataset(Dataset):
    """Its clips are the pieces of a cache, cut for one rate and one window."""

    rate: int
    waves: NDArray[np.int16]  # (pieces, samples), a memory map

    @property
    def default_fold(self) -> Fold:
        return "test"

    def division(self, test_fold: Fold, share: float, seed: int) -> tuple[list[Clip], list[Clip]]:
        """What is held out is the split's val part; only without one the recipe's share of the train part."""
        if test_fold != "test":
            raise DatasetError(f"{self.root} is tested on its test part; there is nothing else to keep out of training")
        train, val = self._part("train"), self._part("val")
        return (train, val) if val else hold_out(train, share, seed)

    def tested_with(self, fold: Fold) -> tuple[Fold, ...]:
        return ("test",) if fold == "val" else ()

    def load(self, clips: Sequence[Clip], rate: int, samples: int) -> tuple[Tensor, Tensor]:
        if rate != self.rate:
            raise DatasetError(f"{self.root} was prepared at {self.rate:,} Hz and is wanted at {rate:,} Hz")
        waves = torch.zeros(len(clips), samples)
        for index, clip in enumerate(clips):
            part = torch.from_numpy(self.waves[clip.row, :samples].astype(np.float32))
            waves[index, : len(part)] = part / FULL_SCALE
        return waves, torch.arange(len(clips))

    def digest(self, test_fold: Fold) -> str:
        """By what the files hold: a collection refers to them wherever they lie."""
        # A file has several pieces; how many depends on the window.
        return digest_of(f"{clip.sha256} {clip.fold} {clip.label}" for clip in self.split(test_fold)[0])

    def _part(self, name: str) -> list[Clip]:
        return [clip for clip in self.clips if clip.fold == name]


def load_collection(root: Path, frontend: FrontendConfig) -> CollectionDataset:
    """Prepared for that front end's rate and window, which takes a while the first time. Raises DatasetError."""
    parts = read_split(root)
    cache = prepare(root, rate=frontend.sample_rate, window_seconds=frontend.window_seconds)
    waves, pieces = load_pieces(cache)
    classes = tuple(sorted({piece.label for piece in pieces}))
    sha256 = {item.file: item.sha256 for item in read_items(root)}
    clips = tuple(
        Clip(root / piece.file, parts[piece.source], classes.index(piece.label), piece.source, row, sha256[piece.file])
        for row, piece in enumerate(pieces)
    )
    dataset = CollectionDataset(root, clips, classes, Origin(root.resolve().name), frontend.sample_rate, waves)
    for part in ("train", "test"):
        present = {clip.label for clip in dataset._part(part)}
        if lacking := [name for label, name in enumerate(classes) if label not in present]:
            raise DatasetError(f"{root}: nothing is to be heard of {lacking[0]!r} in the {part} part; split again")
    return dataset


def load_dataset(root: Path, frontend: FrontendConfig) -> Dataset:
    """A collection or a folder in the layout of ESC-50, whichever it is. Raises DatasetError."""
    return load_collection(root, frontend) if (root / TABLE).is_file() else load_esc50(root)
