"""Fits when a model names a sound: its open-set scorer and its thresholds, the last step of a training.

Also for the model directory of an earlier training, whose network stays as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from training.data.base import Clip, Dataset, Fold, fold_name, label_targets, stopping_and_calibration
from training.data.windows import Windows
from training.errors import EvaluationError
from training.eval.answers import (
    MAX_RECORDINGS,
    MAX_SECONDS,
    MEASURE_SEED,
    answer,
    background_sounds,
    best_class_thresholds,
    clip_sounds,
    fit_class_thresholds,
    fit_thresholds,
    listen,
    spread_evenly,
)
from training.eval.calibrate import temperature_of
from training.eval.evaluate import held_out_fold, split_changed
from training.fit.open_set import KNOWN_WINDOWS, fit_open_set
from training.recipe import OpenSetRecipe, Recipe, parse_stored
from worker.model.checkpoint import Model, ModelConfig, ModelError, load_model, save_open_set, write_config
from worker.model.frontend import LogMel
from worker.model.open_set import OpenSetScorer
from worker.model.precision import pick_device

TRAINING_CLIPS = "training clips"
MULTI_LABEL_LEAST = 0.05  # the lowest threshold of a class
CLASS_BACKGROUND = 200  # synthesised sounds that thresholds of classes must refuse


@dataclass(frozen=True)
class FittedAnswers:
    """What `fit_answers` adds to a model."""

    config: ModelConfig  # with thresholds; without the checksum of the scorer
    scorer: OpenSetScorer | None

    def save(self, directory: Path) -> ModelConfig:
        """Write it to a model directory. Returns the config as written. Raises OSError."""
        if self.scorer is not None:
            return save_open_set(directory, self.scorer, self.config)
        write_config(directory, self.config)
        return self.config


@dataclass(frozen=True)
class ThresholdClips:
    """The clips from which thresholds are fitted, and what they are to the network."""

    clips: Sequence[Clip]
    origin: str  # `fold 5`, `val set`, ...; TRAINING_CLIPS if the network was trained on them


def threshold_clips(
    dataset: Dataset, test_fold: Fold, recipe: Recipe, fold: Fold | None = None
) -> tuple[list[Clip], ThresholdClips]:
    """Training clips, and the clips for thresholds: those held out of the training, without those that stop it early,
    else those of `fold`, else the training clips themselves. Raises DatasetError."""
    clips, held_out = dataset.train_validation_split(test_fold, recipe.optim.holdout, recipe.seed)
    if held_out:
        _, held_out = stopping_and_calibration(held_out, recipe.optim.patience, recipe.seed)
        part = "val set" if "val" in dataset.folds else "held-out part of the training folds"
        return clips, ThresholdClips(held_out, part)
    if fold is not None:
        return clips, ThresholdClips(dataset.split(fold)[1], fold_name(fold))
    return clips, ThresholdClips(clips, TRAINING_CLIPS)


def fit_answers(
    model: Model,
    known: Windows,
    targets: Tensor,
    others: ThresholdClips,
    recipe: OpenSetRecipe,
    *,
    temperature: bool = False,
    precision: float | None = None,
) -> FittedAnswers:
    """Fit the scorer on training windows `known` (windows, samples) with their `targets` (windows, classes), and the
    thresholds on `others`.

    `temperature` fits that as well. With `precision`, each class gets the threshold from which on its detections have
    that precision; otherwise it keeps the one it has.
    """
    front, classes = model.config.frontend, model.config.classes
    sounds = clip_sounds(others.clips, classes, front.sample_rate)
    recordings = listen(model, spread_evenly(sounds, MAX_RECORDINGS), "thresholds", seconds=MAX_SECONDS)
    if not recordings:
        raise EvaluationError(f"no sound of the {others.origin} can be decoded: there is nothing to fit thresholds on")
    if temperature and not model.config.multi_label:
        model = replace(model, config=model.config.model_copy(update={"temperature": temperature_of(recordings)}))
    scorer = None
    if recipe.background:
        scorer = fit_open_set(model, known, targets, recordings, sounds=recipe.background, steps=recipe.steps)
    answered = answer(model, scorer, recordings)
    thresholds = fit_thresholds(answered)
    changes: dict[str, object] = {"unknown_threshold": thresholds.unknown, "min_confidence": thresholds.confidence}
    if model.config.multi_label:
        changes["min_confidence"] = None  # a class is named from its own threshold on
        changes["class_thresholds"] = best_class_thresholds(answered, classes, MULTI_LABEL_LEAST)
    elif precision is not None:
        noise = background_sounds(CLASS_BACKGROUND, front.window_samples, front.sample_rate, MEASURE_SEED)
        refused = answer(model, scorer, listen(model, noise, "background"))
        changes["class_thresholds"] = fit_class_thresholds(
            answered, refused, classes, precision, model.config.answers.detection_threshold
        )
    fit = {
        "thresholds_from": others.origin,
        "recordings": len(recordings),
        "known_windows": min(len(known), KNOWN_WINDOWS),
        "background": recipe.background,
        **({"precision_target": precision} if precision is not None else {}),
        **({"temperature_from": others.origin} if temperature else {}),
    }
    config = model.config.model_copy(
        update={
            "answers": model.config.answers.model_copy(update=changes),
            "training": {**model.config.training, "answers": fit},
            "open_set_sha256": "",
        }
    )
    if others.origin == TRAINING_CLIPS:
        tqdm.write(
            "the thresholds are fitted on training clips, since none are held out: they are too high for other sounds"
            " (`otoscope evaluate --fit-answers` fits them on a test set)"
        )
    return FittedAnswers(config, scorer)


def refit_answers(
    directory: Path,
    dataset: Dataset,
    fold: Fold | None = None,
    *,
    level: float | None = None,
    temperature: bool = False,
    precision: float | None = None,
) -> ModelConfig:
    """Fit the scorer and the thresholds of a trained model, and write them to its directory.

    Thresholds are fitted on the clips that its recipe held out, or else on `fold`, by default its test fold. `level` in
    dBFS becomes the level of its front end. Raises EvaluationError and DatasetError.
    """
    try:
        model = load_model(directory, pick_device())
    except ModelError as error:
        raise EvaluationError(str(error)) from error
    config = model.config
    test_fold = held_out_fold(config)
    if test_fold is None:
        raise EvaluationError(f"{config.name} does not state which fold was held out")
    if split_changed(config, dataset):
        raise EvaluationError(f"{config.name} was trained with another split of {dataset.info.name}")
    if dataset.classes != config.classes:
        raise EvaluationError(f"{dataset.root} has other classes than {config.name}, or another order of them")
    if level is not None:
        frontend = config.frontend.changed(level_dbfs=level)
        model = replace(
            model,
            config=config.model_copy(update={"frontend": frontend}),
            frontend=LogMel(frontend).to(model.frontend.window.device),
        )
    recipe = parse_stored(config.training["recipe"])
    clips, others = threshold_clips(dataset, test_fold, recipe, test_fold if fold is None else fold)
    front = model.config.frontend
    chosen = spread_evenly(clips, KNOWN_WINDOWS)
    known, clip_index = dataset.open(chosen, front)
    targets = label_targets(chosen, len(config.classes))[clip_index]
    fitted = fit_answers(model, known, targets, others, recipe.open_set, temperature=temperature, precision=precision)
    return fitted.save(directory)
