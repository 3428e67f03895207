"""Which cells of a network's maps a frame of the spectrogram reaches, or a mel band."""

import torch
from torch import Tensor

from worker.model.activations import ActivationRecorder
from worker.model.base import Network


def changed_columns(network: Network, x: Tensor, frame: int) -> dict[str, tuple[list[int], int]]:
    """For each layer the columns of its map that change with a frame of `x` (1, 1, mels, frames), and their total."""
    return _changed(network, x, 2, frame)


def changed_rows(network: Network, x: Tensor, mel: int) -> dict[str, tuple[list[int], int]]:
    """For each layer the rows of its map that change with a mel band of `x` (1, 1, mels, frames), and their total."""
    return _changed(network, x, 1, mel)


@torch.no_grad()
def _changed(network: Network, x: Tensor, axis: int, index: int) -> dict[str, tuple[list[int], int]]:
    """Along an axis of the maps, (1, height, width)."""
    changed = x.clone()
    changed.select(axis + 1, index).add_(1)
    before, after = (ActivationRecorder(network, maps=[0], embedding=[], cam=[]) for _ in range(2))
    network(x, before)
    network(changed, after)
    return {
        name: ((after.maps[name] != map_).any(dim=(0, 3 - axis)).nonzero().flatten().tolist(), map_.shape[axis])
        for name, map_ in before.maps.items()
    }
