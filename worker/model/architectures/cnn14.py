"""CNN14 (`type: cnn14`): six blocks of two 3×3 convolutions each, with average pooling between them (Kong et al., 2020,
"PANNs", arXiv:1912.10211), as in https://github.com/qiuqiangkong/audioset_tagging_cnn.

Each mel row is normalised first, with statistics of its own. The embedding is the output of a linear layer behind the
pooling, as in PANNs: so it belongs to the trunk, and not to the head.
"""

from collections.abc import Collection
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from worker.model.architectures import register
from worker.model.base import ActivationHook, ArchitectureConfig, Network, Node, make_head, no_hook
from worker.model.paired_convolutions import PairedConvolutions
from worker.model.pooling import MaxAndMeanPooling, MelNorm

_STAGES = 6
_DROPOUT = 0.2  # behind each stage


class Cnn14Config(ArchitectureConfig):
    """Everything needed to build the network except its weights."""

    type: Literal["cnn14"] = "cnn14"
    mels: PositiveInt = 64  # rows of the spectrogram, which are normalised one by one
    width: PositiveInt = 64  # channels of the first stage; each other one has twice as many as the one before

    @property
    def title(self) -> str:
        return "CNN14"

    @property
    def summary(self) -> str:
        width = "" if self.width == 64 else f", {self.width} channels in the first block"
        return f"CNN14: six blocks of two 3×3 convolutions{width}"


@register(Cnn14Config)
class Cnn14(Network):
    """Takes 32 frames or more."""

    def __init__(self, config: Cnn14Config) -> None:
        super().__init__()
        self.config = config
        self.norm = MelNorm(config.mels)
        self.stages = PairedConvolutions(_STAGES, config.width, nn.AvgPool2d)
        self.pooling = MaxAndMeanPooling(self.stages.outputs, self.stages.outputs)
        self.head = make_head(self.stages.outputs, config)

    def forward(self, x: Tensor, hook: ActivationHook | None = None, expanded_blocks: Collection[str] = ()) -> Tensor:
        report: ActivationHook = hook or no_hook
        x = self.stages(self.norm(x), report, dropout=_DROPOUT)  # (batch, 32 × width, mels / 32, frames / 32)
        return self.classified([x], report)

    def structure(self) -> dict[str, Node]:
        return self.stages.structure()

    def pool(self, levels: list[Tensor]) -> Tensor:
        pooled: Tensor = self.pooling(levels[-1])
        return pooled

    @property
    def pooled_layers(self) -> tuple[str, ...]:
        return (f"layer{_STAGES}",)

    def trunk(self) -> list[nn.Module]:
        return [self.norm, *self.stages, self.pooling]
