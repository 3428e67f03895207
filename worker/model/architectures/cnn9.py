"""CNN9 (`type: cnn9`): four blocks of two 3×3 convolutions each, with maximum pooling behind the first three, as in the
baselines of DCASE (Kong et al., 2018, arXiv:1808.00773) and in aiSFX (Ma & Lerch, 2022, ISMIR), whose weights
`otoscope models add aisfx` converts.

aiSFX was trained on log10(1 + 10⁴ p) of the mean power p of the FFT bins of a mel band, with windows of 46 ms every
23 ms. Here the network gets what YAMNet gets, natural logarithms of mel magnitudes with windows of 25 ms every 10 ms,
so that both can share a front end. The first layer turns them into mean powers over 20 ms; the mel bands of the two
are equally wide.
"""

from collections.abc import Collection
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from worker.model.architectures import register
from worker.model.base import ActivationHook, ArchitectureConfig, Network, Node, make_head, no_hook
from worker.model.paired_convolutions import PairedConvolutions

_STAGES = 4


class Cnn9Config(ArchitectureConfig):
    """Everything needed to build the network except its weights."""

    type: Literal["cnn9"] = "cnn9"
    width: PositiveInt = 64  # channels of the first block; each other one has twice as many as the one before
    mels: PositiveInt = 64  # rows of the spectrogram
    log_offset: float = Field(default=1e-3, ge=0)  # of the front end
    pooled_frames: PositiveInt = 2  # frames of the spectrogram whose mean is a column of the first block

    def fine_tuned_as(self, wanted: ArchitectureConfig) -> ArchitectureConfig:
        """With its head and its dropout."""
        if not isinstance(wanted, Cnn9Config):
            return self
        return self.model_copy(update={"head": wanted.head, "dropout": wanted.dropout})

    @property
    def title(self) -> str:
        return "CNN9"

    @property
    def summary(self) -> str:
        width = "" if self.width == 64 else f", {self.width} channels in the first block"
        return f"CNN9: four blocks of two 3×3 convolutions{width}"


@register(Cnn9Config)
class Cnn9(Network):
    """Takes 8 columns of the first block or more."""

    def __init__(self, config: Cnn9Config) -> None:
        super().__init__()
        self.config = config
        self.input = MelPower(config)
        self.stages = PairedConvolutions(_STAGES, config.width, nn.MaxPool2d)
        self.head = make_head(self.stages.outputs, config)

    def forward(self, x: Tensor, hook: ActivationHook | None = None, expanded_blocks: Collection[str] = ()) -> Tensor:
        report: ActivationHook = hook or no_hook
        x = self.stages(self.input(x), report)  # (batch, 8 × width, mels / 8, columns / 8)
        return self.classified([x], report)

    def structure(self) -> dict[str, Node]:
        return self.stages.structure(self.config.pooled_frames)

    def pool(self, levels: list[Tensor]) -> Tensor:
        """The maximum over time of the mean over the frequencies."""
        return levels[-1].mean(dim=2).amax(dim=2)

    @property
    def pooled_layers(self) -> tuple[str, ...]:
        return (f"layer{_STAGES}",)

    def trunk(self) -> list[nn.Module]:
        return [*self.stages]


class MelPower(nn.Module):
    """Natural logarithms of mel magnitudes (batch, 1, mels, frames) -> what aiSFX was trained on, (batch, 1, mels,
    columns)."""

    scale: Tensor
    """(mels,): the power per square of a mel magnitude, times 10⁴. It is kept with the weights."""

    def __init__(self, config: Cnn9Config) -> None:
        super().__init__()
        self._offset, self._frames = config.log_offset, config.pooled_frames
        self.register_buffer("scale", torch.ones(config.mels))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 has too few digits for an exponential
            magnitudes = (x.float().exp() - self._offset).clamp_min(0.0)
            power = nn.functional.avg_pool2d(magnitudes.square() * self.scale[:, None], (1, self._frames))
            return torch.log10(1 + power) / _LARGEST


_LARGEST = 9.457798957824707
"""By which aiSFX divides its features: the largest one of its training data."""
