"""Averages of the weights over the course of training: EMA, and SWA (stochastic weight averaging, arXiv:1803.05407)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from training.recipe import OptimRecipe

Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """The average of the weights that the recipe selects; it is what is evaluated and saved."""

    def __init__(self, network: nn.Module, recipe: OptimRecipe) -> None:
        self._network, self._recipe = network, recipe
        self._averaged = AveragedModel(network, multi_avg_fn=self._update, use_buffers=True)

    @torch.no_grad()
    def _update(self, averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        """Move the averages towards the current values with weight 1 / n, the plain mean; for EMA at least by 1 -
        decay.

        An EMA that starts from the initial weights would retain a share of them for thousands of steps.
        """
        weight = 1.0 / (int(count) + 1)
        if self._recipe.average == "ema":
            weight = max(weight, 1.0 - self._recipe.ema_decay)
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, weight)
        else:  # integer buffers: the batch counter of batch normalisation
            torch._foreach_copy_(averages, values)

    @property
    def module(self) -> nn.Module:
        """The network with averaged weights; before the first update, the network itself."""
        started = self._recipe.average != "none" and int(self._averaged.n_averaged) > 0
        return self._averaged.module if started else self._network

    def after_step(self) -> None:
        if self._recipe.average == "ema":
            self._averaged.update_parameters(self._network)

    def after_epoch(self, epoch: int) -> None:
        """`epoch` counts from 1."""
        if self.averages(epoch):
            self._averaged.update_parameters(self._network)

    def averages(self, epoch: int) -> bool:
        """Whether SWA averages the weights after this epoch, which counts from 1."""
        return self._recipe.average == "swa" and epoch > self._recipe.epochs * (1 - self._recipe.swa_share)

    @torch.no_grad()
    def recompute_statistics(self, batches: Iterable[Tensor]) -> None:
        """Recompute the running statistics of batch normalisation from batches of features: those of averaged weights
        are no averages of statistics (arXiv:1803.05407, section 3.2)."""
        network = self.module
        norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        modes, momenta = {module: module.training for module in network.modules()}, [norm.momentum for norm in norms]
        network.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
            norm.train()
        for features in batches:
            network(features)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training

    def state_dict(self) -> dict[str, Any]:
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._averaged.load_state_dict(state)
