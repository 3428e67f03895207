"""Occlusion: which part of a window a prediction needs, measured by muting one tile after the other.

Zeiler and Fergus, 2014, arXiv:1311.2901. The log-mel spectrogram of a window is divided into a grid of equal tiles; a
muted tile has the value of digital silence.
"""

import torch
from torch import Tensor

ROWS, COLUMNS = 6, 10  # of the grid: frequency, time
TILES = ROWS * COLUMNS


def mute(features: Tensor, tile: int, silence: float, period: float | None = None) -> None:
    """Overwrite one tile of a normalised spectrogram, (..., mels, frames), with the value of silence.

    Tiles are counted from 0, row by row from the lowest frequency, each row from the beginning. In a window in which a
    sound is repeated every `period` frames, the same moments of all repetitions are muted.
    """
    row, column = divmod(tile, COLUMNS)
    mels, frames = features.shape[-2:]
    tile_frames = _share(column, COLUMNS, frames)
    since = torch.arange(frames, device=features.device) - tile_frames.start
    muted = torch.remainder(since, period or frames) < tile_frames.stop - tile_frames.start
    features[..., _share(row, ROWS, mels), :].masked_fill_(muted, silence)


def _share(index: int, of: int, length: int) -> slice:
    """Which of so many rows or columns begin in one of equal shares."""
    first, end = (-(-at * length // of) for at in (index, index + 1))
    return slice(first, end)
