"""Records a measured accuracy in a model directory: `accuracy` in config.json, and the model card README.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otoscope.types import Accuracy
from training.base_models.registry import BASE_MODELS
from training.data.base import Dataset, Fold, fold_name
from training.data.esc50 import ESC50
from training.errors import EvaluationError, RecipeError, cause
from training.eval import answer_report
from training.eval.evaluate import Evaluation
from training.eval.report import EvaluationReport, class_table, confusion_table, interval, percent
from training.fit.history import CURVE
from training.recipe import Recipe, differences, load_recipe, parse_stored
from worker.model.checkpoint import ModelConfig, model_name, write_config
from worker.model.frontend import FrontendConfig

MAX_ROWS = 8  # rows per table
_KEPT = (  # values of a recipe that a base model does not replace
    "frontend.window_seconds", "frontend.level_dbfs", "frontend.repeat_pause",
    "network.head", "network.dropout", "network.patch_hop", "network.layers",
)  # fmt: skip
_COMBINATIONS = {"averaged": "average", "joined": "join"}
"""Key of the models in the config of a combined one -> the command that combines them."""

_DISPLAY_NAMES = {
    "adamw": "AdamW", "sgd": "SGD with Nesterov momentum",
    "one_cycle": "one-cycle", "cosine": "warm-up and cosine",
    "ema": "exponential moving average of the weights", "swa": "stochastic weight averaging",
    "none": "weights of the last step",
}  # fmt: skip


@dataclass(frozen=True)
class _Run:
    """A training, with which the weights can be had again."""

    name: str
    recipe: Recipe
    started_from: str  # name of a pretrained model; empty: random weights


def record_accuracy(directory: Path, evaluation: Evaluation, report: EvaluationReport) -> ModelConfig:
    """Store the accuracy in config.json, replacing one of the same data and protocol, and write README.md. Returns the
    new config.

    Raises EvaluationError for a figure that is not the accuracy of this model on unseen clips: an ensemble, several
    views, or clips used for training, early stopping or calibration.
    """
    if evaluation.trained_on:
        raise EvaluationError("an accuracy on training clips is not recorded")
    if evaluation.chosen_by:
        raise EvaluationError(
            f"the {fold_name(evaluation.fold)} was used for early stopping or calibration: only an accuracy on other"
            " clips is recorded"
        )
    if evaluation.dataset.only_measured:
        raise EvaluationError(
            f"{report.data} is not the data that the model was split with: only its test set is recorded"
        )
    if evaluation.forward_passes > 1:
        raise EvaluationError("only the accuracy of one model with one view is recorded, as in the service")
    measured = Accuracy(
        data=f"{report.data}, {fold_name(report.fold)}",
        protocol=f"trained on the other {'subsets' if report.fold == 'test' else 'folds'}, {report.precision}",
        correct=report.correct,
        total=report.clips,
        reliability=report.answers.reliability if report.answers else (),
    )
    others = [
        one for one in evaluation.config.accuracy if (one.data, one.protocol) != (measured.data, measured.protocol)
    ]
    config = evaluation.config.model_copy(update={"name": model_name(directory), "accuracy": (measured, *others)})
    page = render_model_card(config, report, evaluation.dataset)
    if (directory / CURVE).is_file():
        page += f"\n## Learning curve\n\n![Loss and accuracy over the epochs]({CURVE})\n"
    try:
        write_config(directory, config)
        (directory / "README.md").write_text(page, encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"the accuracy cannot be recorded in {directory}: {cause(error)}") from error
    return config


def render_model_card(config: ModelConfig, report: EvaluationReport, dataset: Dataset) -> str:
    """The model card: architecture, data and training, accuracy, and licence."""
    recipe = parse_stored(config.training["recipe"])
    front, network, info = config.frontend, config.architecture, dataset.info
    test_fold = report.fold
    test_set = _with_article(test_fold)
    where = info.name.replace(" ", "\\ ")
    distilled = (
        f", distilled from {len(config.training['teachers'])} teacher(s)" if "teachers" in config.training else ""
    )
    lines = [
        f"# {config.name}",
        "",
        f"{config.description}.",
        "",
        "| | |",
        "|---|---|",
        f"| network | {network.summary}; {report.parameters:,} parameters |",
        f"| input | {front.window_seconds:g} s at {front.sample_rate:,} Hz{_of_short_sounds(front)}, log-mel:"
        f" {' and, for another network, '.join(map(_log_mel, (front, *front.stacked)))} |",
        f"| classes | {len(config.classes)} |",
        f"| data | {info.name}{': ' + info.credit if info.credit else ''} |",
        f"| weights | safetensors, float16; SHA-256 `{config.weights_sha256[:16]}…` |",
        f"| licence | {config.licence or 'see the data'} |",
        "",
        "## Accuracy",
        "",
        f"**{percent(report.accuracy)}** of {report.clips} clips of {test_set} ({report.correct} correct; 95 %"
        f" interval {interval(report.interval_95)}{_by_source(report)}), {_top_5(config, report)}mean F1"
        f" {report.macro_f1:.3f}; measured in {report.precision} on {report.device}. Expected calibration error"
        f" {report.calibration_error:.3f} at temperature {config.temperature:g}"
        f" ({report.calibration_error_uncalibrated:.3f} at 1).",
        "",
        f"Protocol: {_protocol(recipe, dataset, test_fold)}{_thresholds_note(config, test_fold)}",
    ]
    if info == ESC50 and report.crossing_clips:
        lines += [
            "",
            f"{report.crossing_clips} clips of {test_set} are cut from recordings that also occur in another"
            " fold, under another label; the official folds are used unchanged.",
        ]
    lines += _notes(config)
    if report.answers:
        lines += ["", "## Answers", "", *answer_report.as_markdown(report.answers)]
    lines += ["", "To reproduce the accuracy and the weights:", "", "```console"]
    fold = "" if test_fold == "test" else f" --fold {test_fold}"
    lines += [f"$ otoscope evaluate models/{config.name} --data {where}{fold} --precision {report.precision}"]
    trained_first = Path(recipe.distill.teacher or "").stem  # by the run itself
    named = [one["name"] for one in config.training.get("teachers", ()) if one["name"] != trained_first]
    teachers = "".join(f" --teacher models/{name}" for name in named)
    runs = _runs(config)
    for run in runs:
        start = f" --from {_directory(run.started_from)}" if run.started_from else ""
        options = f"{_recipe_options(run.recipe, fine_tuned=bool(start))}{start}{teachers} --out runs/{run.name}"
        lines += [f"$ otoscope train --data {where}{fold} {options}"]
    for combination, command in _COMBINATIONS.items():
        if combination in config.training:
            names = " ".join(f"runs/{run.name}" for run in runs)
            parts = config.training[combination]
            equal = len({one.get("weight") for one in parts}) == 1  # the default; a mean has no weights
            shares = "" if equal else "".join(f" --weight {one['weight']:g}" for one in parts)
            lines += [f"$ otoscope models {command} {names}{shares} --out runs/{config.name}"]
    if config.training.get("answers"):
        lines += [f"$ otoscope evaluate runs/{config.name} --data {where}{fold}{_answer_options(config, recipe)}"]
    lines += ["```"]
    lines += ["", "## Most frequent confusions", "", *confusion_table(report, MAX_ROWS)]
    lines += ["", "## Classes with the lowest F1", "", *class_table(report, MAX_ROWS)]
    lines += [
        "",
        "## Training",
        "",
        *_schedules(runs, distilled, joined="joined" in config.training),
    ]
    if info == ESC50:
        bases = ", ".join(dict.fromkeys(f"`{run.started_from}`" for run in runs if run.started_from))
        base = f" They started from {bases}; the licences of all: {config.licence}." if bases else ""
        lines += [
            "",
            "## Licence",
            "",
            f"Trained on {info.name} ({info.credit}), which is {info.licence}. The weights are for non-commercial"
            f" use on the same terms.{base}",
        ]
    return "\n".join(lines) + "\n"


def _directory(model: str) -> str:
    """Where a pretrained model is: that of another project where `otoscope models add` puts it."""
    base = BASE_MODELS.get(model)
    return f"{'models' if base is None or base.served else 'runs'}/{model}"


def _schedules(runs: Sequence[_Run], distilled: str, *, joined: bool) -> list[str]:
    if joined:
        return [f"- `{run.name}`: {_schedule(run.recipe)}{distilled}" for run in runs]
    return [f"{_schedule(runs[0].recipe)}{distilled}. Every value: [recipe.yaml](recipe.yaml)."]


def _schedule(recipe: Recipe) -> str:
    optim = recipe.optim
    return (
        f"{optim.epochs} epoch{'s' if optim.epochs > 1 else ''} of batches of {optim.batch * optim.accumulate},"
        f" {_DISPLAY_NAMES.get(optim.optimizer, optim.optimizer)},"
        f" {_DISPLAY_NAMES[optim.schedule]} to {optim.max_lr:g}, weight decay {optim.weight_decay:g}, label smoothing"
        f" {optim.label_smoothing:g}, {_DISPLAY_NAMES[optim.average]}, seed {recipe.seed}"
    )


def _of_short_sounds(front: FrontendConfig) -> str:
    return "" if front.repeat_pause is None else f" (shorter sounds repeated, {front.repeat_pause:g} s apart)"


def _log_mel(front: FrontendConfig) -> str:
    return (
        f"{front.n_mels} mels of {front.f_min:g}–{front.f_max:g} Hz, {front.n_fft}-point FFT, hop {front.hop};"
        f" {_normalisation(front)}"
    )


def _normalisation(front: FrontendConfig) -> str:
    if front.log_offset:
        return f"logarithm of x + {front.log_offset:g}"
    return f"mean {front.mean:g} dB, standard deviation {front.std:g} dB over the training clips"


def _top_5(config: ModelConfig, report: EvaluationReport) -> str:
    """Of five classes or fewer, it is always right."""
    return f"top-5 {percent(report.top_5)}, " if len(config.classes) > 5 else ""


def _by_source(report: EvaluationReport) -> str:
    """The interval that counts sources, where recordings share them."""
    if not report.interval_95_sources or report.sources == report.clips:
        return ""
    return f"; counting the {report.sources} sources {interval(report.interval_95_sources)}"


def _protocol(recipe: Recipe, dataset: Dataset, test_fold: Fold) -> str:
    _, validation_clips = dataset.train_validation_split(test_fold, recipe.optim.holdout, recipe.seed)
    stops = bool(validation_clips and recipe.optim.patience)
    if test_fold == "test":
        part = "the val set" if "val" in dataset.folds else "a held-out part of it"
        purpose = "early stopping and calibration" if stops else "calibration"
        validation = f"{part} is used for {purpose}; " if validation_clips else ""
        return (
            f"trained on the train set; {validation}no recording is in two subsets, and no clip of the test set is"
            " used before this evaluation. The accuracy of one split depends on chance: rely on that over folds by"
            " source (`otoscope evaluate --folds`)."
        )
    others = ", ".join(str(fold) for fold in dataset.folds if fold != test_fold)
    stopped = "chosen on a held-out part of them" if stops else "those at the end of the schedule"
    return (
        f"trained on folds {others}; the weights are {stopped}, and no clip of fold {test_fold} is used before"
        " this evaluation, so it influences no choice. One fold is not a cross-validation."
    )


def _thresholds_note(config: ModelConfig, test_fold: Fold) -> str:
    """Whether clips of the test fold influenced when the model names a sound; they never influence its weights."""
    fit = config.training.get("answers", {})
    if fit.get("thresholds_from") != fold_name(test_fold):
        return ""
    where = _with_article(test_fold)
    if fit.get("temperature_from") != fold_name(test_fold):
        return f" Afterwards the thresholds of its answers were fitted on {where}; they change no predicted class."
    return (
        f" Afterwards the thresholds of its answers and the temperature were fitted on {where}; they change no"
        " predicted class, but the calibration error is that of the clips the temperature was fitted on."
    )


def _with_article(fold: Fold) -> str:
    """`fold 5`, `the test set`."""
    return fold_name(fold) if isinstance(fold, int) else f"the {fold_name(fold)}"


def _notes(config: ModelConfig) -> list[str]:
    """Free text from the config of the model."""
    note = config.training.get("note")
    return ["", str(note)] if note else []


def _runs(config: ModelConfig) -> list[_Run]:
    """The training of the model, or those of the models that were combined."""

    def run(name: str, training: dict[str, Any]) -> _Run:
        return _Run(name, parse_stored(training["recipe"]), training.get("started_from", {}).get("name", ""))

    combined = next((config.training[each] for each in _COMBINATIONS if each in config.training), None)
    if combined is None:
        return [run(config.name, config.training)]
    # Of models that were averaged by earlier versions.
    shared = config.training.get("started_from", {}) if "averaged" in config.training else {}
    return [
        run(f"{config.name}-{number}", {"started_from": shared, **one}) for number, one in enumerate(combined, start=1)
    ]


def _answer_options(config: ModelConfig, recipe: Recipe) -> str:
    """The command-line options that fit the answers of the model."""
    fit = config.training["answers"]
    options = " --fit-answers"
    if config.frontend.level_dbfs != recipe.frontend.level_dbfs:
        options += f" --level-dbfs {config.frontend.level_dbfs:g}"
    if "temperature_from" in fit:
        options += " --fit-temperature"
    if "precision_target" in fit:
        options += f" --precision-target {fit['precision_target']:g}"
    return options


def _recipe_options(recipe: Recipe, *, fine_tuned: bool) -> str:
    """The command-line options that select the recipe: a bundled recipe and its overrides. Front end and network of a
    fine-tuned model are those of its base model."""
    try:
        bundled = load_recipe(recipe.name)
    except RecipeError:
        return "--recipe recipe.yaml"
    changed = differences(recipe, bundled)
    if fine_tuned:
        of_base = ("frontend.", "network.")
        changed = {key: value for key, value in changed.items() if key in _KEPT or not key.startswith(of_base)}
        if recipe.network.type != bundled.network.type:  # then nothing of the network is the recipe's
            changed = {key: value for key, value in changed.items() if not key.startswith("network.")}
    return " ".join([f"--recipe {recipe.name}", *(f"--set {key}='{value}'" for key, value in changed.items())])
