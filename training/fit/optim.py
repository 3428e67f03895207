"""What moves the weights and what is kept of them: optimizer, schedule, average."""

import math
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel

from training.recipe import OptimRecipe, StartRecipe
from worker.model.base import Network

Tensors = tuple[Tensor, ...] | list[Tensor]

_ONE_CYCLE_START = 0.04  # of max_lr
_ONE_CYCLE_MOMENTUM = 0.05  # by which momentum moves against the learning rate


def make_optimizer(network: Network, recipe: OptimRecipe, lr_decay: float = 1.0) -> optim.Optimizer:
    """Weight decay on matrices alone: biases and normalisation are left free. Each part of the network learns at
    `lr_decay` of the rate of the part after it (Howard & Ruder, 2018)."""
    groups: list[dict[str, Any]] = []
    for depth, part in enumerate([network.head, *reversed(network.trunk())]):
        matrices = [p for p in part.parameters() if p.ndim > 1]
        vectors = [p for p in part.parameters() if p.ndim <= 1]
        for members, decay in ((matrices, recipe.weight_decay), (vectors, 0.0)):
            if members:
                groups.append({"params": members, "weight_decay": decay, "share": lr_decay**depth})
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return optim.SGD(groups, lr=recipe.max_lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    return optim.AdamW(groups, lr=recipe.max_lr, betas=(recipe.momentum, 0.99), fused=True)


def unfreeze(network: Network, epoch: int, recipe: StartRecipe) -> int:
    """Set which parts learn in an epoch (counted from 0); returns how many are frozen, normalisation and all."""
    trunk = network.trunk()
    frozen = 0
    if recipe.head_epochs:
        unfrozen = 0 if epoch < recipe.head_epochs else 1 + (epoch - recipe.head_epochs) // recipe.thaw_epochs
        frozen = max(0, len(trunk) - unfrozen)
    network.train()
    for number, part in enumerate(trunk):
        part.requires_grad_(number >= frozen).train(number >= frozen)
    return frozen


def set_schedule(optimizer: optim.Optimizer, step: int, steps: int, recipe: OptimRecipe) -> float:
    """Set learning rate and momentum for one step of a run of so many; returns the learning rate of the head."""
    rate, momentum = schedule(step, steps, recipe)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
        if recipe.optimizer == "sgd":
            group["momentum"] = momentum
        else:
            group["betas"] = (momentum, group["betas"][1])
    return rate


def schedule(step: int, steps: int, recipe: OptimRecipe) -> tuple[float, float]:
    """Learning rate and momentum at a step.

    `cosine` rises in a straight line and falls as a cosine. `one_cycle` (Smith & Topin, 2018) starts at a twenty-fifth,
    rises and falls as cosines, and moves the momentum the other way.
    """
    rise = max(1, round(steps * recipe.warmup))
    last = recipe.final_lr
    if recipe.schedule == "cosine":
        share = (step + 1) / rise if step < rise else _cosine(1.0, last, (step - rise) / max(1, steps - 1 - rise))
        return recipe.max_lr * share, recipe.momentum
    if step < rise:
        height = _cosine(0.0, 1.0, step / rise)
        share = _ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * height
    else:
        height = _cosine(1.0, 0.0, (step - rise) / max(1, steps - 1 - rise))
        share = last + (1 - last) * height
    momentum = recipe.momentum + _ONE_CYCLE_MOMENTUM * (1 - 2 * height)
    return recipe.max_lr * share, min(max(momentum, 0.0), 0.99)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class Average:
    """The running average of the weights by the recipe, which is what is measured and saved."""

    def __init__(self, network: nn.Module, recipe: OptimRecipe) -> None:
        self._network, self._recipe = network, recipe
        self._averaged = AveragedModel(network, multi_avg_fn=self._move, use_buffers=True)

    @torch.no_grad()
    def _move(self, averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        """By 1 / n at first, which is the plain mean; as EMA never by less than its decay leaves. An EMA that starts
        from the initial weights would carry them along for thousands of steps."""
        share = 1.0 / (int(count) + 1)
        if self._recipe.average == "ema":
            share = max(share, 1.0 - self._recipe.ema_decay)
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, share)
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
