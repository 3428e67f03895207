"""The residual CNN (`type: resnet`): stem, stages of residual blocks, a pooled head. Squeeze-and-excitation, a feature
pyramid and plain blocks are options of the same network."""

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from otoscope.types import LayerKind
from worker.model.architectures import register
from worker.model.base import (
    ActivationHook,
    ArchitectureConfig,
    Network,
    Node,
    make_head,
    no_hook,
    receptive_field,
)
from worker.model.squeeze_excitation import SqueezeExcitation


class ResNetConfig(ArchitectureConfig):
    """Everything needed to build the network except its weights."""

    type: Literal["resnet"] = "resnet"
    stem: bool = True  # a 7×7 convolution and pooling first, which leave a quarter of mels and of frames
    block: Literal["residual", "plain"] = "residual"
    depths: tuple[Annotated[int, Field(ge=1, le=200)], ...] = Field((3, 4, 6, 3), max_length=64)  # blocks per stage
    widths: tuple[PositiveInt, ...] = (64, 128, 256, 512)  # channels per stage
    squeeze_excitation: bool = False
    se_reduction: PositiveInt = 16
    feature_pyramid: bool = False
    pyramid_width: PositiveInt = 256

    def model_post_init(self, _context: object) -> None:
        if not self.depths or len(self.depths) != len(self.widths):
            raise ValueError(f"{len(self.depths)} depths for {len(self.widths)} widths")
        super().model_post_init(_context)

    @property
    def title(self) -> str:
        return "Residual CNN" if self.block == "residual" else "CNN"

    @property
    def summary(self) -> str:
        kind = "residual CNN" if self.block == "residual" else "CNN"
        stages = ", ".join(f"{depth} × {width}" for depth, width in zip(self.depths, self.widths, strict=True))
        extras = [", squeeze-and-excitation"] * self.squeeze_excitation + [", feature pyramid"] * self.feature_pyramid
        return f"{kind}, blocks × channels {stages}{''.join(extras)}"


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions whose output is added to their input (He et al., 2015, arXiv:1512.03385).

    A hook gets the two terms of the sum as `<name>.residual` and `<name>.shortcut`.
    """

    kind: ClassVar[LayerKind] = "residual"

    def __init__(self, inputs: int, outputs: int, stride: int, se_reduction: int | None) -> None:
        super().__init__()
        self.conv1 = _conv_bn(inputs, outputs, 3, stride)
        self.conv2 = _conv_bn(outputs, outputs, 3)
        self.se = SqueezeExcitation(outputs, max(outputs // se_reduction, 4)) if se_reduction else nn.Identity()
        same_shape = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same_shape else _conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor, hook: ActivationHook | None = None, name: str = "") -> Tensor:
        residual = self.se(self.conv2(functional.relu(self.conv1(x), inplace=True)))
        shortcut = self.shortcut(x)
        if hook is not None:
            hook(f"{name}.residual", residual)
            hook(f"{name}.shortcut", shortcut)
        return functional.relu(residual + shortcut, inplace=True)

    @property
    def path(self) -> list[tuple[int, int, int]]:
        return [*_windows(self.conv1), *_windows(self.conv2)]


class PlainBlock(nn.Module):
    """One 3×3 convolution; where a residual block would have a stride of 2, max pooling of 2×2 comes first."""

    kind: ClassVar[LayerKind] = "plain"

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.conv = _conv_bn(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(self.pool(x)), inplace=True)

    @property
    def path(self) -> list[tuple[int, int, int]]:
        return [*_windows(self.pool), *_windows(self.conv)]


class FeaturePyramid(nn.Module):
    """Top-down sum over the stages (Lin et al., 2017, arXiv:1612.03144); the pooled levels are concatenated.

    A coarse level is resized to the exact size of the next finer one, since odd sizes are not half of each other.
    """

    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(w, width, 1) for w in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in widths)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """(batch, width, height, frames) of each stage -> (batch, levels × width)."""
        top: Tensor | None = None
        pooled: list[Tensor] = []
        for level in reversed(range(len(stages))):
            here = self.lateral[level](stages[level])  # (batch, width, height, frames)
            if top is not None:
                here = here + functional.interpolate(top, size=here.shape[2:], mode="nearest")
            top = here
            pooled.insert(0, self.smooth[level](here).mean(dim=(2, 3)))  # (batch, width)
        return torch.cat(pooled, dim=1)  # (batch, levels × width)


@register(ResNetConfig)
class ResidualCNN(Network):
    """Takes any number of frames; use 32 or more."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        inputs = 1
        self.stem: nn.Sequential | None = None
        if config.stem:
            inputs = config.widths[0]
            pool = nn.MaxPool2d(3, stride=2, padding=1)
            self.stem = nn.Sequential(_conv_bn(1, inputs, 7, 2), nn.ReLU(inplace=True), pool)

        self.stages = nn.ModuleList()
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            blocks = nn.ModuleList()
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(_block(config, inputs, width, stride))
                inputs = width
            self.stages.append(blocks)

        self.pyramid = FeaturePyramid(config.widths, config.pyramid_width) if config.feature_pyramid else None
        pooled = config.pyramid_width * len(config.widths) if self.pyramid else config.widths[-1]

        self.head = make_head(pooled, config)

    def forward(self, x: Tensor, hook: ActivationHook | None = None, expanded_blocks: Collection[str] = ()) -> Tensor:
        report: ActivationHook = hook or no_hook
        if self.stem is not None:
            x = self.stem(x)  # (batch, width, mels / 4, frames / 4)
            report("stem", x)
        levels: list[Tensor] = []
        for number, blocks in enumerate(self.stages, start=1):
            for index, block in enumerate(cast(nn.ModuleList, blocks), start=1):
                name = f"layer{number}.block{index}"
                x = block(x, report, name) if name in expanded_blocks else block(x)
                report(name, x)
            report(f"layer{number}", x)
            levels.append(x)
        return self.classified(levels, report)

    def structure(self) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        path: list[tuple[int, int, int]] = []
        before: tuple[str, ...] = ()
        if self.stem is not None:
            path += _windows(self.stem)
            nodes["stem"] = Node("stem", before, receptive_field(path))
            before = ("stem",)
        for number, blocks in enumerate(self.stages, start=1):
            for index, block in enumerate(cast("list[ResidualBlock | PlainBlock]", blocks), start=1):
                path += block.path
                nodes[f"layer{number}.block{index}"] = Node(block.kind, before, receptive_field(path))
                before = (f"layer{number}.block{index}",)
            nodes[f"layer{number}"] = Node("stage", before, receptive_field(path))
            before = (f"layer{number}",)
        return nodes

    def pool(self, levels: list[Tensor]) -> Tensor:
        pooled: Tensor = self.pyramid(levels) if self.pyramid else levels[-1].mean(dim=(2, 3))
        return pooled

    @property
    def pooled_layers(self) -> tuple[str, ...]:
        return tuple(f"layer{stage}" for stage in range(1, len(self.stages) + 1))

    def trunk(self) -> list[nn.Module]:
        parts = [self.stem, *self.stages, self.pyramid]
        return [part for part in parts if part is not None]


def _windows(module: nn.Module) -> list[tuple[int, int, int]]:
    """(size, stride, padding) of each square kernel that slides over a module's input, first to last."""
    sliding = [part for part in module.modules() if isinstance(part, (nn.Conv2d, nn.MaxPool2d))]
    return [(_side(part.kernel_size), _side(part.stride), _side(part.padding)) for part in sliding]


def _side(square: int | str | tuple[int, ...]) -> int:
    """One side of a square: torch accepts one number or a pair."""
    return int(square[0] if isinstance(square, tuple) else square)


def _block(config: ResNetConfig, inputs: int, outputs: int, stride: int) -> nn.Module:
    if config.block == "plain":
        return PlainBlock(inputs, outputs, stride)
    return ResidualBlock(inputs, outputs, stride, config.se_reduction if config.squeeze_excitation else None)
