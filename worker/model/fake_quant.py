"""8-bit quantisation of convolutions, simulated in PyTorch for compilers that run it with integers.

Inputs and weights are rounded to 256 levels and computed with in floating point as before (fake quantisation, Jacob et
al., 2018, arXiv:1712.05877). PyTorch is slow at that; a compiler that finds the rounding in the graph uses 8-bit
integer arithmetic instead. The range of a convolution's input is measured once on training clips (`otoscope quantise`)
and stored in the model's config. Weights have one scale per output channel, from their own largest value.

The first convolution is not quantised: it is small, and its input is the spectrogram. Nor are depthwise ones: they have
a few percent of the multiplications of a separable convolution, and the ranges of their channels differ too much for
one scale (Sheng et al., 2018, arXiv:1803.08607).
"""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from worker.model.base import Network

Ranges = Mapping[str, tuple[float, float]]
"""Name of a convolution -> lowest and highest value of its input."""


def convolutions(network: Network) -> Iterator[tuple[str, nn.Conv2d]]:
    """The convolutions that are quantised, with their names in the network, in the order of their definition."""
    # Subclasses are left out: they pad in their own way.
    found = [(name, part) for name, part in network.named_modules() if type(part) is nn.Conv2d]
    yield from ((name, part) for name, part in found[1:] if part.groups == 1)


def quantised(network: Network, ranges: Ranges) -> Network:
    """A copy with rounding. Raises ValueError if the ranges are not those of its convolutions."""
    rounding = copy.deepcopy(network)
    found = dict(convolutions(rounding))
    if set(found) != set(ranges):
        raise ValueError(f"the ranges belong to other convolutions: {sorted(set(found) ^ set(ranges))[:3]} …")
    for name, convolution in found.items():
        owner, _, own = name.rpartition(".")
        setattr(rounding.get_submodule(owner), own, _FakeQuantConv2d(convolution, *ranges[name]))
    return rounding


class _FakeQuantConv2d(nn.Module):
    """A convolution with rounded input and weights."""

    def __init__(self, convolution: nn.Conv2d, low: float, high: float) -> None:
        super().__init__()
        self.convolution = convolution
        # The output of a ReLU needs no sign bit, which doubles its resolution.
        self.levels = (0, 255) if low >= 0 else (-128, 127)
        self.scale = max(abs(low), high, 1e-6) / self.levels[1]
        with torch.no_grad():
            weight = convolution.weight  # (output channels, input channels, height, width)
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
