"""The training loss."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch.nn import functional

from training.fit.loss import TrainingLoss
from training.fit.setup import LabelledWindows, TrainingSetup, epoch_order
from training.recipe import OptimRecipe, Recipe


def balanced_loss(labels: torch.Tensor, classes: int, smoothing: float) -> TrainingLoss:
    windows = SimpleNamespace(labels=labels, targets=functional.one_hot(labels, classes).float(), multi_label=False)
    setup = cast(TrainingSetup, SimpleNamespace(windows=windows, device=torch.device("cpu")))
    optim = {"balance": True, "label_smoothing": smoothing}
    return TrainingLoss(Recipe.model_validate({"name": "balanced", "optim": optim}), setup, None)


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_rare_class_does_not_win_through_label_smoothing(smoothing: float) -> None:
    """With 40 clips of one class and one of the other, the loss is least where each clip has its own class first."""
    labels = torch.tensor([0] * 40 + [1])
    targets = functional.one_hot(labels, 2).float()
    loss_of = balanced_loss(labels, 2, smoothing)
    logits = torch.zeros(2, 2, requires_grad=True)  # of each class's clips
    optimizer = torch.optim.LBFGS([logits], max_iter=100)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(logits[labels], targets, torch.zeros(len(labels), 1))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(step)  # type: ignore[arg-type,unused-ignore]
    assert logits.argmax(dim=1).tolist() == [0, 1]


def test_balanced_sampling() -> None:
    """Of 400 windows of one class and 10 of the other, half of an epoch are of each; without it each occurs once. A
    recipe cannot do both."""
    labels = torch.tensor([0] * 400 + [1] * 10)
    windows = LabelledWindows(torch.zeros(410, 1), labels, torch.eye(2)[labels], torch.zeros(410, 1))
    generator = torch.Generator().manual_seed(1)
    drawn = torch.cat([labels[epoch_order(windows, generator, balanced=True)] for _ in range(10)])
    assert drawn.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert sorted(epoch_order(windows, generator, balanced=False).tolist()) == list(range(410))
    with pytest.raises(ValueError, match="set one of them"):
        OptimRecipe(balance=True, balanced_sampling=True)


def test_classes_have_equal_weight() -> None:
    """The rare class counts as much as the common one."""
    labels = torch.tensor([0] * 40 + [1])
    loss_of = balanced_loss(labels, 2, 0.1)
    targets = functional.one_hot(labels, 2).float()
    shift = torch.zeros(1, 2, requires_grad=True)  # the same logits for all clips
    loss_of(shift.expand(len(labels), 2), targets, torch.zeros(len(labels), 1)).backward()  # type: ignore[no-untyped-call]
    assert shift.grad is not None
    assert shift.grad.abs().max() < 1e-6
