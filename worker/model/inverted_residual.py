"""What MobileNetV2 (Sandler et al., 2018, arXiv:1801.04381) and MobileNetV3 (Howard et al., 2019, arXiv:1905.02244)
have in common: a stem, inverted residual blocks in stages of one resolution each, and a 1×1 convolution at the end."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from worker.model.base import ActivationHook, Network, Node, no_hook, receptive_field
from worker.model.squeeze_excitation import SqueezeExcitation


@dataclass(frozen=True)
class Block:
    """One inverted residual block. Its stride is that of its stage if it is the first one there."""

    outputs: int  # channels
    expanded: int  # channels of the depthwise convolution
    kernel: int = 3  # of the depthwise convolution
    gates: int = 0  # hidden width of squeeze-and-excitation; 0: none
    activation: type[nn.Module] = nn.ReLU


@dataclass(frozen=True)
class Design:
    """The convolutions of a network."""

    stem: int  # channels
    stages: tuple[tuple[int, tuple[Block, ...]], ...]  # stride and blocks of each
    last: int  # channels of the 1×1 convolution
    activation: type[nn.Module]  # of stem and 1×1 convolution
    epsilon: float  # of batch normalisation
    pooled_strides: bool  # strides are average pooling behind a convolution instead of steps of it

    def convolution(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        activation: type[nn.Module] | None,
        stride: int = 1,
        groups: int = 1,
    ) -> nn.Sequential:
        """With batch normalisation and, unless it is None, activation."""
        steps = 1 if self.pooled_strides else stride
        conv = nn.Conv2d(inputs, outputs, kernel, steps, padding=kernel // 2, groups=groups, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out" if groups == 1 else "fan_in", nonlinearity="relu")
        parts: list[nn.Module] = [conv]
        if steps < stride:
            parts.append(nn.AvgPool2d(stride))
        parts.append(nn.BatchNorm2d(outputs, eps=self.epsilon))
        if activation is not None:
            parts.append(activation())
        return nn.Sequential(*parts)

    def blocks(self) -> Iterator[tuple[str, Block, int, int]]:
        """Name, block, stride and input channels of each inverted residual block, in the order of computation."""
        inputs = self.stem
        for stage, (stride, blocks) in enumerate(self.stages):
            for index, block in enumerate(blocks):
                yield f"stages.{stage}.{index}", block, stride if index == 0 else 1, inputs
                inputs = block.outputs

    @property
    def last_name(self) -> str:
        """The name of the 1×1 convolution at the end."""
        return f"stages.{len(self.stages) - 1}.{len(self.stages[-1][1])}"

    def path(self, kernel: int, stride: int) -> list[tuple[int, int, int]]:
        """(size, stride, padding) of the windows of a convolution."""
        if self.pooled_strides:
            return [(kernel, 1, kernel // 2), (stride, stride, 0)]
        return [(kernel, stride, kernel // 2)]


class InvertedResidual(nn.Module):
    """A 1×1 convolution that widens, a depthwise convolution, and a 1×1 convolution without activation that narrows;
    the input is added if it has the same shape."""

    def __init__(self, design: Design, inputs: int, block: Block, stride: int) -> None:
        super().__init__()
        wide, activation = block.expanded, block.activation
        self.expand = nn.Identity() if wide == inputs else design.convolution(inputs, wide, 1, activation)
        self.depthwise = design.convolution(wide, wide, block.kernel, activation, stride, groups=wide)
        self.gates = SqueezeExcitation(wide, block.gates) if block.gates else nn.Identity()
        self.project = design.convolution(wide, block.outputs, 1, None)
        self._adds_input = stride == 1 and inputs == block.outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.gates(self.depthwise(self.expand(x))))
        return x + y if self._adds_input else y


class InvertedResidualNetwork(Network):
    """The convolutions, `norm` before them and `pooling` behind them. The 1×1 convolution is the last block of the last
    stage. Takes 32 frames or more."""

    design: Design
    norm: nn.Module  # (batch, 1, mels, frames) -> the same shape
    pooling: nn.Module  # (batch, channels, height, frames) -> embedding (batch, features)

    def build(self, design: Design) -> None:
        """Make stem and stages."""
        self.design = design
        self.stem = design.convolution(1, design.stem, 3, design.activation, stride=2)
        self.stages = nn.ModuleList()
        channels = design.stem
        for stride, blocks in design.stages:
            stage = nn.ModuleList()
            for index, block in enumerate(blocks):
                stage.append(InvertedResidual(design, channels, block, stride if index == 0 else 1))
                channels = block.outputs
            self.stages.append(stage)
        cast(nn.ModuleList, self.stages[-1]).append(design.convolution(channels, design.last, 1, design.activation))

    def forward(self, x: Tensor, hook: ActivationHook | None = None, expanded_blocks: Collection[str] = ()) -> Tensor:
        report: ActivationHook = hook or no_hook
        x = self.stem(self.norm(x))  # (batch, width, mels / 2, frames / 2)
        report("stem", x)
        for number, blocks in enumerate(self.stages, start=1):
            for index, block in enumerate(cast(nn.ModuleList, blocks), start=1):
                x = block(x)  # in the end (batch, width, mels / 32, frames / 32)
                report(f"layer{number}.block{index}", x)
            report(f"layer{number}", x)
        return self.classified([x], report)

    def structure(self) -> dict[str, Node]:
        """Blocks that add their input are `plain`, too: nothing follows the sum."""
        design = self.design
        path = design.path(3, 2)
        nodes = {"stem": Node("stem", (), receptive_field(path))}
        before = "stem"
        for number, (stride, blocks) in enumerate(design.stages, start=1):
            kernels = [block.kernel for block in blocks] + [1] * (number == len(design.stages))
            for index, kernel in enumerate(kernels, start=1):
                path += design.path(kernel, stride if index == 1 else 1)
                name = f"layer{number}.block{index}"
                nodes[name] = Node("plain", (before,), receptive_field(path))
                before = name
            nodes[f"layer{number}"] = Node("stage", (before,), receptive_field(path))
            before = f"layer{number}"
        return nodes

    def pool(self, levels: list[Tensor]) -> Tensor:
        pooled: Tensor = self.pooling(levels[-1])
        return pooled

    @property
    def pooled_layers(self) -> tuple[str, ...]:
        return (f"layer{len(self.stages)}",)

    def trunk(self) -> list[nn.Module]:
        parts = [self.norm, self.stem, *self.stages, self.pooling]
        return [part for part in parts if next(part.parameters(), None) is not None]


def rounded(channels: float) -> int:
    """The nearest multiple of 8, and at least 8; the next one where that is more than a tenth less."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
