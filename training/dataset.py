"""ESC-50 in its official layout: `meta/esc50.csv` and `audio/`, any format that `shared.audio` decodes."""

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from shared.audio import decode


class DatasetError(Exception):
    """A data folder that cannot be used; the message says what is missing."""


@dataclass(frozen=True)
class Clip:
    path: Path
    fold: int
    label: int
    source: str  # the recording that the clip was cut from


@dataclass(frozen=True)
class Dataset:
    """Clips and the names of their classes, in label order."""

    root: Path
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]

    def fold(self, number: int) -> list[Clip]:
        return [clip for clip in self.clips if clip.fold == number]

    def without(self, number: int) -> list[Clip]:
        return [clip for clip in self.clips if clip.fold != number]


def load_esc50(root: Path) -> Dataset:
    """Read the table of an ESC-50 folder. Raises DatasetError."""
    table = root / "meta" / "esc50.csv"
    if not table.is_file():
        raise DatasetError(f"{root} is not an ESC-50 folder: {table} is missing")
    names: dict[int, str] = {}
    clips: list[Clip] = []
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            label = int(row["target"])
            names[label] = row["category"]
            clips.append(Clip(root / "audio" / row["filename"], int(row["fold"]), label, row["src_file"]))
    missing = [clip.path for clip in clips if not clip.path.is_file()]
    if missing:
        raise DatasetError(f"{len(missing)} of {len(clips)} clips are missing, {missing[0]} first")
    if sorted(names) != list(range(len(names))):
        raise DatasetError(f"{table}: the targets are not 0 to {len(names) - 1}")
    return Dataset(root, tuple(clips), tuple(names[label] for label in range(len(names))))


def load_waveforms(clips: Sequence[Clip], rate: int, samples: int) -> tuple[Tensor, Tensor]:
    """Decode every clip, cut or zero-padded to `samples`: (clips, samples) float32 and labels (clips,) int64."""
    waveforms = torch.zeros(len(clips), samples)

    def load(index: int) -> None:
        wave = decode(clips[index].path.read_bytes(), rate).waveform[:samples]
        waveforms[index, : len(wave)] = torch.from_numpy(np.ascontiguousarray(wave))

    with ThreadPoolExecutor() as pool:
        list(tqdm(pool.map(load, range(len(clips))), total=len(clips), desc="decode", unit="clip"))
    return waveforms, torch.tensor([clip.label for clip in clips])
