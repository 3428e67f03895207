"""Activations of a forward pass for chosen rows of a batch: mean maps over the channels, all channels of a layer, the
embedding, and class activation maps."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from worker.model.base import BLOCK_PARTS, Need, Network


class ActivationRecorder:
    """An activation hook for `Network.forward`, together with `expanded_blocks`. Keeps the requested activations,
    reduced immediately, on the device, in float32."""

    def __init__(
        self,
        network: Network,
        *,
        maps: list[int],
        embedding: list[int],
        cam: list[int],
        channels: Mapping[str, list[int]] | None = None,
    ) -> None:
        """The lists are the rows of the batch that request each output; `channels` has a list for each layer."""
        self._network = network
        self._map_rows, self._embedding_rows, self._cam_rows = maps, embedding, cam
        self._pooled_layers = network.pooled_layers if cam else ()
        self.maps: dict[str, Tensor] = {}  # layer -> (rows, height, width)
        self.channels: dict[tuple[str, str], Tensor] = {}  # (layer, name) -> (rows, channels, height, width)
        self.embedding: Tensor | None = None  # (rows, features)
        self._levels: list[Tensor] = []
        # Name of an activation -> (requested layer, name in `channels`, rows).
        self._requests: defaultdict[str, list[tuple[str, str, list[int]]]] = defaultdict(list)
        self.expanded_blocks: set[str] = set()
        for layer, rows in (channels or {}).items():
            self._request(layer, rows)

    def _request(self, layer: str, rows: list[int]) -> None:
        self._requests[layer].append((layer, layer, rows))
        nodes = self._network.structure()
        node = nodes.get(layer)
        block = node.inputs[0] if node and node.kind == "stage" else layer  # a stage is the output of its last block
        if block in nodes and nodes[block].kind == "residual":
            self.expanded_blocks.add(block)
            for part in BLOCK_PARTS:
                self._requests[f"{block}.{part}"].append((layer, f"{layer}.{part}", rows))

    def need(self, name: str) -> Need:
        if name in self._requests or name in self._pooled_layers:
            return "channels"
        return "mean" if self._map_rows else "nothing"

    def __call__(self, name: str, activation: Tensor) -> None:
        for layer, shown, rows in self._requests.get(name, ()):
            self.channels[layer, shown] = activation[rows].float()
        if name.rpartition(".")[2] in BLOCK_PARTS:
            return
        if name == "embedding":
            if self._embedding_rows:
                self.embedding = activation[self._embedding_rows].float()
            return
        if self._map_rows:
            self.maps[name] = activation[self._map_rows].float().mean(dim=1)
        if name in self._pooled_layers:
            self._levels.append(activation[self._cam_rows].float())

    def cam(self, shown_at: Tensor, classes: Tensor) -> Tensor:
        """`class_activation` of the rows that request it, for `classes` (rows,)."""
        return class_activation(self._network, shown_at, self._levels, classes)


def class_activation(network: Network, shown_at: Tensor, levels: list[Tensor], classes: Tensor) -> Tensor:
    """(rows, height, width), 0 to 1: the evidence in the last stage for `classes` (rows,), each row on its own.

    `levels` are the activations of `network.pooled_layers`, (rows, width, height, frames) each, and `shown_at` (input
    rows,) is `LogMel.shown_at`. Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391): the channels of the last stage are
    weighted by the gradient of the class's logit, averaged over each channel; evidence against the class is set to
    zero. Only pooling and head are run again.

    Networks side by side have a last stage each. Their evidence is in units of the same logit, so it is added: for each
    of the times and frequencies that are shown, with the resolution of the finest of them.
    """
    stages = network.last_stages
    pooled = dict(zip(network.pooled_layers, levels, strict=True))
    last = [pooled[layer].detach().requires_grad_() for layer in stages]
    pooled.update(zip(stages, last, strict=True))
    with torch.enable_grad():
        logits = network.head(network.pool(list(pooled.values())))  # (rows, classes)
        gradients = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), last)
    size = tuple(max(level.shape[axis] for level in last) for axis in (2, 3))
    evidence = torch.zeros(len(classes), *size, device=classes.device)
    for level, gradient, rows in zip(last, gradients, stages.values(), strict=True):
        # The sum, not the mean: a cell of a coarser stage is a larger part of the window.
        weights = gradient.sum(dim=(2, 3), keepdim=True)  # (rows, width, 1, 1)
        evidence += _resampled((weights * level.detach()).sum(dim=1), size, shown_at[rows])
    evidence = evidence.relu()
    peak = evidence.amax(dim=(1, 2), keepdim=True)
    return evidence / peak.clamp_min(torch.finfo(evidence.dtype).tiny)


def _resampled(values: Tensor, size: tuple[int, ...], shown_at: Tensor) -> Tensor:
    """(rows, height, width) -> (rows, *size), linearly. The height is of the mels that `shown_at` places on the axis of
    frequencies of the result."""
    height, width, mels = (((torch.arange(count) + 0.5) / count).numpy() for count in (*size, len(shown_at)))
    at = np.stack(np.meshgrid(width, np.interp(height, shown_at.cpu(), mels)), axis=-1)  # 0 to 1: time, frequency
    grid = torch.from_numpy(2 * at - 1).to(values).expand(len(values), -1, -1, -1)
    return functional.grid_sample(values[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
