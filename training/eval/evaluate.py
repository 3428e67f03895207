"""Evaluates model directories on one fold of a data set, with the decoder and the front end of the service.

The accuracy on training clips is no measure of generalisation. Such an evaluation is refused
unless it is explicitly allowed, and every report of it carries a warning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.base_models.counterparts import counterparts, with_classes
from training.data.base import Clip, Dataset, Fold, fold_name
from training.data.fingerprint import has_digests, seen_windows
from training.data.windows import in_parts
from training.errors import EvaluationError
from training.eval.answers import Answered, Recording, answer, clip_sounds, listen
from training.eval.metrics import Labels
from training.eval.predict import Precision
from worker.model.base import Network, parameters
from worker.model.checkpoint import Model, ModelConfig, ModelError, load_model
from worker.model.fake_quant import quantised
from worker.model.precision import pick_device

_MEMORISED = (
    "{} would measure memorisation rather than generalisation (--allow-training-fold evaluates it nevertheless)"
)


@dataclass(frozen=True)
class Evaluation:
    """The answers of one model, or of an ensemble whose confidences are averaged, to all recordings of a fold."""

    configs: tuple[ModelConfig, ...]
    parameters: int  # total of all models
    dataset: Dataset
    fold: Fold
    trained_on: bool  # whether these clips are, or may be, in the training data of one of the models
    seen: tuple[str, ...]  # files with a window that is in the training data of one of the models
    seen_known: bool  # whether each of the models has digests of its training data
    chosen_by: bool  # whether early stopping or calibration used these clips: slightly optimistic
    precision: Precision
    device: str
    views: int  # test-time augmentation: circular shifts of each clip, averaged
    models: tuple[Model, ...]
    recordings: tuple[tuple[Recording, ...], ...]  # per model, each file of the fold once

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
    def truth(self) -> Labels:
        """(recordings,): of a recording with several labels the predicted one if it is among them, else the first."""
        pairs = zip(self.recordings[0], self.predicted.tolist(), strict=True)
        return np.array([named if named in one.sound.labels else one.sound.label for one, named in pairs])

    @property
    def present(self) -> NDArray[np.bool_]:
        """(recordings, classes): all labels."""
        found = np.zeros((len(self.recordings[0]), len(self.config.classes)), bool)
        for row, one in zip(found, self.recordings[0], strict=True):
            row[list(one.sound.labels)] = True
        return found

    @property
    def sources(self) -> list[str]:
        """(recordings,)"""
        return [one.sound.source for one in self.recordings[0]]

    @property
    def logits(self) -> tuple[Tensor, ...]:
        """Per model, before temperature scaling: (views, windows, classes)."""
        return tuple(torch.cat([one.views for one in own], dim=1) for own in self.recordings)

    @property
    def windows(self) -> tuple[Tensor, ...]:
        """Per model: index of the recording to which each window belongs (windows,)."""
        counts = [torch.tensor([len(one.starts) for one in own]) for own in self.recordings]
        return tuple(torch.arange(len(own)).repeat_interleave(own) for own in counts)

    @property
    def answered(self) -> tuple[list[Answered], ...]:
        """Per model: what a service answers."""
        return self._answers([config.temperature for config in self.configs])

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Calibrated confidences (recordings, classes): of a recording of one window, its probabilities."""
        return _mean_confidences(self.answered)

    @property
    def uncalibrated(self) -> NDArray[np.float32]:
        """Confidences (recordings, classes) with all temperatures at 1."""
        return _mean_confidences(self._answers([1.0] * len(self.configs)))

    @property
    def predicted(self) -> Labels:
        named: Labels = self.probabilities.argmax(axis=1)
        return named

    def _answers(self, temperatures: list[float]) -> tuple[list[Answered], ...]:
        return tuple(
            answer(replace(model, config=config.model_copy(update={"temperature": value})), model.open_set, own)
            for model, config, own, value in zip(self.models, self.configs, self.recordings, temperatures, strict=True)
        )


def _mean_confidences(answered: tuple[list[Answered], ...]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = np.mean([[one.answer.confidences for one in own] for own in answered], axis=0)
    return mean


def held_out_fold(config: ModelConfig) -> Fold | None:
    """The fold on which the model was not trained; None if its config does not state one."""
    fold = config.training.get("test_fold")
    return fold if isinstance(fold, int | str) else None


def of_another_project(config: ModelConfig) -> bool:
    """Whether `otoscope models add` wrote the model: it was trained on none of the data sets here."""
    return "source" in config.training


def split_changed(config: ModelConfig, dataset: Dataset) -> bool:
    """Whether the training clips of this model differ from the current ones: the data set was split again, or grew.

    False for configs written before the digest of the training clips was stored.
    """
    learned, fold = config.training.get("data", {}), held_out_fold(config)
    if fold is None or learned.get("name") != dataset.info.name or "digest" not in learned:
        return False
    return bool(learned["digest"] != dataset.digest(fold))


def seen_files(directory: Path, config: ModelConfig, dataset: Dataset, clips: Sequence[Clip]) -> list[Path]:
    """The files with a window that the model was trained on, by the sound, re-encoded copies included; none for a model
    without digests.

    Raises EvaluationError and DatasetError.
    """
    if not has_digests(directory):
        return []
    rate = config.frontend.sample_rate
    waves, clip_index = dataset.open(clips, config.frontend)
    seen = [seen_windows(directory, part, rate) for part in in_parts(waves, 1_000)]
    rows = clip_index[torch.from_numpy(np.concatenate(seen))]
    return list(dict.fromkeys(clips[row].path for row in sorted(rows.tolist())))


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

    Each recording has the answer of the service: its windows overlap by half, a shorter recording fills one as the
    front end states, and the windows in which something is heard are combined. A model of another project is evaluated
    on those classes of the data set that have counterparts among its own (`training.base_models.counterparts`). A data
    set without a split is measured as a whole; it may lack classes of the model. Raises EvaluationError and
    DatasetError.
    """
    device = pick_device()
    paths = [directories] if isinstance(directories, Path) else directories
    models = [_load(path, device) for path in paths]
    if all(of_another_project(model.config) for model in models):
        dataset, models = in_classes_of(dataset, models)
        fold = dataset.default_fold if fold is None else fold
    new = dataset.only_measured
    if new:
        dataset, fold = dataset.in_classes(models[0].config.classes), "test"
    fold = held_out_fold(models[0].config) if fold is None else fold
    if fold is None:
        raise EvaluationError(f"{models[0].config.name} does not state which fold was held out: specify one")
    unseen = {fold, *dataset.compatible_test_folds(fold)}
    leaked = [
        model.config
        for path, model in zip(paths, models, strict=True)
        if not of_another_project(model.config)
        and not _is_new(path, model.config, dataset)
        and (held_out_fold(model.config) not in unseen or split_changed(model.config, dataset))
    ]
    if leaked and not allow_training_fold:
        raise EvaluationError(_leakage_message(leaked[0], dataset, fold))
    for model in models:
        if dataset.classes != model.config.classes:
            raise EvaluationError(_class_mismatch(model.config.classes, dataset))
    _, clips = dataset.split(fold)
    files = dataset.recordings(fold)
    seen: dict[Path, None] = {}  # each once, in order
    for path, model in zip(paths, models, strict=True):
        found = seen_files(path, model.config, dataset, clips)
        seen |= dict.fromkeys(found)
        # Twins within the data set of the model are a fault of its split: they are counted, as in the official folds.
        if found and model.config not in leaked and not _is_own_split(model.config, dataset):
            leaked.append(model.config)
            if not allow_training_fold:
                raise EvaluationError(
                    f"{model.config.name} was trained on {len(found)} of the {len(files)} files, by their sound, first"
                    f" {found[0]}: {_MEMORISED.format(fold_name(fold))}"
                )

    recordings: list[tuple[Recording, ...]] = []
    for model in models:
        used = replace(model, network=_quantised_network(model)) if precision == "int8" else model
        sounds = clip_sounds(files, dataset.classes, model.config.frontend.sample_rate)
        heard = listen(used, sounds, model.config.name, precision=precision, views=views, strict=True)
        if broken := [one.sound.path for one in heard if not one.views.isfinite().all()]:
            raise EvaluationError(f"{model.config.name} gives NaN or infinity, first for {broken[0]}")
        recordings.append(tuple(heard))
    return Evaluation(
        configs=tuple(model.config for model in models),
        parameters=sum(parameters(model.network) for model in models),
        dataset=dataset,
        fold=fold,
        trained_on=bool(leaked),
        seen=tuple(map(dataset.named, seen)),
        seen_known=all(map(has_digests, paths)),
        chosen_by=not new
        and any(held_out_fold(one.config) != fold for one in models if not of_another_project(one.config)),
        precision=precision,
        device=device.type,
        views=views,
        models=tuple(models),
        recordings=tuple(recordings),
    )


def _is_new(directory: Path, config: ModelConfig, dataset: Dataset) -> bool:
    """Whether a data set is for measuring only, and not the training data of the model: it has another name, or the
    model has digests of its training sounds, with which each of them is then recognised."""
    other = config.training.get("data", {}).get("name") != dataset.info.name
    return dataset.only_measured and (other or has_digests(directory))


def in_classes_of(dataset: Dataset, models: list[Model]) -> tuple[Dataset, list[Model]]:
    """The classes of the data set that have counterparts in every model, and the models with these classes.

    Unchanged if they have the same classes, or the data set has fewer than two such.
    """
    if all(model.config.classes == dataset.classes for model in models):
        return dataset, models
    groups = [counterparts(dataset.classes, model.config.classes) for model in models]
    shared = [name for name in dataset.classes if all(name in own for own in groups)]
    if len(shared) < 2:
        return dataset, models
    name = f"{dataset.info.name}, {len(shared)} of {len(dataset.classes)} classes"
    return dataset.select_classes(shared, name), [
        with_classes(model, {label: own[label] for label in shared}) for model, own in zip(models, groups, strict=True)
    ]


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
        count = f"{len(unknown)} class{'es' * (len(unknown) != 1)}"
        return f"{dataset.root} has {count} that the model does not have, first {unknown[0]!r}"
    if missing := [name for name in known if name not in dataset.classes]:
        return (
            f"{dataset.root} lacks {len(missing)} of the {len(known)} classes of the model, first {missing[0]!r}; a"
            " custom data set may lack some as long as it has no split: `otoscope data reset` removes it"
        )
    return f"{dataset.root} has the classes of the model in another order"
