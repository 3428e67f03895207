"""Which cells of a network's maps a frame of the spectrogram reaches, or a mel band."""

import torch
from torch import Tensor

from worker.model.activations import ActivationRecorder
from worker.model.base import Network

Cells = dict[str, tuple[set[int], set[int]]]
"""For each layer the columns or rows of its map that change, and those whose receptive fields contain what changed."""


def changed_columns(network: Network, x: Tensor, frame: int) -> Cells:
    """The columns that change with a frame of `x`, (1, 1, mels, frames)."""
    return _changed(network, x, 2, frame)


def changed_rows(network: Network, x: Tensor, mel: int) -> Cells:
    """The rows that change with a mel band of `x`, (1, 1, mels, frames)."""
    return _changed(network, x, 1, mel)


@torch.no_grad()
def _changed(network: Network, x: Tensor, axis: int, index: int) -> Cells:
    """Along an axis of the maps, (1, height, width)."""
    changed = x.clone()
    changed.select(axis + 1, index).add_(1)
    before, after = (ActivationRecorder(network, maps=[0], embedding=[], cam=[]) for _ in range(2))
    network(x, before)
    network(changed, after)
    cells: Cells = {}
    for name, node in network.structure().items():
        field, map_ = node.receptive_field, before.maps[name]
        differs = (after.maps[name] != map_).any(dim=(0, 3 - axis))
        at = index // field.pooled_frames if axis == 2 else index
        begins = [field.start + cell * field.stride for cell in range(map_.shape[axis])]
        expected = {cell for cell, begin in enumerate(begins) if begin <= at < begin + field.size}
        cells[name] = set(differs.nonzero().flatten().tolist()), expected
    return cells
