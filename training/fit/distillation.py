"""Knowledge distillation: the student learns from the probabilities of trained teachers besides the labels.

Teachers receive the same augmented waveforms as the student, but not its spectrogram masks. A teacher with the
architecture of the student makes it a born-again network (arXiv:1805.04770).
"""

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
    """One or more trained models whose probabilities are averaged."""

    def __init__(self, models: Sequence[Model], device: torch.device) -> None:
        self._device = device
        for model in models:
            model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._models = tuple(models)

    @torch.no_grad()
    def soft_targets(self, waves: Tensor, temperature: float) -> Tensor:
        """Waveforms (batch, samples) -> mean probabilities (batch, classes) at the given softmax temperature."""
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
    """Load the teachers.

    Raises RunError for a teacher that was trained on the test fold, or that has other classes or another sample rate.
    """
    models: list[Model] = []
    for directory in directories:
        try:
            model = load_model(directory, device)
        except ModelError as error:
            raise RunError(f"teacher {error}") from error
        config = model.config
        if held_out_fold(config) != test_fold or split_changed(config, dataset):
            raise RunError(
                f"teacher {directory} was not trained without fold {test_fold}: it would leak the test labels"
            )
        if config.classes != dataset.classes:
            raise RunError(f"teacher {directory} has other classes, or another order of classes")
        if config.frontend.sample_rate != rate:
            raise RunError(
                f"teacher {directory} expects {config.frontend.sample_rate} Hz, but the recipe has {rate} Hz"
            )
        models.append(model)
    return TeacherEnsemble(models, device)


def check_teachers(recipe: DistillRecipe, teachers: Sequence[Path]) -> None:
    """Raise RunError unless teachers are given exactly if the weight of the distillation loss is above 0."""
    if (recipe.weight > 0) != bool(teachers):
        raise RunError(
            "teachers require a distill.weight above 0 and vice versa: give --teacher, or --set distill.weight=0"
        )


def distillation_loss(logits: Tensor, soft_targets: Tensor, recipe: DistillRecipe) -> Tensor:
    """KL divergence of the student from the soft targets (batch, classes), in nats, times the squared temperature.

    The factor keeps the gradient independent of the temperature (Hinton et al., arXiv:1503.02531).
    """
    student = functional.log_softmax(logits / recipe.temperature, dim=1)
    return functional.kl_div(student, soft_targets, reduction="batchmean") * recipe.temperature**2
