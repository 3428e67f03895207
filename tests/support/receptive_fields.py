"""Which cells of a network's maps a frame of the spectrogram reaches."""

import torch
from torch import Tensor

from worker.model.activations import ActivationRecorder
from worker.model.base import Network


@torch.no_grad()
def changed_columns(network: Network, x: Tensor, frame: int) -> dict[str, tuple[list[int], int]]:
    """For each layer the columns of its map that change with a frame of `x` (1, 1, mels, frames), and their total."""
    changed = x.clone()
    changed[..., frame] += 1
    before, after = (ActivationRecorder(network, maps=[0], embedding=[], cam=[]) for _ in range(2))
    network(x, before)
    network(changed, after)
    return {
        name: ((before.maps[name] != after.maps[name]).any(dim=(0, 1)).nonzero().flatten().tolist(), map_.shape[2])
        for name, map_ in before.maps.items()
    }
