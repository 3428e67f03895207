"""What runs a network, behind one call: PyTorch, the reference, or OpenVINO, which is faster on a CPU."""

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
"""Outputs besides the logits, float32, one row for each row of the batch that requested it: ("maps", layer) -> (rows,
height, width), ("channels", layer, name) -> (rows, channels, height, width), ("embedding",) -> (rows, features),
("cam",) -> (rows, height, width)."""


Outputs = tuple[Tensor, Tensor | None, Activations]
"""Logits (batch, classes), known scores (batch,) or None, and the requested activations."""


@dataclass(frozen=True)
class OutputRequest:
    """The rows of a batch that request outputs besides the logits, by output."""

    maps: list[int] = field(default_factory=list)
    embedding: list[int] = field(default_factory=list)
    cam: Mapping[int, int | None] = field(default_factory=dict)  # row -> class; None: the row's own first class
    channels: Mapping[str, list[int]] = field(default_factory=dict)  # layer -> rows

    def __bool__(self) -> bool:
        return bool(self.maps or self.embedding or self.cam or self.channels)

    def cam_classes(self, logits: Tensor) -> Tensor:
        """(rows,): the class of each class activation map; `logits` (batch, classes) are those of the whole batch."""
        first = logits[list(self.cam)].argmax(dim=1)
        requested = torch.tensor([-1 if of is None else of for of in self.cam.values()], device=logits.device)
        return requested.where(requested >= 0, first)


class Backend(Protocol):
    """A model's network, ready to run on a device."""

    name: str  # of the backend and its arithmetic, for the log

    def __call__(self, features: Tensor, request: OutputRequest, *, alone: bool) -> Outputs:
        """(batch, 1, mels, frames), normalised -> `Outputs` in float32.

        `alone`: no other batch runs on the device now, so that this one may use all of it.
        """
        ...


class TorchBackend:
    """The network in PyTorch, as it was trained."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self._device = device
        self._network: Network = model.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._shown_at = model.frontend.shown_at
        self._open_set = model.open_set.to(device) if model.open_set is not None else None
        self.name = f"torch, {'bfloat16' if native_bf16(device) else 'float32'}"

    def __call__(self, features: Tensor, request: OutputRequest, *, alone: bool) -> Outputs:
        network, recorder, embedding_rows = self._network, None, request.embedding
        if self._open_set is not None:
            embedding_rows = list(range(len(features)))
        if request or embedding_rows:
            recorder = ActivationRecorder(
                network,
                maps=request.maps,
                embedding=embedding_rows,
                cam=list(request.cam),
                channels=request.channels,
            )
        with autocast(self._device):
            features = features.contiguous(memory_format=torch.channels_last)
            logits = network(features, recorder, recorder.expanded_blocks if recorder else ()).float()
        if recorder is None:
            return logits, None, {}
        known = None
        if self._open_set is not None and recorder.embedding is not None:
            known = self._open_set(recorder.embedding, logits)
        activations: Activations = {("maps", layer): values for layer, values in recorder.maps.items()}
        activations |= {("channels", *names): values for names, values in recorder.channels.items()}
        if recorder.embedding is not None and request.embedding:
            rows = request.embedding if self._open_set is not None else slice(None)
            activations["embedding",] = recorder.embedding[rows]
        if request.cam:
            activations["cam",] = recorder.cam(self._shown_at, request.cam_classes(logits))
        return logits, known, activations
