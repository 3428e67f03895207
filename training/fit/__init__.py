"""The training loop: set-up, augmentation, loss, optimizer, schedule, weight averaging, checkpoints.

`fit` is the training from Python, with objects of one's own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.data.base import Dataset, Fold
    from training.fit.loop import OnEpoch
    from training.fit.parts import Augmentation, Loss, Optimizer
    from training.recipe import Recipe
    from worker.model.base import ArchitectureConfig
    from worker.model.checkpoint import Model, ModelConfig


def fit(
    recipe: "Recipe", dataset: "Dataset", out: Path, *,
    test_fold: "Fold | None" = None, network: "ArchitectureConfig | None" = None, loss: "Loss | None" = None,
    optimizer: "Optimizer | None" = None, augmentations: "Sequence[Augmentation]" = (),
    pretrained: "Model | None" = None, resume: bool = False, trackers: Sequence[str] = ("tensorboard",),
    on_epoch: "OnEpoch | None" = None,
) -> "ModelConfig":  # fmt: skip
    """Train by a recipe, some parts of which are the given objects, and write a model directory to `out`.

    `network` is the config of a network, which may be one that the program itself has registered
    (`worker.model.architectures.register`). `loss`, `optimizer` and `augmentations` are functions as
    `training.fit.parts` describes them; the recipe that is saved has their names. The other arguments are those of
    `training.fit.loop.train`; by default the last fold is held out. Returns the config of the model. Raises RunError,
    DatasetError and RecipeError.
    """
    from training.fit.loop import train
    from training.fit.parts import add_part
    from training.recipe import with_changes

    changes: dict[str, object] = {}
    for kind, key, part in (("losses", "optim.loss", loss), ("optimizers", "optim.optimizer", optimizer)):
        if part is not None:
            changes[key] = add_part(kind, part)
    if augmentations:
        changes["augment.extra"] = [add_part("augmentations", part) for part in augmentations]
    changed = with_changes(recipe, changes)
    if network is not None:
        changed = changed.model_copy(update={"network": network})
    held_out = dataset.default_fold if test_fold is None else test_fold
    return train(
        changed, dataset, held_out, out, pretrained=pretrained, resume=resume, threshold_fold=held_out,
        on_epoch=on_epoch, trackers=trackers,
    )  # fmt: skip
