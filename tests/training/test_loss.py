"""The training loss."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch.nn import functional

from training.errors import RunError
from training.fit.loss import TrainingLoss
from training.fit.parts import add_part
from training.fit.setup import LabelledWindows, TrainingSetup, class_weights, epoch_order
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


def test_all_labels_of_a_window_count() -> None:
    """Of 100 windows with two classes each, the second class is as frequent as the first, though it is never named
    first; the weights are 1 on average over the labels."""
    targets = torch.zeros(110, 3)
    targets[:100, :2] = 1.0
    targets[100:, 2] = 1.0
    weights = class_weights(targets)
    assert weights.tolist() == pytest.approx([0.7, 0.7, 7.0])
    assert (targets @ weights).sum() / targets.sum() == pytest.approx(1.0)


def test_weights_and_a_loss_that_has_none() -> None:
    """A loss of one's own for several classes has no weights: `optim.balance` is refused, and not ignored."""
    windows = SimpleNamespace(labels=torch.zeros(2), targets=torch.ones(2, 2), multi_label=True)
    setup = cast(TrainingSetup, SimpleNamespace(windows=windows, device=torch.device("cpu")))
    name = add_part("losses", mean_of_squares)
    recipe = Recipe.model_validate({"name": "own", "optim": {"balance": True, "loss": name}})
    with pytest.raises(RunError, match=r"set optim\.balanced_sampling instead"):
        TrainingLoss(recipe, setup, None)


def mean_of_squares(logits: torch.Tensor, targets: torch.Tensor, optim: OptimRecipe) -> torch.Tensor:
    return (logits - targets).square().mean(dim=1)


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
