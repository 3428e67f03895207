"""Muon: what a step does to a kernel in either memory layout, and what it leaves to AdamW."""

import pytest
import torch
from torch import Tensor, nn

from training.fit.muon import Muon
from training.recipe import OptimRecipe

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def stepped(layout: torch.memory_format, steps: int = 1) -> dict[str, Tensor]:
    """What some steps with gradients of very different rows have added to the weights of a network."""
    draw = torch.Generator().manual_seed(0)
    network = nn.ModuleDict(
        {
            "first": nn.Conv2d(1, 8, 3), "depthwise": nn.Conv2d(8, 8, 3, groups=8), "kernel": nn.Conv2d(8, 16, 3),
            "linear": nn.Linear(16, 4),
        }
    ).to(memory_format=layout)  # type: ignore[call-overload]  # fmt: skip
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recipe = OptimRecipe(optimizer="muon", max_lr=0.01)
    optimizer = Muon([{"params": list(network.parameters()), "weight_decay": 0.0}], recipe)
    for _ in range(steps):
        for parameter in network.parameters():
            rows = torch.logspace(-1, 0, len(parameter)).reshape(-1, *[1] * (parameter.ndim - 1))
            parameter.grad = torch.randn(parameter.shape, generator=draw) * rows
        optimizer.step()
    return {name: value - before[name] for name, value in network.state_dict().items()}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_singular_values_of_a_step(layout: torch.memory_format) -> None:
    """They are about equal, those of the gradient are not; the step is of the magnitude of one of AdamW."""
    step = stepped(layout)["kernel.weight"].flatten(1)
    values = torch.linalg.svdvals(step)
    assert values.max() / values.min() < 2.5
    assert step.square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.3)


def test_both_layouts_take_the_same_steps() -> None:
    """But for the rounding of bfloat16."""
    one, other = (stepped(layout, steps=3)["kernel.weight"] for layout in LAYOUTS)
    assert (one - other).norm() < 0.05 * one.norm()


@pytest.mark.parametrize("native", [True, False])
def test_steps_are_those_of_pytorch(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly in bfloat16; in float32, which a device without bfloat16 uses, but for the rounding of that."""
    monkeypatch.setattr("training.fit.muon.native_bf16", lambda _device: native)
    draw = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(24, 3, 2, 2) * 0.1) for _ in range(2))
    matrix = nn.Parameter(theirs.detach().reshape(24, 12))
    optimizer = Muon([{"params": [ours], "weight_decay": 0.3}], OptimRecipe(optimizer="muon", max_lr=0.01))
    expected = torch.optim.Muon([matrix], lr=0.01, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = torch.randn(ours.shape, generator=draw)
        matrix.grad = ours.grad.reshape(24, 12)
        optimizer.step()
        expected.step()
    tolerance = 0.0 if native else 2e-4  # the steps are of 2e-3
    torch.testing.assert_close(ours.reshape(24, 12), matrix, rtol=0, atol=tolerance)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=str)
def test_a_kernel_of_three_dimensions_is_trained_in_either_layout(layout: torch.memory_format) -> None:
    """Its matrix shares its memory."""
    kernel = nn.Parameter(torch.zeros(16, 8, 3, 3, 3).to(memory_format=layout))
    optimizer = Muon([{"params": [kernel], "weight_decay": 0.0}], OptimRecipe(optimizer="muon", max_lr=0.01))
    kernel.grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert kernel.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.3)
    assert (kernel * kernel.grad).sum() < 0


def test_everything_else_takes_steps_of_adamw() -> None:
    """Whose first step has the size of the learning rate for every weight."""
    steps = stepped(torch.contiguous_format)
    for name in ("first.weight", "depthwise.weight", "linear.weight", "kernel.bias"):
        assert steps[name].abs().mean() == pytest.approx(0.01, rel=0.01), name
