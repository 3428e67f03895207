"""Measures a model directory on one fold of an ESC-50 folder, through the decoder and front end that the service uses.

A fold that the model was trained on says nothing about unseen sound: it is refused unless asked for by name, and then
every report says so.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from training.dataset import Dataset, load_waveforms
from training.errors import EvaluationError
from training.metrics import Labels
from worker.model.architecture import parameters
from worker.model.checkpoint import ModelConfig, ModelError, load_model
from worker.model.precision import native_bf16, pick_device

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Evaluation:
    """What a model said about every clip of a fold, and under which circumstances."""

    config: ModelConfig
    parameters: int
    dataset: Dataset
    fold: int
    trained_on: bool  # whether the model has, or may have, seen these clips
    precision: Precision
    device: str
    truth: Labels
    probabilities: NDArray[np.float32]  # (clips, classes)

    @property
    def predicted(self) -> Labels:
        named: Labels = self.probabilities.argmax(axis=1)
        return named


def held_out_fold(config: ModelConfig) -> int | None:
    """The fold that the model was not trained on; None where its config does not say."""
    fold = config.training.get("test_fold")
    return fold if isinstance(fold, int) else None


def service_precision() -> Precision:
    """What a worker on this machine would compute in."""
    return "bfloat16" if native_bf16(pick_device()) else "float32"


def evaluate(
    directory: Path,
    dataset: Dataset,
    fold: int | None = None,
    *,
    precision: Precision = "float32",
    allow_training_fold: bool = False,
    batch: int = 32,
) -> Evaluation:
    """Run every clip of `fold` (the held-out one when None) through the model. Raises EvaluationError, DatasetError.

    As in the service, a clip longer than the window is judged by its first window here, a shorter one is padded.
    """
    device = pick_device()
    try:
        model = load_model(directory, device)
    except ModelError as error:
        raise EvaluationError(str(error)) from error
    config = model.config
    held_out = held_out_fold(config)
    fold = held_out if fold is None else fold
    if fold is None:
        raise EvaluationError(f"{directory} does not say which fold was held out: name one")
    trained_on = fold != held_out
    if trained_on and not allow_training_fold:
        kept = "does not say which fold was held out" if held_out is None else f"was trained on all but fold {held_out}"
        raise EvaluationError(
            f"{config.name} {kept}: fold {fold} would measure memory, not hearing"
            " (allow the training fold explicitly to see the figure all the same)"
        )
    if dataset.classes != config.classes:
        raise EvaluationError(_other_classes(config.classes, dataset))
    _, clips = dataset.split(fold)

    waves, labels = load_waveforms(clips, config.frontend.sample_rate, config.frontend.window_samples)
    model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rows: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for start in tqdm(range(0, len(waves), batch), desc="evaluate", unit="batch", leave=False):
            features = model.frontend(waves[start : start + batch].to(device))  # (batch, 1, mels, frames)
            with _arithmetic(device, precision):
                logits = model.network(features.contiguous(memory_format=torch.channels_last))  # (batch, classes)
            rows.append(logits.float().softmax(dim=1).cpu().numpy())
    probabilities = np.concatenate(rows)
    if broken := np.flatnonzero(~np.isfinite(probabilities).all(axis=1)).tolist():
        raise EvaluationError(f"{directory} gives numbers that are not finite, first for {clips[broken[0]].path}")
    return Evaluation(
        config=config,
        parameters=parameters(model.network),
        dataset=dataset,
        fold=fold,
        trained_on=trained_on,
        precision=precision,
        device=device.type,
        truth=labels.numpy(),
        probabilities=probabilities,
    )


def _arithmetic(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _other_classes(known: tuple[str, ...], dataset: Dataset) -> str:
    strange = [name for name in dataset.classes if name not in known]
    if strange:
        return f"{dataset.root} has {len(strange)} classes that the model does not know, {strange[0]} first"
    return f"{dataset.root} has {len(dataset.classes)} classes, or them in another order; the model has {len(known)}"
