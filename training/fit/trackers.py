"""What records a run while it trains: TensorBoard, MLflow, Weights & Biases, or a tracker of one's own.

A tracker receives the metrics of every epoch and some pictures. `otoscope train --track NAME` adds one to TensorBoard,
which is always written. MLflow and Weights & Biases are configured by their own environment variables
(MLFLOW_TRACKING_URI, WANDB_MODE=offline, ...). A package of one's own adds a tracker by an entry point:

    [project.entry-points."otoscope.trackers"]     otoscope train --track NAME
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.install_hints import install_command
from training.errors import RunError
from training.eval.plots import confusion_image
from training.fit.parts import find_part
from training.recipe import Recipe, flatten

TENSORBOARD = "tensorboard"
_IDS = "trackers.json"  # in the folder of a run: the ids under which MLflow and Weights & Biases know it
_LOGGED_INPUTS = 10  # number of epochs per run whose augmented input is recorded
_CLIPS_SHOWN = 8  # clips of a batch in one image

Ending = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker knows about a run before its first epoch."""

    name: str
    folder: Path
    values: Mapping[str, Any]  # of the recipe, by keys such as `optim.max_lr`
    done: int  # epochs before this start of the run; above 0 it is resumed

    def stored_id(self, tracker: str) -> str | None:
        """The id of a run that was begun before, also where it was interrupted in its first epoch."""
        return self._ids().get(tracker)

    def store_id(self, tracker: str, number: str) -> None:
        (self.folder / _IDS).write_text(json.dumps({**self._ids(), tracker: number}), encoding="utf-8")

    def _ids(self) -> dict[str, str]:
        try:
            ids: dict[str, str] = json.loads((self.folder / _IDS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return ids


class Tracker(Protocol):
    """Records one run. Epochs count from 1."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None: ...

    def log_image(self, name: str, epoch: int, image: NDArray[np.uint8]) -> None:
        """`image` is (height, width, 3)."""

    def close(self, ending: Ending) -> None: ...


class TensorBoard:
    """Event files beside the weights: `tensorboard --logdir runs`."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.done + 1)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)

    def log_image(self, name: str, epoch: int, image: NDArray[np.uint8]) -> None:
        self._writer.add_image(name, image, epoch, dataformats="HWC")

    def close(self, ending: Ending) -> None:
        self._writer.close()


class MLflow:
    """A run of the experiment that MLFLOW_EXPERIMENT_NAME names, at MLFLOW_TRACKING_URI."""

    def __init__(self, run: TrackedRun) -> None:
        import mlflow

        self._mlflow = mlflow
        number = run.stored_id("mlflow")
        nested = mlflow.active_run() is not None  # one of the program that trains
        self._id = mlflow.start_run(run_id=number, run_name=None if number else run.name, nested=nested).info.run_id
        run.store_id("mlflow", self._id)
        if not number:
            mlflow.log_params(dict(run.values))

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(metrics), step=epoch, run_id=self._id)

    def log_image(self, name: str, epoch: int, image: NDArray[np.uint8]) -> None:
        self._mlflow.log_image(image, key=name, step=epoch)

    def close(self, ending: Ending) -> None:
        self._mlflow.end_run({"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}[ending])


class WeightsAndBiases:
    """A run of the project that WANDB_PROJECT names; with WANDB_MODE=offline in the folder of the run, for `wandb
    sync`."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self._run = wandb.init(
            id=run.stored_id("wandb"), name=run.name, dir=run.folder, config=dict(run.values), resume="allow",
            project=os.environ.get("WANDB_PROJECT", "otoscope"), reinit="create_new",
        )  # fmt: skip
        run.store_id("wandb", self._run.id)
        self._picture = wandb.Image

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=epoch)

    def log_image(self, name: str, epoch: int, image: NDArray[np.uint8]) -> None:
        self._run.log({name: self._picture(image)}, step=epoch)

    def close(self, ending: Ending) -> None:
        self._run.finish(0 if ending == "finished" else 1)


_TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    TENSORBOARD: TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases
}  # fmt: skip
_PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}  # of the extra `track`


class Trackers:
    """All trackers of a run; a context manager, at whose end they are closed. Nothing is recorded before `start`."""

    def __init__(self, names: Sequence[str]) -> None:
        """Raises RecipeError for an unknown name."""
        self.names = tuple(dict.fromkeys(names))
        self._make = [find_part("trackers", name, _TRACKERS) for name in self.names]
        self._open: list[Tracker] = []
        self._interval = 1
        self._last_input = 0  # last epoch with an image

    def start(self, recipe: Recipe, folder: Path, done: int) -> None:
        """Open a run of which `done` epochs are done. Raises RunError for a package that is not installed."""
        self._interval = max(1, recipe.optim.epochs // _LOGGED_INPUTS)
        values = flatten(recipe.model_dump(mode="json"))
        for name, make in zip(self.names, self._make, strict=True):
            try:
                self._open.append(make(TrackedRun(recipe.name, folder, values, done)))
            except ImportError as error:
                raise RunError(
                    f"the tracker {name} needs {_PACKAGES.get(name, 'a package')}, which is not installed: {error};"
                    f" {install_command('track')}"
                ) from error

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending: Ending = "finished" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed"
        for tracker in self._open:
            tracker.close(ending)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for tracker in self._open:
            tracker.log_epoch(epoch, metrics)

    def wants_input(self, epoch: int) -> bool:
        """Whether this epoch records its input and has not done so yet: true at its first step, or the first one after
        a resume."""
        return bool(self._open) and epoch != self._last_input and (epoch == 1 or epoch % self._interval == 0)

    def log_input(self, epoch: int, features: Tensor) -> None:
        """Record the first clips of an augmented batch (batch, 1, mels, frames) as an image, low frequencies at the
        bottom."""
        self._last_input = epoch
        shown = features[:_CLIPS_SHOWN].detach().float().cpu().flip(2)
        grey = ((shown + 3) / 6).clamp(0, 1)  # three standard deviations to either side of the mean
        framed = torch.nn.functional.pad(grey, (0, 4, 0, 4), value=1.0)  # a white line between clips
        column = (torch.cat(list(framed), dim=1)[0] * 255).round().to(torch.uint8)  # (height, width)
        self._log_image("input", epoch, column.unsqueeze(2).expand(-1, -1, 3).contiguous().numpy())

    def log_confusion(self, epoch: int, matrix: NDArray[np.int64], names: tuple[str, ...], title: str) -> None:
        self._log_image("confusion", epoch, confusion_image(matrix, names, title))

    def _log_image(self, name: str, epoch: int, image: NDArray[np.uint8]) -> None:
        for tracker in self._open:
            tracker.log_image(name, epoch, image)
