"""Learning-rate and momentum schedules."""

import pytest

from training.fit.schedule import schedule
from training.recipe import OptimRecipe


def test_schedules() -> None:
    """Cosine: linear warm-up, then decay to its final value; one-cycle: momentum in the opposite direction."""
    cosine = OptimRecipe(max_lr=1.0, warmup=0.2, final_lr=0.01)
    rates = [schedule(step, 100, cosine)[0] for step in range(100)]
    assert rates[:2] == pytest.approx([0.05, 0.1])
    assert max(rates) == rates[19] == rates[20] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.01)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    cycle = OptimRecipe(schedule="one_cycle", max_lr=1.0, warmup=0.3, final_lr=0.0)
    points = [schedule(step, 100, cycle) for step in range(100)]
    assert points[0] == pytest.approx((0.04, 0.95))
    assert points[30] == pytest.approx((1.0, 0.85))
    assert points[99] == pytest.approx((0.0, 0.95))
    steep = OptimRecipe(schedule="one_cycle", max_lr=2e-3, initial_lr=0.25, momentum_swing=0.1)
    assert schedule(0, 100, steep) == pytest.approx((5e-4, 0.99)), "the momentum stays below 1"
