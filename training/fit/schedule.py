"""Learning-rate and momentum schedules: linear warm-up with cosine decay, and one-cycle."""

import math

from torch import optim

from training.recipe import OptimRecipe

_HIGHEST_MOMENTUM = 0.99


def set_schedule(optimizer: optim.Optimizer, step: int, steps: int, recipe: OptimRecipe) -> float:
    """Set learning rate and momentum for a step of a run of `steps` steps; returns the learning rate of the head."""
    rate, momentum = schedule(step, steps, recipe)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
        if recipe.optimizer == "sgd":
            group["momentum"] = momentum
        elif "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
    return rate


def schedule(step: int, steps: int, recipe: OptimRecipe) -> tuple[float, float]:
    """Learning rate and momentum at a step.

    `cosine`: linear warm-up, then cosine decay (SGDR without restarts, arXiv:1608.03983). `one_cycle` (Smith & Topin,
    arXiv:1708.07120): rises from `initial_lr` and falls to `final_lr` as cosines, with momentum in the
    opposite direction.
    """
    warmup_steps = max(1, round(steps * recipe.warmup))
    last = recipe.final_lr
    if recipe.schedule == "cosine":
        share = (
            (step + 1) / warmup_steps
            if step < warmup_steps
            else _cosine(1.0, last, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
        )
        return recipe.max_lr * share, recipe.momentum
    if step < warmup_steps:
        height = _cosine(0.0, 1.0, step / warmup_steps)
        share = recipe.initial_lr + (1 - recipe.initial_lr) * height
    else:
        height = _cosine(1.0, 0.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
        share = last + (1 - last) * height
    momentum = recipe.momentum + recipe.momentum_swing * (1 - 2 * height)
    return recipe.max_lr * share, min(max(momentum, 0.0), _HIGHEST_MOMENTUM)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
