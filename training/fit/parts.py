"""Losses, optimizers and augmentations that recipes select by name; a package of one's own adds some by entry points,
a program by `add_part`.

A package declares them in its pyproject.toml, and a recipe then names them:

    [project.entry-points."otoscope.losses"]         optim.loss: NAME
    [project.entry-points."otoscope.optimizers"]     optim.optimizer: NAME
    [project.entry-points."otoscope.augmentations"]  augment.extra: [NAME, ...]
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from torch import Generator, Tensor, optim
from torch.nn import functional

from training.errors import RecipeError
from training.fit.muon import Muon
from training.recipe import OptimRecipe, Recipe

Loss = Callable[[Tensor, Tensor, OptimRecipe], Tensor]
"""Logits and target probabilities (batch, classes) -> the loss of each clip (batch,)."""
Optimizer = Callable[[list[dict[str, Any]], OptimRecipe], optim.Optimizer]
"""Parameter groups with `weight_decay` and `lr_scale` -> an optimizer; the schedule sets `lr` of the groups."""
Augmentation = Callable[[Tensor, int, Generator], Tensor]
"""Waveforms (batch, samples), Hz, and a generator for all random values -> waveforms of the same shape."""


def cross_entropy(logits: Tensor, targets: Tensor, recipe: OptimRecipe) -> Tensor:
    """With label smoothing (arXiv:1512.00567)."""
    return functional.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing, reduction="none")


def binary_cross_entropy(logits: Tensor, targets: Tensor, recipe: OptimRecipe) -> Tensor:
    """The mean over the classes, each of which has a sigmoid; labels are smoothed towards one half."""
    soft = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, soft, reduction="none").mean(dim=1)


def adamw(groups: list[dict[str, Any]], recipe: OptimRecipe) -> optim.Optimizer:
    """arXiv:1711.05101"""
    return optim.AdamW(groups, lr=recipe.max_lr, betas=(recipe.momentum, recipe.beta2), fused=True)


def sgd(groups: list[dict[str, Any]], recipe: OptimRecipe) -> optim.Optimizer:
    """With Nesterov momentum."""
    nesterov = recipe.momentum > 0
    return optim.SGD(groups, lr=recipe.max_lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)


_LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy}
_OPTIMIZERS: dict[str, Optimizer] = {"adamw": adamw, "sgd": sgd, "muon": Muon}
_added: dict[tuple[str, str], Any] = {}


def find_loss(name: str) -> Loss:
    """Raises RecipeError."""
    found: Loss = find_part("losses", name, _LOSSES)
    return found


def find_optimizer(name: str) -> Optimizer:
    """Raises RecipeError."""
    found: Optimizer = find_part("optimizers", name, _OPTIMIZERS)
    return found


def find_augmentation(name: str) -> Augmentation:
    """Raises RecipeError."""
    found: Augmentation = find_part("augmentations", name, {})
    return found


def add_part(kind: str, part: Callable[..., Any]) -> str:
    """Make a function or class known in this process, and return the name that a recipe then has for it. `kind` is
    losses, optimizers, augmentations or trackers."""
    name = part.__name__
    _added[kind, name] = part
    return name


def check_parts(recipe: Recipe) -> None:
    """Raise RecipeError for a name that is not there, before anything is decoded."""
    find_loss(recipe.optim.loss)
    find_optimizer(recipe.optim.optimizer)
    for name in recipe.augment.extra:
        find_augmentation(name)


@cache
def _declared(kind: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"otoscope.{kind}")}


def find_part(kind: str, name: str, built_in: Mapping[str, Any]) -> Any:
    """The part of this name: built in, added in this process, or of the entry points. Raises RecipeError."""
    if name in built_in:
        return built_in[name]
    if (kind, name) in _added:
        return _added[kind, name]
    entries = _declared(kind)
    if name not in entries:
        added = {each for of_kind, each in _added if of_kind == kind}
        known = ", ".join(sorted({*built_in, *entries, *added})) or "none"
        raise RecipeError(f"no {name!r} among the {kind}; there are: {known} (entry points otoscope.{kind} add some)")
    try:
        return entries[name].load()
    except Exception as error:  # of a package of the user's
        raise RecipeError(f"{name!r} of the {kind} cannot be loaded: {error}") from error
