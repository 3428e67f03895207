"""Two checks before a long run: which learning rate, and whether the network can learn at all."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, nn
from torch.nn import functional
from tqdm import tqdm

from training.data.base import Dataset, Fold
from training.errors import RunError
from training.eval.plots import save_lr_curve
from training.fit.distillation import check_teachers, load_teachers
from training.fit.loss import TrainingLoss
from training.fit.optim import make_optimizer, unfreeze
from training.fit.pretrained import check_pretrained
from training.fit.setup import set_up_training
from training.recipe import Recipe, for_fine_tuning
from worker.model.checkpoint import Model
from worker.model.precision import autocast

_LOWEST, _HIGHEST = 1e-6, 1.0
_SMOOTHING = 0.9  # of the loss curve, a step
_DIVERGED = 4.0  # times the lowest loss: what follows is not worth computing


@dataclass(frozen=True)
class LearningRateCurve:
    """The curve of a learning rate finder (Smith, 2017)."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]  # smoothed
    steepest: float  # where the loss falls fastest: a good `optim.max_lr`
    lowest: float  # where it is lowest: already too high to train with


def find_learning_rate(
    recipe: Recipe, dataset: Dataset, test_fold: Fold, out: Path, steps: int = 100, *,
    teachers: Sequence[Path] = (), pretrained: Model | None = None,
) -> LearningRateCurve:  # fmt: skip
    """Begin the run that `train` would begin with the same arguments, for `steps` in which the learning rate rises from
    1e-6 to 1; writes lr_find.png and lr_find.json to `out`.

    Nothing is kept of the network. Raises RunError and DatasetError.
    """
    if pretrained:
        check_pretrained(pretrained, dataset, test_fold)
        recipe = for_fine_tuning(recipe, pretrained.config)
    check_teachers(recipe.distill, teachers)
    optim = recipe.optim
    clips, _ = dataset.train_validation_split(test_fold, optim.holdout, recipe.seed)
    setup = set_up_training(recipe, dataset, clips, pretrained)
    rate = recipe.frontend.sample_rate
    loss_of = TrainingLoss(
        recipe, setup, load_teachers(teachers, dataset, test_fold, rate, setup.device) if teachers else None
    )
    unfreeze(setup.network, 0, recipe.start)
    optimizer = make_optimizer(setup.network, optim, recipe.start.lr_decay)
    generator = Generator().manual_seed(recipe.seed)
    rates: list[float] = []
    losses: list[float] = []
    running = 0.0
    for step in tqdm(range(steps), desc="lr-find", unit="step"):
        lr = _LOWEST * (_HIGHEST / _LOWEST) ** (step / max(1, steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = lr * group["share"]
        optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        order = torch.randperm(len(setup.windows), generator=generator)
        parts = torch.split(order, optim.batch)[: optim.accumulate]
        for rows in parts:
            waves, features, targets = setup.augmented_batch(
                rows, recipe, generator, crop=recipe.augment.crop_until > 0
            )
            with autocast(setup.device):
                logits = setup.network(features).float()  # (batch, classes)
            share = loss_of(logits, targets, waves) / len(parts)
            share.backward()  # type: ignore[no-untyped-call]
            loss += share.item()
        running = _SMOOTHING * running + (1 - _SMOOTHING) * loss
        smooth = running / (1 - _SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or (losses and smooth > _DIVERGED * min(losses)):
            break
        rates.append(lr)
        losses.append(smooth)
        nn.utils.clip_grad_norm_(setup.network.parameters(), optim.clip_norm)
        optimizer.step()
    if len(rates) < 10:
        raise RunError("the loss diverged at once: the curve shows nothing")

    lowest = losses.index(min(losses))
    slopes = [losses[i + 1] - losses[i - 1] for i in range(1, max(2, lowest))]
    steepest = rates[1 + slopes.index(min(slopes))]
    found = LearningRateCurve(tuple(rates), tuple(losses), steepest, rates[lowest])
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_lr_curve(out / "lr_find.png", rates, losses, steepest)
        (out / "lr_find.json").write_text(json.dumps(vars(found)) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"the curve cannot be written to {out}: {error}") from error
    return found


def overfit_one_batch(recipe: Recipe, dataset: Dataset, test_fold: Fold, steps: int = 200) -> tuple[int, float]:
    """Learn one minibatch by heart, without augmentation: a network that cannot do that will learn nothing else.

    Returns the number of steps that it took and the loss. Raises RunError when `steps` were not enough.
    """
    clips, _ = dataset.train_validation_split(test_fold, 0.0, recipe.seed)
    clips = random.Random(recipe.seed).sample(clips, min(recipe.optim.batch, len(clips)))
    setup = set_up_training(recipe, dataset, clips)
    optimizer = make_optimizer(setup.network, recipe.optim)
    network = setup.network
    waves, labels = (part[: len(clips)].to(setup.device) for part in (setup.windows.waves, setup.windows.labels))
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # what is dropped cannot be learned by heart
    features = setup.frontend(waves).contiguous(memory_format=setup.layout)
    right = 0.0
    with tqdm(range(1, steps + 1), desc="overfit", unit="step") as bar:
        for step in bar:
            with autocast(setup.device):
                logits = network(features).float()  # (batch, classes)
            loss = functional.cross_entropy(logits, labels)
            right = (logits.argmax(1) == labels).float().mean().item()
            bar.set_postfix(loss=f"{loss.item():.3f}", right=f"{right:.0%}")
            if right == 1.0:
                return step, loss.item()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    raise RunError(f"{steps} steps on one minibatch of {len(clips)} clips got {right:.0%} right: something is broken")
