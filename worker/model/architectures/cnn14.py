"""CNN14 (`type: cnn14`): six blocks of two 3×3 convolutions each, with average pooling between them (Kong et al., 2020,
"PANNs", arXiv:1912.10211), as in https://github.com/qiuqiangkong/audioset_tagging_cnn.

Each mel row is normalised first, with statistics of its own. The embedding is the output of a linear layer behind the
pooling, as in PANNs: so it belongs to the trunk, and not to the head.
"""

from collections.abc import Collection
from typing import Literal, cast

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from worker.model.architectures import register
from worker.model.base import ActivationHook, ArchitectureConfig, Network, Node, make_head, no_hook, receptive_field
from worker.model.pooling import MaxAndMeanPooling, MelNorm

_STAGES = 6
_BLOCKS = tuple(
    (f"layer{stage}", f"layer{stage}.block{block}", 2 if block == 2 and stage < _STAGES else 1)
    for stage in range(1, _STAGES + 1)
    for block in (1, 2)
)
"""Stage, name and pooling of each convolution, in the order of computation."""

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
        self.stages = nn.ModuleList()
        channels = 1
        for stage in range(_STAGES):
            width = config.width * 2**stage
            pool = 2 if stage < _STAGES - 1 else 1
            self.stages.append(nn.ModuleList((_convolution(channels, width, 1), _convolution(width, width, pool))))
            channels = width
        self.pooling = MaxAndMeanPooling(channels, channels)
        self.head = make_head(channels, config)

    def forward(self, x: Tensor, hook: ActivationHook | None = None, expanded_blocks: Collection[str] = ()) -> Tensor:
        report: ActivationHook = hook or no_hook
        x = self.norm(x)
        for number, blocks in enumerate(self.stages, start=1):
            for index, block in enumerate(cast(nn.ModuleList, blocks), start=1):
                x = block(x)  # in the end (batch, 32 × width, mels / 32, frames / 32)
                report(f"layer{number}.block{index}", x)
            report(f"layer{number}", x)
            x = functional.dropout(x, _DROPOUT, self.training)
        return self.classified([x], report)

    def structure(self) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        path: list[tuple[int, int, int]] = []
        before: tuple[str, ...] = ()
        for stage, name, pool in _BLOCKS:
            path += [(3, 1, 1), (pool, pool, 0)]
            nodes[name] = Node("plain", before, receptive_field(path))
            before = (name,)
            if name.endswith(".block2"):
                nodes[stage] = Node("stage", before, receptive_field(path))
                before = (stage,)
        return nodes

    def pool(self, levels: list[Tensor]) -> Tensor:
        pooled: Tensor = self.pooling(levels[-1])
        return pooled

    @property
    def pooled_layers(self) -> tuple[str, ...]:
        return (f"layer{_STAGES}",)

    def trunk(self) -> list[nn.Module]:
        return [self.norm, *self.stages, self.pooling]


def _convolution(inputs: int, outputs: int, pool: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    parts: list[nn.Module] = [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    if pool > 1:
        parts.append(nn.AvgPool2d(pool))
    return nn.Sequential(*parts)
