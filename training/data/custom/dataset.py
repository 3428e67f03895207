"""A custom data set for the training loop: folds `train`, `val` (early stopping, calibration) and `test`."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.base import Clip, Dataset, DatasetInfo, Fold, LeftOut, digest_lines, fold_name, hold_out
from training.data.custom.copied import find_copies
from training.data.custom.labels import split_label
from training.data.custom.manifest import MANIFEST, MORE_OR_NONE, present_entries, read_manifest
from training.data.custom.prepare import load_segments, prepare_segments, read_cache_info
from training.data.custom.segments import FULL_SCALE
from training.data.custom.split import folds_by_source, has_split, read_split
from training.data.esc50 import load_esc50
from training.data.windows import Windows, open_windows
from training.errors import DatasetError
from training.recipe import SegmentRecipe
from worker.model.frontend import FrontendConfig


@dataclass(frozen=True)
class CustomDataset(Dataset):
    """A data set whose clips are the cached segments for one sample rate and one window length."""

    rate: int  # Hz
    waveforms: np.memmap[tuple[int, int], np.dtype[np.int16]]  # (segments, samples)
    lengths: NDArray[np.int64]  # (segments,): how many samples of each are sound
    dropped: tuple[LeftOut, ...] = ()
    skipped_files: tuple[str, ...] = ()

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        return self.dropped

    @property
    def skipped(self) -> tuple[str, ...]:
        return self.skipped_files

    def train_validation_split(self, test_fold: Fold, share: float, seed: int) -> tuple[list[Clip], list[Clip]]:
        """Training and validation clips. A val set has priority; without one, `share` of the train set is held out."""
        if test_fold != "test":
            raise DatasetError(f"{self.root} has one test set and no other folds; the test fold must be 'test'")
        train, val = self._clips_of("train"), self._clips_of("val")
        return (train, val) if val else hold_out(train, share, seed)

    def compatible_test_folds(self, fold: Fold) -> tuple[Fold, ...]:
        return ("test",) if fold == "val" else ()

    def open(self, clips: Sequence[Clip], front: FrontendConfig) -> tuple[Windows, Tensor]:
        if front.sample_rate != self.rate:
            raise DatasetError(
                f"{self.root} was prepared at {self.rate:,} Hz, but {front.sample_rate:,} Hz are requested"
            )
        rows = np.array([clip.segment for clip in clips], np.int64)
        windows = open_windows(self.waveforms, rows, front.window_samples, FULL_SCALE)
        if front.pause_samples is not None:
            windows = replace(windows, lengths=self.lengths, pause=front.pause_samples)
        return windows, torch.arange(len(clips))

    def digest(self, test_fold: Fold) -> str:
        """As in the base class, but by the content of the files: they may be moved."""
        # digest_lines ignores duplicates: the number of segments of a file depends on the window length.
        return digest_lines(f"{clip.sha256} {clip.fold} {clip.label_text}" for clip in self.split(test_fold)[0])

    def _clips_of(self, name: str) -> list[Clip]:
        return [clip for clip in self.clips if clip.fold == name]


@dataclass(frozen=True)
class SourceFolds(CustomDataset):
    """A custom data set in folds by source, for cross-validation; its split has no effect."""

    def train_validation_split(self, test_fold: Fold, share: float, seed: int) -> tuple[list[Clip], list[Clip]]:
        return hold_out(self.split(test_fold)[0], share, seed)

    def compatible_test_folds(self, fold: Fold) -> tuple[Fold, ...]:
        return ()


def load_custom_dataset(
    root: Path,
    frontend: FrontendConfig,
    segments: SegmentRecipe | None = None,
    *,
    folds: int = 0,
    seed: int = 1,
    to_measure: bool = False,
) -> CustomDataset:
    """Load the data set for the sample rate and window length of `frontend`, cut as `segments` states; decodes all
    files the first time.

    With `folds` the sources are assigned to so many folds by the seed, instead of train, val and test. `to_measure` is
    for a trained model: a data set without a split is then a test set, and classes may be absent. Raises DatasetError.
    """
    cut = segments or SegmentRecipe()
    entries = read_manifest(root, missing_ok=True)
    subsets: Mapping[str, Fold]
    if folds:
        existing = present_entries(root, entries)
        subsets = folds_by_source(existing, folds, seed, find_copies(root, existing))
    elif to_measure and not has_split(root):
        subsets = dict.fromkeys((entry.source for entry in entries), "test")
    else:
        subsets = read_split(root)
    cache = prepare_segments(
        root, rate=frontend.sample_rate, window_seconds=frontend.window_seconds,
        overlap=cut.overlap, silence_db=cut.silence_dbfs,
    )  # fmt: skip
    waveforms, rows = load_segments(cache)
    made, by_file = read_cache_info(cache), {entry.file: entry for entry in entries}
    silent_entries = [by_file[file] for file in made.silent_files]
    heard = {label for row in rows for label in split_label(row.label)}
    for entry in silent_entries:
        if not to_measure and (lost := set(entry.labels) - heard):
            raise DatasetError(
                f"no usable sound of class {min(lost)!r}; first: {root / entry.file}: silent; {MORE_OR_NONE}"
            )
    classes = tuple(sorted(heard.union(*(entry.labels for entry in silent_entries))))
    texts = {row.label for row in rows} | {entry.label for entry in silent_entries}
    labels = {text: [classes.index(name) for name in split_label(text)] for text in texts}
    clips = tuple(
        Clip(
            root / row.file,
            subsets[row.source],
            labels[row.label][0],
            row.source,
            index,
            by_file[row.file].sha256,
            tuple(labels[row.label][1:]),
        )
        for index, row in enumerate(rows)
    )
    silent = tuple(
        Clip(root / entry.file, subsets[entry.source], first, entry.source, sha256=entry.sha256, others=tuple(others))
        for entry in silent_entries
        for first, *others in [labels[entry.label]]
    )
    kind = SourceFolds if folds else CustomDataset
    dataset = kind(
        root, clips, classes, DatasetInfo(root.resolve().name), frontend.sample_rate, waveforms,
        np.array([round(row.seconds * frontend.sample_rate) for row in rows], np.int64), made.left_out,
        tuple(made.skipped), silent=silent,
    )  # fmt: skip
    if to_measure:
        return dataset
    for subset in dict.fromkeys(subsets.values()) if folds else ("train", "test"):
        present = {label for clip in clips if clip.fold == subset for label in clip.labels}
        if missing := [name for label, name in enumerate(classes) if label not in present]:
            again = f"`otoscope data split {shlex.quote(str(root))} --seed N` makes another one"
            raise DatasetError(
                f"{root}: the {fold_name(subset)} has no audible sound of class {missing[0]!r};"
                f" {'use fewer folds' if folds else again}"
            )
    return dataset


def load_dataset(
    root: Path,
    frontend: FrontendConfig,
    segments: SegmentRecipe | None = None,
    *,
    folds: int = 0,
    seed: int = 1,
    to_measure: bool = False,
) -> Dataset:
    """Load a custom data set or a folder in the layout of ESC-50, whichever `root` is; the latter has folds of its own,
    and windows as the service cuts them. Raises DatasetError."""
    if (root / MANIFEST).is_file():
        return load_custom_dataset(root, frontend, segments, folds=folds, seed=seed, to_measure=to_measure)
    return load_esc50(root)
