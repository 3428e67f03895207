"""Shows what a training step receives: the shapes of one batch, and its augmented log-mels as a picture."""

import random
from pathlib import Path

import torch
from torch import Generator

from training.data.base import Dataset, Fold
from training.errors import DatasetError, cause
from training.eval.plots import save_batch
from training.fit.setup import set_up_training
from training.recipe import Recipe, for_fine_tuning
from worker.model.checkpoint import Model

_SHOWN = 16  # log-mels of the picture


def preview_batch(
    recipe: Recipe, dataset: Dataset, test_fold: Fold, path: Path, *, pretrained: Model | None = None
) -> dict[str, tuple[int, ...]]:
    """Augment one batch of training windows as `train` does, and save its log-mels. Returns the shapes of the batch.

    Raises DatasetError and RunError.
    """
    if pretrained:
        recipe = for_fine_tuning(recipe, pretrained.config)
    clips, _ = dataset.train_validation_split(test_fold, recipe.optim.holdout, recipe.seed)
    clips = random.Random(recipe.seed).sample(clips, min(recipe.optim.batch, len(clips)))
    setup = set_up_training(recipe, dataset, clips, pretrained)
    generator = Generator().manual_seed(recipe.seed)
    rows = torch.arange(min(recipe.optim.batch, len(setup.windows)))
    waves, features, targets = setup.augmented_batch(rows, recipe, generator, crop=recipe.augment.crop_until > 0)
    titles = []
    for target in targets[:_SHOWN].cpu():
        mixed = {name: float(share) for name, share in zip(dataset.classes, target, strict=True) if share > 0}
        titles.append(" + ".join(f"{name} {share:.0%}" for name, share in mixed.items()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_batch(path, features[:_SHOWN, 0].detach().float().cpu().numpy(), titles)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {cause(error)}") from error
    return {"waveforms": tuple(waves.shape), "log-mels": tuple(features.shape), "targets": tuple(targets.shape)}
