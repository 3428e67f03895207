"""Two checks before a long run: a learning-rate range test, and overfitting a single batch."""

import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, nn
from torch.nn import functional

from training.data.base import Dataset, Fold
from training.errors import RunError, cause
from training.eval.plots import save_lr_curve
from training.fit.distillation import check_teachers, load_teachers
from training.fit.loss import TrainingLoss
from training.fit.optim import make_optimizer, unfreeze
from training.fit.pretrained import check_pretrained, check_start
from training.fit.setup import set_up_training
from training.progress import progress_bar
from training.recipe import Recipe, for_fine_tuning
from worker.model.checkpoint import Model
from worker.model.precision import autocast

_LOWEST, _HIGHEST = 1e-6, 1.0
_SMOOTHING = 0.9  # exponential smoothing factor of the loss curve, per step
_FALL = 0.98  # of the loss at the start: a lowest loss above that is noise
_DIVERGED = 4.0  # the test stops when the loss exceeds this multiple of the lowest loss


@dataclass(frozen=True)
class LearningRateCurve:
    """The result of a learning-rate range test (Smith, arXiv:1506.01186)."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]  # smoothed
    steepest: float  # learning rate at the steepest descent of the loss: a good `optim.max_lr`
    lowest: float  # learning rate at the lowest loss: already too high for training


def find_learning_rate(
    recipe: Recipe, dataset: Dataset, test_fold: Fold, out: Path, steps: int = 100, *,
    teachers: Sequence[Path] = (), pretrained: Model | None = None,
) -> LearningRateCurve:  # fmt: skip
    """Run `steps` optimizer steps while the learning rate rises geometrically from 1e-6 to 1.

    The run is set up exactly as `train` sets it up with the same arguments. Writes lr_find.png and lr_find.json to
    `out`; the network is discarded. Raises RunError and DatasetError.
    """
    if pretrained:
        check_pretrained(pretrained, dataset, test_fold)
        recipe = for_fine_tuning(recipe, pretrained.config)
    check_start(recipe, pretrained)
    check_teachers(recipe.distill, teachers)
    with _written_to(out):  # known before the steps are taken
        out.mkdir(parents=True, exist_ok=True)
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
    for step in progress_bar(range(steps), desc="lr-find", unit="step"):
        lr = _LOWEST * (_HIGHEST / _LOWEST) ** (step / max(1, steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        order = torch.randperm(len(setup.windows), generator=generator)
        parts = torch.split(order, optim.batch)[: optim.accumulate]
        for rows in parts:
            waves, features, targets = setup.augmented_batch(
                rows, recipe, generator, crop=recipe.augment.crop_until > 0
            )
            with autocast(setup.device, recipe.optim.precision):
                logits = setup.network(features).float()  # (batch, classes)
            batch_loss = loss_of(logits, targets, waves) / len(parts)
            batch_loss.backward()  # type: ignore[no-untyped-call]
            loss += batch_loss.item()
        running = _SMOOTHING * running + (1 - _SMOOTHING) * loss
        smooth = running / (1 - _SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or (losses and smooth > _DIVERGED * min(losses)):
            break
        rates.append(lr)
        losses.append(smooth)
        nn.utils.clip_grad_norm_(setup.network.parameters(), optim.clip_norm)
        optimizer.step()
    if len(rates) < 10:
        raise RunError(
            "the loss diverged within the first 10 steps: the curve is too short to read a learning rate from it"
        )

    at, lowest = read_curve(losses)
    found = LearningRateCurve(tuple(rates), tuple(losses), rates[at], rates[lowest])
    with _written_to(out):
        save_lr_curve(out / "lr_find.png", rates, losses, found.steepest)
        (out / "lr_find.json").write_text(json.dumps(vars(found)) + "\n", encoding="utf-8")
    return found


@contextmanager
def _written_to(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write the learning-rate curve to {out}: {cause(error)}") from error


def read_curve(losses: Sequence[float]) -> tuple[int, int]:
    """The steps at which the loss falls fastest, and at which it is lowest, of at least ten smoothed losses. Raises
    RunError for a loss that does not fall: a rate could be read from it, and would be absurd.

    The first tenth is left out: there the exponential average still follows single batches. A slope is measured over a
    tenth of the curve, so that the noise of a few batches is not taken for a descent.
    """
    tenth = max(1, len(losses) // 10)
    half = max(1, tenth // 2)
    lowest = min(range(tenth, len(losses)), key=lambda step: losses[step])
    if losses[lowest] > _FALL * losses[tenth]:
        raise RunError(
            f"the loss falls at no learning rate (from {losses[tenth]:.3g} to {losses[lowest]:.3g} at the lowest):"
            " take more --steps, or check that the network can learn with `otoscope overfit`"
        )

    def slope(step: int) -> float:
        first, last = max(step - half, tenth), min(step + half, len(losses) - 1)
        return (losses[last] - losses[first]) / (last - first)

    return min(range(tenth, max(lowest, tenth + 1)), key=slope), lowest


def overfit_one_batch(
    recipe: Recipe, dataset: Dataset, test_fold: Fold, steps: int = 200, *, pretrained: Model | None = None
) -> tuple[int, float]:
    """Train on a single batch without augmentation until all of it is classified correctly, all layers unfrozen.

    A network that cannot fit one batch has a bug or too little capacity. Returns the number of steps and the final
    loss. Raises RunError if `steps` steps are not enough.
    """
    if pretrained:
        check_pretrained(pretrained, dataset, test_fold)
        recipe = for_fine_tuning(recipe, pretrained.config)
    clips, _ = dataset.train_validation_split(test_fold, 0.0, recipe.seed)
    clips = random.Random(recipe.seed).sample(clips, min(recipe.optim.batch, len(clips)))
    setup = set_up_training(recipe, dataset, clips, pretrained)
    optimizer = make_optimizer(setup.network, recipe.optim)
    network = setup.network
    waves, labels = (part[: len(clips)].to(setup.device) for part in (setup.windows.waves, setup.windows.labels))
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # dropout prevents an exact fit
    features = setup.frontend(waves).contiguous(memory_format=setup.layout)
    accuracy = 0.0
    with progress_bar(range(1, steps + 1), desc="overfit", unit="step") as bar:
        for step in bar:
            with autocast(setup.device, recipe.optim.precision):
                logits = network(features).float()  # (batch, classes)
            loss = functional.cross_entropy(logits, labels)
            accuracy = (logits.argmax(1) == labels).float().mean().item()
            bar.set_postfix(loss=f"{loss.item():.3f}", accuracy=f"{accuracy:.0%}")
            if accuracy == 1.0:
                return step, loss.item()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    raise RunError(
        f"after {steps} steps, only {accuracy:.0%} of one batch of {len(clips)} clips is classified correctly: the"
        " network or the recipe is broken"
    )
