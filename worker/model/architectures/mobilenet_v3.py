"""MobileNetV3-Large (`type: mobilenet-v3`; Howard et al., 2019, arXiv:1905.02244) as in EfficientAT (Schmid et al.,
2023, arXiv:2211.04772, https://github.com/fschmid56/EfficientAT): one input channel, sigmoid gates.

The embedding is the output of the linear layer behind the pooling: so it belongs to the trunk, and not to the head.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from worker.model.architectures import register
from worker.model.base import ArchitectureConfig, make_head
from worker.model.inverted_residual import Block, Design, InvertedResidualNetwork, rounded

_STAGES: tuple[tuple[int, type[nn.Module], tuple[tuple[int, int, int, bool], ...]], ...] = (
    (1, nn.ReLU, ((3, 16, 16, False),)),
    (2, nn.ReLU, ((3, 64, 24, False), (3, 72, 24, False))),
    (2, nn.ReLU, ((5, 72, 40, True), (5, 120, 40, True), (5, 120, 40, True))),
    (
        2,
        nn.Hardswish,
        (
            *((3, 240, 80, False), (3, 200, 80, False), (3, 184, 80, False), (3, 184, 80, False)),
            *((3, 480, 112, True), (3, 672, 112, True)),
        ),
    ),
    (2, nn.Hardswish, ((5, 672, 160, True), (5, 960, 160, True), (5, 960, 160, True))),
)
"""Of each stage: stride, activation and blocks; of each block: kernel, channels of the depthwise convolution, channels
of the output, and whether it has gates."""

_STEM, _LAST, _EMBEDDING = 16, 6, 1_280  # channels; factor of those of the last block; features


class MobileNetV3Config(ArchitectureConfig):
    """Everything needed to build the network except its weights."""

    type: Literal["mobilenet-v3"] = "mobilenet-v3"
    dropout: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.2,)  # one before each linear layer of the head
    width: float = Field(default=1.0, gt=0, le=4)  # factor of the channels of every layer

    @property
    def title(self) -> str:
        return "MobileNetV3"

    @property
    def summary(self) -> str:
        width = "" if self.width == 1 else f" of {self.width:g} × the channels"
        return f"MobileNetV3-Large{width}, 15 inverted residual blocks"

    def design(self) -> Design:
        def channels(full: int) -> int:
            return rounded(full * self.width)

        def block(kernel: int, expanded: int, outputs: int, gated: bool, activation: type[nn.Module]) -> Block:
            wide = channels(expanded)
            return Block(channels(outputs), wide, kernel, rounded(wide // 4) if gated else 0, activation)

        return Design(
            stem=channels(_STEM),
            stages=tuple(
                (stride, tuple(block(*each, activation) for each in blocks)) for stride, activation, blocks in _STAGES
            ),
            last=_LAST * channels(_STAGES[-1][2][-1][2]),
            activation=nn.Hardswish,
            epsilon=1e-3,
            pooled_strides=False,
        )

    @property
    def embedding(self) -> int:
        """Number of features."""
        return rounded(_EMBEDDING * self.width)


class MeanPooling(nn.Module):
    """(batch, channels, height, frames) -> embedding (batch, outputs): a linear layer on the mean, with activation."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.hardswish(self.linear(x.mean(dim=(2, 3))))


@register(MobileNetV3Config)
class MobileNetV3(InvertedResidualNetwork):
    """Takes 32 frames or more."""

    def __init__(self, config: MobileNetV3Config) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.Identity()
        self.build(config.design())
        self.pooling = MeanPooling(self.design.last, config.embedding)
        self.head = make_head(config.embedding, config)
