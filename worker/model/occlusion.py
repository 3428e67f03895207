"""Occlusion: which part of a window a prediction needs, measured by muting one tile after the other.

Zeiler and Fergus, 2014, arXiv:1311.2901. The log-mel spectrogram of a window that is shown is divided into a grid of
equal tiles. A muted tile has the value of digital silence, in every spectrogram of the network's input.
"""

import torch
from torch import Tensor

from worker.model.frontend import LogMel

ROWS, COLUMNS = 6, 10  # of the grid: frequency, time
TILES = ROWS * COLUMNS


def muted(frontend: LogMel, tile: int, frames: int, period: float | None = None) -> Tensor:
    """Which cells of the input a tile has, a mask (rows, frames).

    Tiles are counted from 0, row by row from the lowest frequency, each row from the beginning. In a window in which a
    sound is repeated every `period` frames, a tile has the same moments of all repetitions.
    """
    row, column = divmod(tile, COLUMNS)
    first, end = (-(-at * frames // COLUMNS) for at in (column, column + 1))
    since = torch.arange(frames, device=frontend.shown_at.device) - first
    in_time = torch.remainder(since, period or frames) < end - first
    in_frequency = (frontend.shown_at * ROWS).floor() == row
    return in_frequency[:, None] & in_time
