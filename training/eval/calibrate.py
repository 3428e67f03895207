"""Temperature scaling (Guo et al., arXiv:1706.04599): logits are divided by one scalar so that confidences are
calibrated.

The predicted classes do not change. The temperature is fitted on clips that were used neither for training nor for
testing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from training.eval.answers import Recording

_GRID = torch.logspace(-1.5, 1.5, 601, dtype=torch.float64)  # 0.03 to 32 in steps of about 1 %


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the cross-entropy of `labels` (clips,) under `logits` (clips, classes).

    The loss has a single minimum, so a fine grid finds it without an optimiser that might not converge. If all clips
    are classified correctly the temperature is 1: the likelihood would increase without bound. A temperature at an end
    of the grid gives a warning.
    """
    if (logits.argmax(dim=1) == labels).all():
        return 1.0
    logits = logits.double()
    losses = [functional.cross_entropy(logits / temperature, labels).item() for temperature in _GRID]
    best = losses.index(min(losses))
    if best in (0, len(_GRID) - 1):
        tqdm.write(
            f"the temperature {_GRID[best]:.3g} is at the end of the grid, {_GRID[0]:.3g} to {_GRID[-1]:.3g}: the"
            " confidences of this model mean nothing; check its accuracy and the labels of the held-out clips"
        )
    return round(float(_GRID[best]), 3)


def temperature_of(recordings: Sequence[Recording]) -> float:
    """The temperature that is fitted on the windows of recordings in which there is sound: a silent window is not of
    the class of its recording, and no confidence is right for it."""
    logits = torch.cat([one.logits[torch.from_numpy(one.heard)] for one in recordings])
    labels = torch.tensor([one.sound.label for one in recordings for _ in range(int(one.heard.sum()))])
    return fit_temperature(logits, labels)
