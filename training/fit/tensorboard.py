"""TensorBoard logs of a run: `tensorboard --logdir runs`."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from training.eval.plots import confusion_image

_LOGGED_INPUTS = 10  # number of epochs per run that log their augmented input
_CLIPS_SHOWN = 8  # clips of a batch in one image


class TensorBoardLogger:
    """Writes event files beside the weights; a resumed run continues at the epoch of its checkpoint."""

    def __init__(self, out: Path, epochs: int, done: int) -> None:
        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=done + 1)
        self._interval = max(1, epochs // _LOGGED_INPUTS)
        self._last_logged = 0  # last epoch with an image

    def log_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)

    def should_log_input(self, epoch: int) -> bool:
        """Whether this epoch logs its input and has not done so yet: true at its first step, or the first one after a
        resume."""
        return epoch != self._last_logged and (epoch == 1 or epoch % self._interval == 0)

    def log_input(self, epoch: int, features: Tensor) -> None:
        """Log the first clips of an augmented batch (batch, 1, mels, frames) as an image, low frequencies at the
        bottom."""
        self._last_logged = epoch
        shown = features[:_CLIPS_SHOWN].detach().float().cpu().flip(2)
        grey = ((shown + 3) / 6).clamp(0, 1)  # three standard deviations to either side of the mean
        framed = torch.nn.functional.pad(grey, (0, 4, 0, 4), value=1.0)  # a white line between clips
        self._writer.add_image("input", torch.cat(list(framed), dim=1), epoch)

    def log_confusion(self, epoch: int, matrix: NDArray[np.int64], names: tuple[str, ...], title: str) -> None:
        image = confusion_image(matrix, names, title)
        self._writer.add_image("confusion", image, epoch, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()
