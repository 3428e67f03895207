"""Looks inside a forward pass: channel-mean maps, the embedding and the class activation of chosen rows of a batch."""

import torch
from torch import Tensor

from worker.model.network import Network


class Tap:
    """Passed to `Network.forward`; keeps what was asked for, reduced at once, on the device."""

    def __init__(self, network: Network, *, maps: list[int], embedding: list[int], cam: list[int]) -> None:
        """The lists hold the rows of the batch that asked for each."""
        self._network = network
        self._map_rows, self._embedding_rows, self._cam_rows = maps, embedding, cam
        self._stages = network.pooled_layers if cam else ()
        self.maps: dict[str, Tensor] = {}  # layer -> (rows, height, width)
        self.embedding: Tensor | None = None  # (rows, features)
        self._levels: list[Tensor] = []

    def __call__(self, name: str, activation: Tensor) -> None:
        if name == "embedding":
            if self._embedding_rows:
                self.embedding = activation[self._embedding_rows].float()
            return
        if self._map_rows:
            self.maps[name] = activation[self._map_rows].float().mean(dim=1)
        if name in self._stages:
            self._levels.append(activation[self._cam_rows].float())

    def cam(self, classes: Tensor) -> Tensor:
        """(rows, height, width), 0 to 1: where the last stage spoke for `classes` (rows,), each row by itself.

        Grad-CAM (Selvaraju et al., 2017): the gradient of the class's logit, averaged over each channel, weighs the
        channels of the last stage; what speaks against the class is cut off. Only pooling and head are run again.
        """
        last = self._levels[-1].detach().requires_grad_()
        with torch.enable_grad():
            logits = self._network.head(self._network.pool([*self._levels[:-1], last]))
            (slope,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), last)
        weighted = (slope.mean(dim=(2, 3), keepdim=True) * last.detach()).sum(dim=1).relu()
        peak = weighted.amax(dim=(1, 2), keepdim=True)
        return weighted / peak.clamp_min(torch.finfo(weighted.dtype).tiny)
