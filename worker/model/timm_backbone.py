"""A network made for pictures, looking at a log-mel as a grey picture: the start of transfer learning from ImageNet.

The body is one of timm's (an optional package); pooling and head are ours, so that everything else treats it like any
other network.
"""

from collections.abc import Collection
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from worker.model.base import ActivationHook, Network, ignore, make_head
from worker.model.compat.timm import import_timm

_BN_MOMENTUM = 0.1  # TensorFlow's networks come with 0.01, which a small set never gets through
_SPAN = 3.0  # deviations of the log-mel to either side of its mean that become black and white


class TimmConfig(BaseModel):
    """Everything needed to build the network but its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: int = Field(ge=2)
    backbone: str  # a name of timm's, such as tf_efficientnet_lite0
    head: tuple[PositiveInt, ...] = ()  # hidden widths between pooling and the last linear layer
    dropout: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.2,)  # one before each linear layer of the head

    def model_post_init(self, _context: object) -> None:
        if len(self.dropout) != len(self.head) + 1:
            raise ValueError(f"a head of {len(self.head) + 1} linear layers needs as many dropouts: {self.dropout}")


class TimmNetwork(Network):
    """Layers are those that timm names as features, `layer1` and so on, and last what its head would see."""

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        timm = import_timm()
        if not timm.is_model(config.backbone):
            raise ValueError(f"timm knows no network {config.backbone}")
        self.backbone: Any = timm.create_model(config.backbone, pretrained=False, num_classes=0, global_pool="")
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = _BN_MOMENTUM
        if not hasattr(self.backbone, "forward_intermediates"):
            raise ValueError(f"timm's {config.backbone} cannot be looked into")
        self.head = make_head(self.backbone.num_features, config.head, config.dropout, config.classes)
        cfg = self.backbone.pretrained_cfg
        self.mean: Tensor
        self.std: Tensor
        # Of the colours that the body was trained with; from timm, never stored.
        self.register_buffer("mean", torch.tensor(cfg["mean"])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(cfg["std"])[:, None, None], persistent=False)

    def forward(self, x: Tensor, tap: ActivationHook | None = None, expanded_blocks: Collection[str] = ()) -> Tensor:
        see: ActivationHook = tap or ignore
        grey = (x / (2 * _SPAN) + 0.5).clamp(0, 1)  # (batch, 1, mels, frames), black to white
        picture = (grey - self.mean) / self.std  # (batch, 3, mels, frames)
        last: Tensor  # (batch, width, mels / 32, frames / 32)
        if tap:  # given back and not caught by hooks, which would see what passes in other threads
            last, features = self.backbone.forward_intermediates(picture)
            for number, feature in enumerate(features, start=1):
                see(f"layer{number}", feature)
        else:
            last = self.backbone.forward_features(picture)
        see(self.pooled_layers[0], last)
        embedding = self.pool([last])
        see("embedding", embedding)
        logits: Tensor = self.head(embedding)  # (batch, classes)
        return logits

    def pool(self, levels: list[Tensor]) -> Tensor:
        return levels[-1].mean(dim=(2, 3))

    @property
    def pooled_layers(self) -> tuple[str, ...]:
        return (f"layer{len(self.backbone.feature_info) + 1}",)

    def trunk(self) -> list[nn.Module]:
        """timm's modules in the order of their definition, which is that of computation; a row of stages is taken
        apart."""
        parts: list[nn.Module] = []
        for name, child in self.backbone.named_children():
            parts += list(child.children()) if name in ("blocks", "stages", "features") else [child]
        return [part for part in parts if next(part.parameters(), None) is not None]
