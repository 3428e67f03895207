"""What runs a network, behind one call: PyTorch, the reference, or OpenVINO, which is faster on a processor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from worker.model.activations import ActivationRecorder
from worker.model.base import Network
from worker.model.checkpoint import Model
from worker.model.precision import autocast, native_bf16

Activations = dict[tuple[str, ...], Tensor]
"""What was seen inside, float32, one row for each that asked: ("maps", layer) -> (rows, height, width),
("channels", layer, name) -> (rows, channels, height, width), ("embedding",) -> (rows, features), ("cam",) -> (rows,
height, width)."""


@dataclass(frozen=True)
class OutputRequest:
    """The rows of a batch that ask for a look inside, by what they ask for."""

    maps: list[int] = field(default_factory=list)
    embedding: list[int] = field(default_factory=list)
    cam: Mapping[int, int | None] = field(default_factory=dict)  # row -> class, or what the row itself is taken for
    channels: Mapping[str, list[int]] = field(default_factory=dict)  # by layer

    def __bool__(self) -> bool:
        return bool(self.maps or self.embedding or self.cam or self.channels)

    def cam_classes(self, logits: Tensor) -> Tensor:
        """The class (rows,) of each class activation; `logits` are those of the whole batch."""
        own = logits[list(self.cam)].argmax(dim=1)
        asked = torch.tensor([-1 if of is None else of for of in self.cam.values()], device=logits.device)
        return asked.where(asked >= 0, own)


class Backend(Protocol):
    """A model's network, ready to run on a device."""

    name: str  # and its arithmetic

    def __call__(self, features: Tensor, rows: OutputRequest, *, alone: bool) -> tuple[Tensor, Activations]:
        """(batch, 1, mels, frames), normalised -> logits (batch, classes) in float32, and what `rows` asked for.

        `alone` says that nothing else runs on the device now, so that all of it may be used.
        """
        ...


class TorchBackend:
    """The network as it was trained."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self._device = device
        self._network: Network = model.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.name = f"torch, {'bfloat16' if native_bf16(device) else 'float32'}"

    def __call__(self, features: Tensor, rows: OutputRequest, *, alone: bool) -> tuple[Tensor, Activations]:
        network, tap = self._network, None
        if rows:
            tap = ActivationRecorder(
                network, maps=rows.maps, embedding=rows.embedding, cam=list(rows.cam), channels=rows.channels
            )
        with autocast(self._device):
            features = features.contiguous(memory_format=torch.channels_last)
            logits = network(features, tap, tap.expanded_blocks if tap else ()).float()  # (batch, classes)
        if tap is None:
            return logits, {}
        looks: Activations = {("maps", layer): values for layer, values in tap.maps.items()}
        looks |= {("channels", *names): values for names, values in tap.channels.items()}
        if tap.embedding is not None:
            looks["embedding",] = tap.embedding
        if rows.cam:
            looks["cam",] = tap.cam(rows.cam_classes(logits))
        return logits, looks
