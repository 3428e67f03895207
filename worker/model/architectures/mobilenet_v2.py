"""MobileNetV2 (`type: mobilenet-v2`; Sandler et al., 2018, arXiv:1801.04381) as in PANNs (Kong et al., 2020,
arXiv:1912.10211, https://github.com/qiuqiangkong/audioset_tagging_cnn): each mel row is normalised first, and average
pooling stands for strides.

The embedding is the output of the linear layer behind the pooling: so it belongs to the trunk, and not to the head.
"""

from typing import Literal

from pydantic import Field, PositiveInt
from torch import nn

from worker.model.architectures import register
from worker.model.base import ArchitectureConfig, make_head
from worker.model.inverted_residual import Block, Design, InvertedResidualNetwork, rounded
from worker.model.pooling import MaxAndMeanPooling, MelNorm

_STAGES = (
    (1, ((1, 16, 1),)),
    (2, ((6, 24, 2),)),
    (2, ((6, 32, 3),)),
    (2, ((6, 64, 4),)),
    (2, ((6, 96, 3), (6, 160, 3), (6, 320, 1))),
)
"""Of each stage: stride, and of successive blocks: expansion, output channels, number."""

_STEM, _LAST, _EMBEDDING = 32, 1_280, 1_024  # channels; features


class MobileNetV2Config(ArchitectureConfig):
    """Everything needed to build the network except its weights."""

    type: Literal["mobilenet-v2"] = "mobilenet-v2"
    mels: PositiveInt = 64  # rows of the spectrogram, which are normalised one by one
    width: float = Field(default=1.0, gt=0, le=4)  # factor of the channels of every layer

    @property
    def title(self) -> str:
        return "MobileNetV2"

    @property
    def summary(self) -> str:
        width = "" if self.width == 1 else f" of {self.width:g} × the channels"
        return f"MobileNetV2{width}, 17 inverted residual blocks"

    def design(self) -> Design:
        inputs = stem = rounded(_STEM * self.width)
        stages: list[tuple[int, tuple[Block, ...]]] = []
        for stride, groups in _STAGES:
            blocks: list[Block] = []
            for expansion, full, count in groups:
                outputs = rounded(full * self.width)
                for _ in range(count):
                    blocks.append(Block(outputs, expansion * inputs, activation=nn.ReLU6))
                    inputs = outputs
            stages.append((stride, tuple(blocks)))
        return Design(
            stem=stem,
            stages=tuple(stages),
            last=rounded(_LAST * self.width),
            activation=nn.ReLU6,
            epsilon=1e-5,
            pooled_strides=True,
        )

    @property
    def embedding(self) -> int:
        """Number of features."""
        return rounded(_EMBEDDING * self.width)


@register(MobileNetV2Config)
class MobileNetV2(InvertedResidualNetwork):
    """Takes 32 frames or more."""

    def __init__(self, config: MobileNetV2Config) -> None:
        super().__init__()
        self.config = config
        self.norm = MelNorm(config.mels)
        self.build(config.design())
        self.pooling = MaxAndMeanPooling(self.design.last, config.embedding)
        self.head = make_head(config.embedding, config)
