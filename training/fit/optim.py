"""What moves the weights and what is kept of them: optimizer, schedule, average."""

from typing import Any

from torch import optim

from training.recipe import OptimRecipe, TransferRecipe
from worker.model.base import Network


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


def unfreeze(network: Network, epoch: int, recipe: TransferRecipe) -> int:
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
