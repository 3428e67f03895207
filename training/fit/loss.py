"""What a training step makes smaller, for everybody who takes such steps."""

from torch import Tensor
from torch.nn import functional

from training.fit.distillation import Teachers, distillation_loss
from training.fit.setup import Prepared, class_weights
from training.recipe import Recipe


class Loss:
    """How far answers are from the labels and, where there are teachers, from theirs."""

    def __init__(self, recipe: Recipe, ready: Prepared, taught_by: Teachers | None) -> None:
        self._optim, self._distill, self._taught_by = recipe.optim, recipe.distill, taught_by
        self._weights: Tensor | None = None
        if recipe.optim.balance:
            sounds = ready.sounds
            self._weights = class_weights(sounds.labels, sounds.targets.shape[1]).to(ready.device)

    def __call__(self, logits: Tensor, targets: Tensor, waves: Tensor) -> Tensor:
        """Of one batch: logits and class probabilities (batch, classes), and the waveforms that teachers hear."""
        loss = functional.cross_entropy(logits, targets, self._weights, label_smoothing=self._optim.label_smoothing)
        if not self._taught_by:
            return loss
        answer = self._taught_by.answer(waves, self._distill.temperature)
        weight = self._distill.weight
        return (1 - weight) * loss + weight * distillation_loss(logits, answer, self._distill)
