"""An image network of timm (`type: timm`) that takes a log-mel spectrogram as a greyscale image: transfer learning from
ImageNet.

The backbone comes from timm, an optional package. Pooling and head are our own, so that the rest of the code treats it
like any other network.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from worker.model.architectures import register
from worker.model.base import ActivationHook, ArchitectureConfig, Network, make_head, no_hook
from worker.model.compat.timm import import_timm

_BN_MOMENTUM = 0.1  # networks from TensorFlow have 0.01, with which running statistics never converge on a small set
_SPAN = 3.0  # standard deviations on either side of the log-mel's mean that map to black and white


class TimmConfig(ArchitectureConfig):
    """Everything needed to build the network except its weights."""

    type: Literal["timm"] = "timm"
    backbone: str  # a model name of timm, such as tf_efficientnet_lite0
    dropout: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.2,)  # one before each linear layer of the head

    @property
    def title(self) -> str:
        return self.backbone

    @property
    def summary(self) -> str:
        return f"{self.backbone} on log-mels as grey pictures"


@register(TimmConfig)
class TimmNetwork(Network):
    """Its layers are timm's feature levels, `layer1` and so on; the last one is the input of the pooling."""

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        timm = import_timm()
        if not timm.is_model(config.backbone):
            raise ValueError(f"timm has no model {config.backbone!r}")
        self.backbone: Any = timm.create_model(config.backbone, pretrained=False, num_classes=0, global_pool="")
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = _BN_MOMENTUM
        if not hasattr(self.backbone, "forward_intermediates"):
            raise ValueError(f"timm's {config.backbone} does not return intermediate features")
        self.head = make_head(self.backbone.num_features, config)
        cfg = self.backbone.pretrained_cfg
        self.mean: Tensor
        self.std: Tensor
        # Channel statistics of the images that the backbone was trained on: taken from timm, never stored.
        self.register_buffer("mean", torch.tensor(cfg["mean"])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(cfg["std"])[:, None, None], persistent=False)

    def forward(self, x: Tensor, hook: ActivationHook | None = None, expanded_blocks: Collection[str] = ()) -> Tensor:
        report: ActivationHook = hook or no_hook
        grey = (x / (2 * _SPAN) + 0.5).clamp(0, 1)  # (batch, 1, mels, frames), black to white
        image = (grey - self.mean) / self.std  # (batch, 3, mels, frames)
        last: Tensor  # (batch, width, mels / 32, frames / 32)
        if hook:  # not by torch's forward hooks, which would also be called by passes in other threads
            last, features = self.backbone.forward_intermediates(image)
            for number, feature in enumerate(features, start=1):
                report(f"layer{number}", feature)
        else:
            last = self.backbone.forward_features(image)
        report(self.pooled_layers[0], last)
        embedding = self.pool([last])
        report("embedding", embedding)
        logits: Tensor = self.head(embedding)  # (batch, classes)
        return logits

    def pool(self, levels: list[Tensor]) -> Tensor:
        return levels[-1].mean(dim=(2, 3))

    @property
    def pooled_layers(self) -> tuple[str, ...]:
        return (f"layer{len(self.backbone.feature_info) + 1}",)

    def trunk(self) -> list[nn.Module]:
        """timm's modules in the order of their definition, which is the order of computation; a container of stages is
        replaced by its stages."""
        parts: list[nn.Module] = []
        for name, child in self.backbone.named_children():
            parts += list(child.children()) if name in ("blocks", "stages", "features") else [child]
        return [part for part in parts if next(part.parameters(), None) is not None]
