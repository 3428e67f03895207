"""The folder of a run: its identity, its checkpoint, and whether it can be resumed."""

import fcntl
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from training.data.base import Dataset, Fold
from training.errors import RunError, cause
from training.eval.predict import predict, service_precision
from training.fit import processes
from training.fit.averaging import WeightAverage
from training.fit.loss import classification_loss, hit_rate
from training.fit.setup import LabelledWindows, TrainingSetup
from training.recipe import Recipe, parse_stored
from worker.model.checkpoint import CONFIG, Model, ModelConfig, ModelError, read_config

CHECKPOINT = "train_state.pt"
_OTHER_RUN = "a run with another recipe, fold, data or teacher; a run is resumed with the same ones only"


class Progress:
    """The position of a run: everything on which the next step depends, besides weights and random generators."""

    def __init__(self) -> None:
        self.step = 0
        self.order: Tensor = torch.empty(0, dtype=torch.int64)  # order of the windows in this epoch (windows,)
        self.loss: Tensor = torch.zeros(())  # mean of this epoch so far
        self.accuracy: Tensor = torch.zeros(())  # share of windows classified as the louder sound of their mix, so far
        self.best_weights: dict[str, Tensor] | None = None  # weights at the lowest validation loss, for early stopping
        self.best_loss = math.inf
        self.epochs_without_improvement = 0
        self.stopped = False

    def to(self, device: torch.device) -> None:
        self.loss, self.accuracy = self.loss.to(device), self.accuracy.to(device)

    def validate(
        self, setup: TrainingSetup, average: WeightAverage, held_out: LabelledWindows, patience: int
    ) -> dict[str, float]:
        """Evaluate the averaged weights on the validation windows after an epoch; with `patience`, keep the best
        weights."""
        logits = predict(setup.frontend, average.module, held_out.waves, service_precision())[0]
        targets = held_out.targets.cpu()
        loss = classification_loss(logits, targets, multi_label=held_out.multi_label).item()
        if patience:
            self.epochs_without_improvement += 1
            if loss < self.best_loss:
                self.best_loss, self.epochs_without_improvement = loss, 0
                self.best_weights = {
                    name: tensor.detach().clone() for name, tensor in average.module.state_dict().items()
                }
            self.stopped = self.epochs_without_improvement >= patience
        return {"val_loss": loss, "val_accuracy": hit_rate(logits, targets).item()}


@dataclass(frozen=True)
class RunState:
    """Everything on which the next step of a run depends, as its checkpoint holds it."""

    network: nn.Module
    average: WeightAverage
    optimizer: Optimizer
    generator: Generator  # of what is drawn for augmentation and order
    progress: Progress

    def save(self, out: Path, identity: dict[str, Any], device: torch.device) -> None:
        """Write the checkpoint of a run, in its first process. Raises RunError, for example for a full disk."""
        dropout = random_state(device)  # of all processes
        if processes.is_first():
            save_checkpoint(out, {
                "identity": identity, "progress": vars(self.progress), "network": self.network.state_dict(),
                "average": self.average.state_dict(), "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(), **dropout,
            })  # fmt: skip

    def load(self, out: Path, checkpoint: dict[str, Any], windows: int, device: torch.device) -> None:
        """Continue from a checkpoint of the run in `out`. Raises RunError if it has another number of windows."""
        self.network.load_state_dict(checkpoint["network"])
        self.average.load_state_dict(checkpoint["average"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        vars(self.progress).update(checkpoint["progress"])
        self.progress.to(device)
        if (before := len(self.progress.order)) != windows:
            raise RunError(
                f"{out} was started with {before:,} windows of sound, and there are {windows:,} now: the sounds"
                " have changed, or this version cuts them differently; start a new run in another folder"
            )
        self.generator.set_state(checkpoint["generator"])
        set_random_state(checkpoint, device)


def run_identity(
    recipe: Recipe, dataset: Dataset, test_fold: Fold, clips: int, teachers: Sequence[Path], pretrained: Model | None
) -> dict[str, Any]:
    """What identifies a run; it is stored in the config of the model. Raises RunError for a missing teacher."""
    identity: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "test_fold": test_fold,
        "data": {
            "name": dataset.info.name,
            "clips": clips,
            "classes": list(dataset.classes),
            "digest": dataset.digest(test_fold),
        },
    }
    if teachers:
        try:
            identity["teachers"] = [_model_reference(read_config(directory)) for directory in teachers]
        except ModelError as error:
            raise RunError(f"teacher {error}") from error
    if pretrained:
        identity["started_from"] = _model_reference(pretrained.config)
    return identity


def _model_reference(config: ModelConfig) -> dict[str, str]:
    return {"name": config.name, "weights": config.weights_sha256}


def has_run(out: Path) -> bool:
    """Whether the folder holds a run, finished or not."""
    return (out / CHECKPOINT).is_file() or (out / CONFIG).is_file()


def teacher_directory(out: Path) -> Path:
    """The folder of the teacher that a run trains itself."""
    return out / "teacher"


@contextmanager
def lock_run(out: Path) -> Iterator[None]:
    """Create the folder of a run, and lock it against another process that would train into it. Raises RunError.

    The lock is on the folder itself, and the kernel releases it when the process ends. A folder that is empty at the
    end is removed, and so are the folders above it that were created for it.
    """
    removable = [out, *(parent for parent in out.parents if not parent.exists())]
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RunError(f"{out} cannot be created: {cause(error)}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(folder)
        raise RunError(
            f"another process is training into {out}; wait for it to finish, or choose another folder"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            for path in removable:
                path.rmdir()
        os.close(folder)


def resumable(out: Path) -> bool:
    """Whether the folder holds a run to resume; possibly only that of its teacher so far."""
    return has_run(out) or has_run(teacher_directory(out))


def check_run_folder(out: Path, resume: bool) -> None:
    """Raises RunError if a folder holds a run already, or none to `resume`: known before anything is decoded."""
    if resume and not resumable(out):
        raise RunError(f"{out} holds no run to resume")
    if not resume and has_run(out):
        raise RunError(f"{out} already holds a run: --resume continues it, --out names another folder")


def is_finished(out: Path, identity: dict[str, Any]) -> bool:
    """Whether the folder holds the finished model of this run. Raises RunError for the model of another run.

    The checkpoint is deleted last: beside a model that is not complete, as on a full disk, there is one to resume.
    """
    if not (out / CONFIG).is_file() or (out / CHECKPOINT).is_file():
        return False
    try:
        training = read_config(out).training
    except ModelError as error:
        raise RunError(str(error)) from error
    if not _is_same_run(training, identity):
        raise RunError(f"{out} holds {_OTHER_RUN}")
    return True


def _is_same_run(saved: dict[str, Any], identity: dict[str, Any]) -> bool:
    """Whether a stored identity is that of this run; keys that did not exist when it was stored get their defaults."""
    try:
        recipe = parse_stored(saved.get("recipe")).model_dump(mode="json")
    except ValidationError:
        return False
    known = {**saved, "recipe": recipe, "data": {"digest": identity["data"]["digest"], **saved.get("data", {})}}
    return all(known.get(key) == value for key, value in identity.items())


def open_run(out: Path, identity: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """The checkpoint to resume from, or None for a new run. Raises RunError."""
    if not resume:
        return None
    path = out / CHECKPOINT
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for damaged files
        raise RunError(f"{path} cannot be read: {error}") from error
    if not _is_same_run(checkpoint.get("identity", {}), identity):
        raise RunError(f"{out} holds {_OTHER_RUN}")
    if checkpoint.get("progress", {}).keys() != vars(Progress()).keys():
        raise RunError(f"{path} was written by another version; start a new run in another folder")
    return checkpoint


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of the random generators of torch, which dropout uses, as keys of a checkpoint."""
    own = {"dropout": torch.get_rng_state()}
    if device.type == "cuda":
        own["gpu_dropout"] = torch.cuda.get_rng_state(device)
    first, *others = processes.of_all(own)
    return {**first, **({"other_processes": others} if others else {})}


def set_random_state(checkpoint: dict[str, Any], device: torch.device) -> None:
    """Restore what `random_state` returned. Raises RunError for another number of processes."""
    states = [checkpoint, *checkpoint.get("other_processes", ())]
    if len(states) != processes.size():
        raise RunError(f"the run was started with {len(states)} processes; resume it with as many")
    own = states[processes.rank()]
    torch.set_rng_state(own["dropout"])
    if device.type == "cuda" and "gpu_dropout" in own:
        torch.cuda.set_rng_state(own["gpu_dropout"], device)


def save_checkpoint(out: Path, checkpoint: dict[str, Any]) -> None:
    """Write the checkpoint atomically. Raises RunError, for example for a full disk; the last checkpoint is kept."""
    partial = out / (CHECKPOINT + ".partial")
    try:
        with written(out, CHECKPOINT):
            torch.save(checkpoint, partial)
            os.replace(partial, out / CHECKPOINT)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def written(out: Path, name: str = "") -> Iterator[None]:
    """While a file of the folder of a run is written, or several without `name`. Raises RunError with its path, and
    whether a checkpoint is kept: the error of a full disk names no file."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a file that it cannot write
        saved = (out / CHECKPOINT).is_file()
        kept = "the last saved state is kept: resume the run from it" if saved else "nothing has been saved"
        raise RunError(f"{out / name} cannot be written, {kept}: {cause(error)}") from error


def delete_checkpoint(out: Path) -> None:
    """Delete the checkpoint of a finished run: the folder is then a model directory."""
    (out / CHECKPOINT).unlink(missing_ok=True)
