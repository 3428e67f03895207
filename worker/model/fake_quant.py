"""A network whose convolutions take and multiply whole numbers of 8 bits, for the compilers that know how.

Here it is only marked: inputs and weights are rounded to 256 levels and computed with as before, which PyTorch does
slowly and a compiler that sees the rounding does with real integers. What the levels of an input stand for, its range,
is measured once on training clips (`otoscope quantise`) and travels in the model's config; weights have a scale a
channel, from their own largest value. The first convolution stays as it is: it is small, and sees the spectrogram.
"""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from worker.model.base import Network

Ranges = Mapping[str, tuple[float, float]]
"""Name of a convolution -> lowest and highest value of what it is given."""


def convolutions(network: Network) -> Iterator[tuple[str, nn.Conv2d]]:
    """Those that are worth 8 bits, under their names in the network, in the order of their definition."""
    found = [(name, part) for name, part in network.named_modules() if type(part) is nn.Conv2d]  # kinds of it pad anew
    yield from found[1:]


def quantised(network: Network, ranges: Ranges) -> Network:
    """A copy that rounds. Raises ValueError where the ranges are not those of its convolutions."""
    rounding = copy.deepcopy(network)
    found = dict(convolutions(rounding))
    if set(found) != set(ranges):
        raise ValueError(f"the ranges are of other convolutions: {sorted(set(found) ^ set(ranges))[:3]} …")
    for name, convolution in found.items():
        owner, _, own = name.rpartition(".")
        setattr(rounding.get_submodule(owner), own, _Rounded(convolution, *ranges[name]))
    return rounding


class _Rounded(nn.Module):
    """A convolution between rounded numbers."""

    def __init__(self, convolution: nn.Conv2d, low: float, high: float) -> None:
        super().__init__()
        self.convolution = convolution
        # What a ReLU gave needs no sign, and keeps a bit more for it.
        self.levels = (0, 255) if low >= 0 else (-128, 127)
        self.scale = max(abs(low), high, 1e-6) / self.levels[1]
        with torch.no_grad():
            weight = convolution.weight
            scales = weight.abs().amax(dim=(1, 2, 3)).clamp_min(1e-8) / 127  # (output channels,)
            zero = torch.zeros_like(scales, dtype=torch.int32)
        self.scales: Tensor
        self.zero: Tensor
        self.register_buffer("scales", scales)
        self.register_buffer("zero", zero)

    def forward(self, x: Tensor) -> Tensor:
        of = self.convolution
        x = torch.fake_quantize_per_tensor_affine(x, self.scale, 0, *self.levels)
        weight = torch.fake_quantize_per_channel_affine(of.weight, self.scales, self.zero, 0, -128, 127)
        return nn.functional.conv2d(x, weight, of.bias, of.stride, of.padding, of.dilation, of.groups)
