"""A larger residual CNN that starts as the function of a trained one (Net2Net: Chen et al., 2015, arXiv:1511.05641).

A large network takes long to learn from random weights what a small one knows already.
"""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from training.errors import RunError
from worker.model.architectures.resnet import ResidualBlock, ResidualCNN, ResNetConfig
from worker.model.base import Network

NOISE = 0.1
"""Standard deviation of the noise on copied weights, relative to theirs: copies that are equal would learn the same."""


def grow(network: Network, trained: Network, noise: float = NOISE) -> None:
    """Give the trunk of `network`, which has random weights, the function of the trunk of `trained`, but for the noise.

    A channel beyond those of `trained` is a copy of one of them, and what reads both divides its weight between them at
    random. A block beyond those of a stage adds zero to its input at first. Raises RunError unless both are residual
    CNNs that differ in depths and widths alone, of which `network` has no smaller ones.
    """
    if not (
        isinstance(network, ResidualCNN)
        and isinstance(trained, ResidualCNN)
        and _may_grow(trained.config, network.config)
    ):
        raise RunError(
            "start.grow needs a recipe and a --from with residual CNNs that differ in depths and widths alone, of which"
            " the recipe has no smaller ones, without squeeze-and-excitation, feature pyramid and plain blocks"
        )
    with torch.no_grad():
        if network.stem is not None and trained.stem is not None:
            _widen(network.stem, trained.stem, noise)
        for stage, trained_stage in zip(network.stages, trained.stages, strict=True):
            blocks, trained_blocks = list(stage.children()), list(trained_stage.children())
            for block, source in zip(blocks, trained_blocks, strict=False):
                _widen(block, source, noise)
            for block in cast("list[ResidualBlock]", blocks[len(trained_blocks) :]):
                nn.init.zeros_(block.conv2.get_parameter("1.weight"))


def _may_grow(small: ResNetConfig, large: ResNetConfig) -> bool:
    free = {"depths", "widths", "classes", "head", "dropout"}
    if small.model_dump(exclude=free) != large.model_dump(exclude=free) or len(small.depths) != len(large.depths):
        return False
    if small.block != "residual" or small.squeeze_excitation or small.feature_pyramid:
        return False
    sizes = zip((*small.depths, *small.widths), (*large.depths, *large.widths), strict=True)
    # A stage of another width than the one before has a convolution as its shortcut.
    shortcuts = [[width != before for before, width in pairwise(config.widths)] for config in (small, large)]
    return all(before <= after for before, after in sizes) and shortcuts[0] == shortcuts[1]


def _widen(module: nn.Module, source: nn.Module, noise: float) -> None:
    """Copy the convolutions and normalisations of `source` into a module of the same layers with more channels."""
    for layer, copied in zip(module.modules(), source.modules(), strict=True):
        if isinstance(layer, nn.Conv2d) and isinstance(copied, nn.Conv2d):
            layer.weight.copy_(_widened(copied.weight, layer.out_channels, layer.in_channels, noise))
        elif isinstance(layer, nn.BatchNorm2d) and isinstance(copied, nn.BatchNorm2d):
            channels = _copied(layer.num_features, copied.num_features)
            state = copied.state_dict()
            layer.load_state_dict({name: value[channels] if value.ndim else value for name, value in state.items()})


def _copied(count: int, trained: int) -> Tensor:
    """Which of the `trained` channels each of `count` channels is a copy of: (count,)."""
    return torch.arange(count) % trained


def _widened(weight: Tensor, outputs: int, inputs: int, noise: float) -> Tensor:
    """Weights of a convolution (outputs, inputs, height, width) from trained ones with fewer outputs and inputs."""
    sources = _copied(inputs, weight.shape[1])
    share = torch.rand(inputs) + 0.5
    share = share / torch.zeros(weight.shape[1]).index_add_(0, sources, share)[sources]  # 1 in all for each source
    wide = weight[_copied(outputs, weight.shape[0])][:, sources] * share[:, None, None]
    return wide + torch.randn_like(wide) * wide.std() * noise
