"""The training loss, common to the training loop and the learning-rate range test."""

from torch import Tensor
from torch.nn import functional

from training.errors import RunError
from training.fit.distillation import TeacherEnsemble, distillation_loss
from training.fit.setup import TrainingSetup, class_weights
from training.recipe import Recipe


def classification_loss(logits: Tensor, targets: Tensor, *, multi_label: bool) -> Tensor:
    """The mean loss of logits and targets (batch, classes): cross-entropy, or the binary one of each class."""
    if multi_label:
        return functional.binary_cross_entropy_with_logits(logits, targets)
    return functional.cross_entropy(logits, targets)


def hit_rate(logits: Tensor, targets: Tensor) -> Tensor:
    """The share of a batch whose first class is one of those with the largest target (batch, classes)."""
    first = targets.gather(1, logits.argmax(1, keepdim=True))  # (batch, 1)
    return (first >= targets.amax(1, keepdim=True)).float().mean()


class TrainingLoss:
    """Cross-entropy with label smoothing (arXiv:1512.00567) and class weights, plus the distillation loss if there are
    teachers. In a multi-label data set it is the binary cross-entropy of each class."""

    def __init__(self, recipe: Recipe, setup: TrainingSetup, teacher_ensemble: TeacherEnsemble | None) -> None:
        self._optim, self._distill, self._teacher_ensemble = recipe.optim, recipe.distill, teacher_ensemble
        self._weights: Tensor | None = None
        self._multi_label = setup.windows.multi_label
        if self._multi_label and teacher_ensemble:
            raise RunError("distillation is for data sets in which a sound has one class")
        if recipe.optim.balance:
            windows = setup.windows
            self._weights = class_weights(windows.labels, windows.targets.shape[1]).to(setup.device)

    def __call__(self, logits: Tensor, targets: Tensor, waves: Tensor) -> Tensor:
        """The mean loss of a batch: logits and target probabilities (batch, classes), and waveforms (batch, samples)
        for teachers."""
        if self._multi_label:
            smooth = self._optim.label_smoothing
            positive = self._weights.sqrt() if self._weights is not None else None
            soft = targets * (1 - smooth) + smooth / 2
            return functional.binary_cross_entropy_with_logits(logits, soft, pos_weight=positive)
        losses = functional.cross_entropy(
            logits, targets, label_smoothing=self._optim.label_smoothing, reduction="none"
        )  # (batch,)
        if self._weights is not None:
            # Clips are weighted, not targets: torch's `weight` would also multiply the share of every class that label
            # smoothing adds to the target, so that a rare class would win everywhere (pytorch/pytorch#104776).
            losses = losses * (targets @ self._weights)
        loss = losses.mean()
        if not self._teacher_ensemble:
            return loss
        soft_targets = self._teacher_ensemble.soft_targets(waves, self._distill.temperature)
        weight = self._distill.weight
        return (1 - weight) * loss + weight * distillation_loss(logits, soft_targets, self._distill)
