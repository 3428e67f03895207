"""Optimizer parameter groups and gradual unfreezing."""

from typing import Any

from torch import optim

from training.fit.parts import find_optimizer
from training.recipe import OptimRecipe, TransferRecipe
from worker.model.base import Network


def make_optimizer(network: Network, recipe: OptimRecipe, lr_decay: float = 1.0) -> optim.Optimizer:
    """The optimizer of the recipe. Raises RecipeError for an unknown one.

    Weight decay applies to weight matrices only, not to biases and normalisation parameters. Each stage of the network
    has `lr_decay` times the learning rate of the stage above it: discriminative fine-tuning (Howard & Ruder,
    arXiv:1801.06146).
    """
    groups: list[dict[str, Any]] = []
    for depth, part in enumerate([network.head, *reversed(network.trunk())]):
        matrices = [p for p in part.parameters() if p.ndim > 1]
        vectors = [p for p in part.parameters() if p.ndim <= 1]
        for members, decay in ((matrices, recipe.weight_decay), (vectors, 0.0)):
            if members:
                groups.append({"params": members, "weight_decay": decay, "lr_scale": lr_decay**depth})
    return find_optimizer(recipe.optimizer)(groups, recipe)


def unfreeze(network: Network, epoch: int, recipe: TransferRecipe) -> int:
    """Set which stages are trained in an epoch (counted from 0); returns the number of frozen stages of the trunk.

    Frozen stages also keep their batch-normalisation statistics. Gradual unfreezing: Howard & Ruder, arXiv:1801.06146.
    """
    trunk = network.trunk()
    frozen = 0
    if recipe.head_epochs:
        unfrozen = 0 if epoch < recipe.head_epochs else 1 + (epoch - recipe.head_epochs) // recipe.thaw_epochs
        frozen = max(0, len(trunk) - unfrozen)
    network.train()
    for number, part in enumerate(trunk):
        part.requires_grad_(number >= frozen).train(number >= frozen)
    return frozen
