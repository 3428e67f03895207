"""Evaluates model directories on one fold of a data set, with the decoder and the front end of the service.

The accuracy on training clips is no measure of generalisation. Such an evaluation is refused
unless it is explicitly allowed, and every report of it carries a warning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.base import Clip, Dataset, Fold, fold_name
from training.data.fingerprint import read_training_sounds, sound_digests
from training.errors import EvaluationError
from training.eval.metrics import Labels
from training.eval.predict import Precision, predict
from worker.model.base import Network, parameters
from worker.model.checkpoint import Model, ModelConfig, ModelError, load_model
from worker.model.fake_quant import quantised
from worker.model.precision import pick_device

_MEMORISED = (
    "{} would measure memorisation rather than generalisation (--allow-training-fold evaluates it nevertheless)"
)


@dataclass(frozen=True)
class Evaluation:
    """The predictions of one model, or of an ensemble whose probabilities are averaged, for all clips of a fold."""

    configs: tuple[ModelConfig, ...]
    parameters: int  # total of all models
    dataset: Dataset
    fold: Fold
    trained_on: bool  # whether these clips are, or may be, in the training data of one of the models
    seen: int  # clips whose very sound is in the training data of one of the models
    chosen_by: bool  # whether early stopping or calibration used these clips: slightly optimistic
    precision: Precision
    device: str
    views: int  # test-time augmentation: circular shifts of each clip, averaged
    truth: Labels
    logits: tuple[Tensor, ...]  # per model, before temperature scaling: (views, windows, classes)
    windows: tuple[Tensor, ...]  # per model: index of the clip to which each window belongs (windows,)

    @property
    def config(self) -> ModelConfig:
        """The model, or the first one of an ensemble."""
        return self.configs[0]

    @property
    def name(self) -> str:
        return " + ".join(config.name for config in self.configs)

    @property
    def forward_passes(self) -> int:
        """Forward passes per prediction: models × views."""
        return len(self.configs) * self.views

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Calibrated probabilities (clips, classes)."""
        return self._mean([config.temperature for config in self.configs])

    @property
    def uncalibrated(self) -> NDArray[np.float32]:
        """Probabilities (clips, classes) with all temperatures at 1."""
        return self._mean([1.0] * len(self.configs))

    @property
    def predicted(self) -> Labels:
        named: Labels = self.probabilities.argmax(axis=1)
        return named

    def _mean(self, temperatures: list[float]) -> NDArray[np.float32]:
        per_model: list[Tensor] = []
        for logits, clip_index, temperature in zip(self.logits, self.windows, temperatures, strict=True):
            output = (logits / temperature).softmax(dim=-1).mean(dim=0)  # (windows, classes)
            total = torch.zeros(len(self.truth), output.shape[1]).index_add(0, clip_index, output)
            per_model.append(total / clip_index.bincount()[:, None])
        mean: NDArray[np.float32] = torch.stack(per_model).mean(dim=0).numpy()
        return mean


def held_out_fold(config: ModelConfig) -> Fold | None:
    """The fold on which the model was not trained; None if its config does not state one."""
    fold = config.training.get("test_fold")
    return fold if isinstance(fold, int | str) else None


def split_changed(config: ModelConfig, dataset: Dataset) -> bool:
    """Whether the training clips of this model differ from the current ones: the data set was split again, or grew.

    False for configs written before the digest of the training clips was stored.
    """
    learned, fold = config.training.get("data", {}), held_out_fold(config)
    if fold is None or learned.get("name") != dataset.info.name or "digest" not in learned:
        return False
    return bool(learned["digest"] != dataset.digest(fold))


def seen_clips(directory: Path, config: ModelConfig, dataset: Dataset, clips: Sequence[Clip]) -> set[int]:
    """Indices of the clips with a window that the model was trained on, by the sound; none for a model without digests.

    Raises EvaluationError and DatasetError.
    """
    learned = read_training_sounds(directory)
    if learned is None:
        return set()
    waves, clip_index = dataset.load(clips, config.frontend.sample_rate, config.frontend.window_samples)
    return set(clip_index[torch.from_numpy(np.isin(sound_digests(waves), learned))].tolist())


def _is_own_split(config: ModelConfig, dataset: Dataset) -> bool:
    """Whether this is the data set that the model was trained on, under whatever name, with the same split."""
    fold, digest = held_out_fold(config), config.training.get("data", {}).get("digest")
    return fold in dataset.folds and digest == dataset.digest(fold)


def evaluate(
    directories: Path | Sequence[Path],
    dataset: Dataset,
    fold: Fold | None = None,
    *,
    precision: Precision = "float32",
    allow_training_fold: bool = False,
    views: int = 1,
) -> Evaluation:
    """Predict every clip of `fold` (the held-out fold by default) with the model, or with several models as an
    ensemble.

    As in the service, the prediction for a clip longer than the window is the mean over all of its windows; a shorter
    clip is zero-padded. Raises EvaluationError and DatasetError.
    """
    device = pick_device()
    paths = [directories] if isinstance(directories, Path) else directories
    models = [_load(path, device) for path in paths]
    fold = held_out_fold(models[0].config) if fold is None else fold
    if fold is None:
        raise EvaluationError(f"{models[0].config.name} does not state which fold was held out: specify one")
    unseen = {fold, *dataset.compatible_test_folds(fold)}
    leaked = [
        model.config
        for model in models
        if held_out_fold(model.config) not in unseen or split_changed(model.config, dataset)
    ]
    if leaked and not allow_training_fold:
        raise EvaluationError(_leakage_message(leaked[0], dataset, fold))
    for model in models:
        if dataset.classes != model.config.classes:
            raise EvaluationError(_class_mismatch(model.config.classes, dataset))
    _, clips = dataset.split(fold)
    seen: set[int] = set()
    for path, model in zip(paths, models, strict=True):
        found = seen_clips(path, model.config, dataset, clips)
        seen |= found
        # Twins within the data set of the model are a fault of its split: they are counted, as in the official folds.
        if found and model.config not in leaked and not _is_own_split(model.config, dataset):
            leaked.append(model.config)
            if not allow_training_fold:
                raise EvaluationError(
                    f"{model.config.name} was trained on {len(found)} of the {len(clips)} clips, by their sound, first"
                    f" {clips[min(found)].path}: {_MEMORISED.format(fold_name(fold))}"
                )

    logits: list[Tensor] = []
    windows: list[Tensor] = []
    loaded: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # (rate, samples) -> windows, clip index
    for model in models:
        front = model.config.frontend
        key = front.sample_rate, front.window_samples
        if key not in loaded:
            loaded[key] = dataset.load(clips, *key)
        waves, clip_index = loaded[key]
        network = _quantised_network(model) if precision == "int8" else model.network
        output = predict(model.frontend, network, waves, precision, views=views, title=model.config.name)
        if broken := (~output.isfinite().all(dim=2).all(dim=0)).nonzero().flatten().tolist():
            raise EvaluationError(
                f"{model.config.name} gives NaN or infinity, first for {clips[clip_index[broken[0]]].path}"
            )
        logits.append(output)
        windows.append(clip_index)
    return Evaluation(
        configs=tuple(model.config for model in models),
        parameters=sum(parameters(model.network) for model in models),
        dataset=dataset,
        fold=fold,
        trained_on=bool(leaked),
        seen=len(seen),
        chosen_by=any(held_out_fold(model.config) != fold for model in models),
        precision=precision,
        device=device.type,
        views=views,
        truth=np.array([clip.label for clip in clips]),
        logits=tuple(logits),
        windows=tuple(windows),
    )


def _load(directory: Path, device: torch.device) -> Model:
    try:
        model = load_model(directory, device)
    except ModelError as error:
        raise EvaluationError(str(error)) from error
    model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _quantised_network(model: Model) -> Network:
    if not model.config.int8_ranges:
        raise EvaluationError(f"{model.config.name} has no activation ranges for int8: otoscope quantise measures them")
    return quantised(model.network, model.config.int8_ranges)


def _leakage_message(config: ModelConfig, dataset: Dataset, fold: Fold) -> str:
    held_out = held_out_fold(config)
    if held_out is None:
        reason = "does not state which fold was held out"
    elif split_changed(config, dataset):
        reason = f"was trained with another split of {dataset.info.name}, possibly on some of these clips"
    else:
        reason = f"was trained on all folds but {held_out}"
    return f"{config.name} {reason}: {_MEMORISED.format(f'fold {fold}')}"


def _class_mismatch(known: tuple[str, ...], dataset: Dataset) -> str:
    unknown = [name for name in dataset.classes if name not in known]
    if unknown:
        return f"{dataset.root} has {len(unknown)} classes that the model does not have, first {unknown[0]!r}"
    return f"{dataset.root} has {len(dataset.classes)} classes, or another order of them; the model has {len(known)}"
