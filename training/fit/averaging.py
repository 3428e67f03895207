"""Averages of the weights over the course of training: EMA and SWA."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from training.recipe import OptimRecipe

Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """The running average of the weights by the recipe, which is what is measured and saved."""

    def __init__(self, network: nn.Module, recipe: OptimRecipe) -> None:
        self._network, self._recipe = network, recipe
        self._averaged = AveragedModel(network, multi_avg_fn=self._update, use_buffers=True)

    @torch.no_grad()
    def _update(self, averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        """By 1 / n at first, which is the plain mean; as EMA never by less than its decay leaves. An EMA that starts
        from the initial weights would carry them along for thousands of steps."""
        weight = 1.0 / (int(count) + 1)
        if self._recipe.average == "ema":
            weight = max(weight, 1.0 - self._recipe.ema_decay)
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, weight)
        else:  # the number of batches seen
            torch._foreach_copy_(averages, values)

    @property
    def module(self) -> nn.Module:
        """The network to use. Before anything has been averaged, the network as it is."""
        started = self._recipe.average != "none" and int(self._averaged.n_averaged) > 0
        return self._averaged.module if started else self._network

    def after_step(self) -> None:
        if self._recipe.average == "ema":
            self._averaged.update_parameters(self._network)

    def after_epoch(self, epoch: int) -> None:
        """`epoch` counts from 1."""
        if self._recipe.average == "swa" and epoch > self._recipe.epochs * (1 - self._recipe.swa_share):
            self._averaged.update_parameters(self._network)

    def state_dict(self) -> dict[str, Any]:
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._averaged.load_state_dict(state)
