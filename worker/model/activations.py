"""Activations of a forward pass for chosen rows of a batch: mean maps over the channels, all channels of a layer, the
embedding, and class activation maps."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

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

    def cam(self, classes: Tensor) -> Tensor:
        """`class_activation` of the rows that request it, for `classes` (rows,)."""
        return class_activation(self._network, self._levels, classes)


def class_activation(network: Network, levels: list[Tensor], classes: Tensor) -> Tensor:
    """(rows, height, width), 0 to 1: the evidence in the last stage for `classes` (rows,), each row on its own.

    `levels` are the activations of `network.pooled_layers`, (rows, width, height, frames) each. Grad-CAM (Selvaraju et
    al., 2017, arXiv:1610.02391): the channels of the last stage are weighted by the gradient of the class's logit,
    averaged over each channel; evidence against the class is set to zero. Only pooling and head are run again.
    """
    last = levels[-1].detach().requires_grad_()
    with torch.enable_grad():
        logits = network.head(network.pool([*levels[:-1], last]))  # (rows, classes)
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), last)
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # (rows, width, 1, 1)
    weighted = (weights * last.detach()).sum(dim=1).relu()  # (rows, height, frames)
    peak = weighted.amax(dim=(1, 2), keepdim=True)
    return weighted / peak.clamp_min(torch.finfo(weighted.dtype).tiny)
