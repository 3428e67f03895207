"""Writes a measured figure into a model directory: `accuracy` in its config.json, and its README.md."""

from pathlib import Path

from otoscope.types import Accuracy
from training.data.base import Dataset, Fold
from training.data.esc50 import ESC50
from training.errors import EvaluationError, RecipeError
from training.eval.evaluate import Evaluation
from training.eval.report import EvaluationReport, class_table, confusion_table, fold_name, interval, percent
from training.recipe import Recipe, differences, load_recipe
from worker.model.checkpoint import ModelConfig, write_config

MAX_ROWS = 8  # rows of the tables
_DISPLAY_NAMES = {
    "adamw": "AdamW", "sgd": "SGD with Nesterov momentum",
    "one_cycle": "one-cycle", "cosine": "warm-up and cosine",
    "ema": "running average of the weights", "swa": "average of the last epochs' weights", "none": "last weights",
}  # fmt: skip


def record_accuracy(directory: Path, evaluation: Evaluation, report: EvaluationReport) -> ModelConfig:
    """Store the figure, replacing one of the same data and protocol. Returns the config as written.

    Raises EvaluationError for what is no accuracy of this model: several models or views, or clips that it was trained
    on or chosen by.
    """
    if evaluation.trained_on:
        raise EvaluationError("a figure on clips that the model was trained on is not recorded")
    if evaluation.chosen_by:
        raise EvaluationError(
            f"the clips of {fold_name(evaluation.fold)} had a say in when training stopped or in the temperature: only"
            " a figure on clips that had none is recorded"
        )
    if evaluation.forward_passes > 1:
        raise EvaluationError("only the figure of one model that looks once is recorded in it: that is what is served")
    measured = Accuracy(
        data=f"{report.data}, {fold_name(report.fold)}",
        protocol=f"trained on the other {'parts' if report.fold == 'test' else 'folds'}, {report.precision}",
        correct=report.correct,
        total=report.clips,
    )
    others = [
        one for one in evaluation.config.accuracy if (one.data, one.protocol) != (measured.data, measured.protocol)
    ]
    config = evaluation.config.model_copy(update={"name": directory.resolve().name, "accuracy": (measured, *others)})
    write_config(directory, config)
    (directory / "README.md").write_text(render_model_card(config, report, evaluation.dataset), encoding="utf-8")
    return config


def render_model_card(config: ModelConfig, report: EvaluationReport, dataset: Dataset) -> str:
    """The model's page: what it is, on what and how it was trained, how well it does, on which terms."""
    recipe = Recipe.model_validate(config.training["recipe"])
    front, network, info = config.frontend, config.architecture, dataset.info
    optim, held = recipe.optim, report.fold
    where = info.name.replace(" ", "\\ ")
    taught = f", taught by {len(config.training['teachers'])} network(s)" if "teachers" in config.training else ""
    lines = [
        f"# {config.name}",
        "",
        f"{config.description}.",
        "",
        "| | |",
        "|---|---|",
        f"| network | {network.summary}; {report.parameters:,} parameters |",
        f"| input | {front.window_seconds:g} s at {front.sample_rate:,} Hz, log-mel: {front.n_mels} mels of"
        f" {front.f_min:g}–{front.f_max:g} Hz, {front.n_fft}-point FFT, hop {front.hop};"
        f" mean {front.mean:g} dB, deviation {front.std:g} dB over the training clips |",
        f"| classes | {len(config.classes)} |",
        f"| data | {info.name}{': ' + info.credit if info.credit else ''} |",
        f"| weights | safetensors, float16; SHA-256 `{config.weights_sha256[:16]}…` |",
        f"| licence | {config.licence or 'see the data'} |",
        "",
        "## Accuracy",
        "",
        f"**{percent(report.accuracy)}** of {report.clips} clips of {fold_name(held)} ({report.correct} right; 95 %"
        f" interval {interval(report.interval_95)}), top-5 {percent(report.top_5)}, mean F1 {report.macro_f1:.3f};"
        f" measured in {report.precision} on {report.device}. Expected calibration error {report.calibration_error:.3f}"
        f" at temperature {config.temperature:g} ({report.calibration_error_uncalibrated:.3f} at 1).",
        "",
        f"Protocol: {_protocol(recipe, dataset, held)}",
    ]
    if info == ESC50 and report.crossing_clips:
        lines += [
            "",
            f"{report.crossing_clips} clips of {fold_name(held)} are cut from recordings that also stand in another"
            " fold, under another label; the official folds are used as they are.",
        ]
    lines += _notes(config)
    lines += ["", "Reproduce the figure, and the weights:", "", "```console"]
    fold = "" if held == "test" else f" --fold {held}"
    lines += [f"$ otoscope evaluate models/{config.name} --data {where}{fold} --precision {report.precision}"]
    given = () if recipe.distill.teacher else config.training.get("teachers", ())
    teachers = "".join(f" --teacher models/{one['name']}" for one in given)
    started = config.training.get("started_from")
    start = f" --from models/{started['name']}" if started else ""
    options = f"{_recipe_options(recipe)}{start}{teachers} --out runs/{config.name}"
    lines += [f"$ otoscope train --data {where}{fold} {options}", "```"]
    lines += ["", "## What it confuses", "", *confusion_table(report, MAX_ROWS)]
    lines += ["", "## Where it is worst", "", *class_table(report, MAX_ROWS)]
    lines += [
        "",
        "## Training",
        "",
        f"{optim.epochs} epochs of batches of {optim.batch * optim.accumulate}, {_DISPLAY_NAMES[optim.optimizer]},"
        f" {_DISPLAY_NAMES[optim.schedule]} to {optim.max_lr:g}, weight decay {optim.weight_decay:g}, label smoothing"
        f" {optim.label_smoothing:g}, {_DISPLAY_NAMES[optim.average]}, seed {recipe.seed}{taught}. Every value:"
        " [recipe.yaml](recipe.yaml).",
    ]
    if info == ESC50:
        lines += [
            "",
            "## Licence",
            "",
            f"Trained on {info.name} ({info.credit}), which is {info.licence}. The weights are for non-commercial"
            " use on the same terms.",
        ]
    return "\n".join(lines) + "\n"


def _protocol(recipe: Recipe, dataset: Dataset, held: Fold) -> str:
    _, judges = dataset.train_validation_split(held, recipe.optim.holdout, recipe.seed)
    stops = bool(judges and recipe.optim.patience)
    if held == "test":
        part = "the val part" if "val" in dataset.folds else "a held-out part of it"
        said = "when to stop and how confident to be" if stops else "how confident to be"
        judged = f"{part} said {said}; " if judges else ""
        return (
            f"trained on the train part; {judged}no recording stands in two parts, and no clip of the test part is"
            " looked at before this figure."
        )
    others = ", ".join(str(fold) for fold in dataset.folds if fold != held)
    stopped = "chosen by a held-out part of them" if stops else "those at the end of the schedule"
    return (
        f"trained on folds {others}; the weights are {stopped}, and no clip of fold {held} is looked at before this"
        " figure, so it chooses nothing. One fold is no cross-validation."
    )


def _notes(config: ModelConfig) -> list[str]:
    """What whoever trained it wants to be known, from the config."""
    note = config.training.get("note")
    return ["", str(note)] if note else []


def _recipe_options(recipe: Recipe) -> str:
    """How to name the recipe on the command line: a bundled one, and what differs from it."""
    try:
        changed = differences(recipe, load_recipe(recipe.name))
    except RecipeError:
        return "--recipe recipe.yaml"
    return " ".join([f"--recipe {recipe.name}", *(f"--set {key}='{value}'" for key, value in changed.items())])
