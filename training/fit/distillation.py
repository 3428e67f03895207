"""Networks to learn from besides the labels: each hears what the student hears, before the student's masks."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from training.data.base import Dataset, Fold
from training.errors import RunError
from training.eval.evaluate import held_out_fold, split_changed
from training.recipe import DistillRecipe
from worker.model.checkpoint import Model, ModelError, load_model
from worker.model.precision import autocast


class TeacherEnsemble:
    """One or more trained models whose mean probabilities are the answer to learn."""

    def __init__(self, models: Sequence[Model], device: torch.device) -> None:
        self._device = device
        for model in models:
            model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._models = tuple(models)

    @torch.no_grad()
    def soft_targets(self, waves: Tensor, temperature: float) -> Tensor:
        """Waveforms (batch, samples) -> probabilities (batch, classes), softened."""
        probabilities: list[Tensor] = []
        for model in self._models:
            features = model.frontend(waves).contiguous(memory_format=torch.channels_last)
            with autocast(self._device):
                logits = model.network(features)  # (batch, classes)
            probabilities.append((logits.float() / temperature).softmax(dim=1))
        return torch.stack(probabilities).mean(dim=0)


def load_teachers(
    directories: Sequence[Path], dataset: Dataset, test_fold: Fold, rate: int, device: torch.device
) -> TeacherEnsemble:
    """Raises RunError for a teacher that heard the fold under test, whose classes are others, or at another rate."""
    models: list[Model] = []
    for directory in directories:
        try:
            model = load_model(directory, device)
        except ModelError as error:
            raise RunError(f"teacher {error}") from error
        config = model.config
        if held_out_fold(config) != test_fold or split_changed(config, dataset):
            raise RunError(f"teacher {directory} was not trained without fold {test_fold}: it would tell its answers")
        if config.classes != dataset.classes:
            raise RunError(f"teacher {directory} knows other classes, or in another order")
        if config.frontend.sample_rate != rate:
            raise RunError(f"teacher {directory} hears at {config.frontend.sample_rate} Hz, the recipe at {rate} Hz")
        models.append(model)
    return TeacherEnsemble(models, device)


def check_teachers(recipe: DistillRecipe, teachers: Sequence[Path]) -> None:
    """Raises RunError for teachers without a say, and for a say without teachers."""
    if (recipe.weight > 0) != bool(teachers):
        raise RunError("teachers and a distill.weight above 0 go together: --teacher, or --set distill.weight=0")


def distillation_loss(logits: Tensor, soft_targets: Tensor, recipe: DistillRecipe) -> Tensor:
    """How far the softened student is from its teachers, in nats, times the square of the temperature, which keeps the
    size of the gradient."""
    student = functional.log_softmax(logits / recipe.temperature, dim=1)
    return functional.kl_div(student, soft_targets, reduction="batchmean") * recipe.temperature**2
