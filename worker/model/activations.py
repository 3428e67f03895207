"""Looks inside a forward pass: channel-mean maps, all channels of a layer, the embedding and the class activation of
chosen rows of a batch."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from worker.model.base import BLOCK_PARTS, Network


class ActivationRecorder:
    """Passed to `Network.forward`, with `expanded_blocks`; keeps what was asked for, reduced at once, on the device."""

    def __init__(
        self,
        network: Network,
        *,
        maps: list[int],
        embedding: list[int],
        cam: list[int],
        channels: Mapping[str, list[int]] | None = None,
    ) -> None:
        """The lists hold the rows of the batch that asked for each; `channels` those of each layer."""
        self._network = network
        self._map_rows, self._embedding_rows, self._cam_rows = maps, embedding, cam
        self._stages = network.pooled_layers if cam else ()
        self.maps: dict[str, Tensor] = {}  # layer -> (rows, height, width)
        self.channels: dict[tuple[str, str], Tensor] = {}  # layer, name -> (rows, channels, height, width)
        self.embedding: Tensor | None = None  # (rows, features)
        self._levels: list[Tensor] = []
        self._wanted: defaultdict[str, list[tuple[str, str, list[int]]]] = defaultdict(list)
        self.expanded_blocks: set[str] = set()
        for layer, rows in (channels or {}).items():
            self._want(layer, rows)

    def _want(self, layer: str, rows: list[int]) -> None:
        self._wanted[layer].append((layer, layer, rows))
        nodes = self._network.structure()
        node = nodes.get(layer)
        block = node.inputs[0] if node and node.kind == "stage" else layer
        if block in nodes and nodes[block].kind == "residual":
            self.expanded_blocks.add(block)
            for part in BLOCK_PARTS:
                self._wanted[f"{block}.{part}"].append((layer, f"{layer}.{part}", rows))

    def __call__(self, name: str, activation: Tensor) -> None:
        for layer, shown, rows in self._wanted.get(name, ()):
            self.channels[layer, shown] = activation[rows].float()
        if name.rpartition(".")[2] in BLOCK_PARTS:
            return
        if name == "embedding":
            if self._embedding_rows:
                self.embedding = activation[self._embedding_rows].float()
            return
        if self._map_rows:
            self.maps[name] = activation[self._map_rows].float().mean(dim=1)
        if name in self._stages:
            self._levels.append(activation[self._cam_rows].float())

    def cam(self, classes: Tensor) -> Tensor:
        """`class_activation` of the rows that asked for it."""
        return class_activation(self._network, self._levels, classes)


def class_activation(network: Network, levels: list[Tensor], classes: Tensor) -> Tensor:
    """(rows, height, width), 0 to 1: where the last stage spoke for `classes` (rows,), each row by itself.

    `levels` are the activations of `network.pooled_layers`, (rows, width, height, frames) each. Grad-CAM (Selvaraju et
    al., 2017): the gradient of the class's logit, averaged over each channel, weighs the channels of the last stage;
    what speaks against the class is cut off. Only pooling and head are run again.
    """
    last = levels[-1].detach().requires_grad_()
    with torch.enable_grad():
        logits = network.head(network.pool([*levels[:-1], last]))
        (slope,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), last)
    weighted = (slope.mean(dim=(2, 3), keepdim=True) * last.detach()).sum(dim=1).relu()
    peak = weighted.amax(dim=(1, 2), keepdim=True)
    return weighted / peak.clamp_min(torch.finfo(weighted.dtype).tiny)
