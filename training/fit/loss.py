"""The training loss, common to the training loop and the learning-rate range test."""

from torch import Tensor
from torch.nn import functional

from training.errors import RunError
from training.fit.distillation import TeacherEnsemble, distillation_loss
from training.fit.parts import binary_cross_entropy, find_loss
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
    """The loss of the recipe with class weights, plus the distillation loss if there are teachers. In a multi-label
    data set the binary cross-entropy of each class takes the place of the cross-entropy."""

    def __init__(self, recipe: Recipe, setup: TrainingSetup, teacher_ensemble: TeacherEnsemble | None) -> None:
        self._optim, self._distill, self._teacher_ensemble = recipe.optim, recipe.distill, teacher_ensemble
        self._weights: Tensor | None = None
        self._multi_label = setup.windows.multi_label
        if self._multi_label and teacher_ensemble:
            raise RunError("distillation is for data sets in which a sound has one class")
        name = recipe.optim.loss
        self._loss = find_loss("binary_cross_entropy" if self._multi_label and name == "cross_entropy" else name)
        if recipe.optim.balance:
            if self._multi_label and self._loss is not binary_cross_entropy:
                raise RunError(
                    f"optim.balance weights the binary cross-entropy of several classes, and not optim.loss={name}: set"
                    " optim.balanced_sampling instead"
                )
            self._weights = class_weights(setup.windows.targets).to(setup.device)

    def __call__(self, logits: Tensor, targets: Tensor, waves: Tensor) -> Tensor:
        """The mean loss of a batch: logits and target probabilities (batch, classes), and waveforms (batch, samples)
        for teachers."""
        losses = self._loss(logits, targets, self._optim)  # (batch,)
        if self._multi_label:
            return losses.mean() if self._weights is None else self._weighted(logits, targets)
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

    def _weighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The binary cross-entropy with the positive windows of rare classes weighted."""
        assert self._weights is not None  # nosec B101  # the caller has checked it
        soft = targets * (1 - self._optim.label_smoothing) + self._optim.label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, soft, pos_weight=self._weights.sqrt())
