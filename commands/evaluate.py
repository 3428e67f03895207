"""The commands for trained models: `otoscope evaluate`, `quantise`, `export`.

Modules that need torch are imported inside the commands.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import Changes, Data, StartName, interrupted, load_data, parse_fold, recipe_and_start

if TYPE_CHECKING:
    from training.eval.predict import Precision
    from training.recipe import Recipe, SegmentRecipe
    from worker.model.checkpoint import Model, ModelConfig


def evaluate(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Model directories; several are evaluated as an ensemble.")
    ],
    data: Data = None,
    fold: Annotated[str | None, typer.Option(metavar="N", help="The held-out fold by default.")] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Cross-validate --recipe in MODEL: N folds, by source in a custom data set."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --folds: a bundled recipe, or a YAML file; esc50-best by default."),
    ] = None,
    changes: Changes = None,
    start: StartName = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the report; MODEL/evaluation by default.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="float32|bfloat16|int8|service", help="`service`: what a worker on this machine would use."
        ),
    ] = "float32",
    views: Annotated[
        int, typer.Option(min=1, metavar="N", help="Test-time augmentation: N rotations of every clip.")
    ] = 1,
    trained_fold: Annotated[
        bool, typer.Option("--allow-training-fold", help="Evaluate on a fold that the model was trained on.")
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Write the accuracy into the model's config and README.")
    ] = False,
    fit_answers: Annotated[
        bool,
        typer.Option("--fit-answers", help="First fit the model's open-set scorer and thresholds, and store them."),
    ] = False,
    level_dbfs: Annotated[
        float | None,
        typer.Option(min=-60, max=0, metavar="DBFS", help="With --fit-answers: the level of the model's front end."),
    ] = None,
    fit_temperature: Annotated[
        bool, typer.Option("--fit-temperature", help="With --fit-answers: fit the temperature as well.")
    ] = False,
    precision_target: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="P", help="With --fit-answers: a threshold for each class for this precision."
        ),
    ] = None,
    outside: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also sounds of none of the classes, with a sub-folder for each kind."),
    ] = None,
    model_classes: Annotated[
        bool,
        typer.Option("--model-classes", help="Only clips of the model's classes; those of other classes are outside."),
    ] = False,
) -> None:
    """Evaluate a model on held-out clips, or cross-validate a recipe."""
    from training.eval.answer_report import headline as answers_headline
    from training.eval.answer_report import measure_model
    from training.eval.answers import folder_sounds
    from training.eval.evaluate import evaluate as run
    from training.eval.model_card import record_accuracy
    from training.eval.report import check_report_folder, headline, interval, notes, percent, write_report

    arithmetic = _precision(precision)
    if folds:
        if len(models) > 1:
            raise typer.BadParameter("takes one directory for its runs", param_hint="--folds")
        of_one_model = {
            "--fold": fold, "--out": out, "--precision": precision != "float32", "--views": views > 1,
            "--allow-training-fold": trained_fold, "--record": record, "--fit-answers": fit_answers,
            "--level-dbfs": level_dbfs is not None, "--fit-temperature": fit_temperature,
            "--precision-target": precision_target is not None, "--outside": outside, "--model-classes": model_classes,
        }  # fmt: skip
        if given := [name for name, value in of_one_model.items() if value]:
            raise typer.BadParameter(
                "is for a trained model, and cannot be combined with --folds, which trains one for each fold",
                param_hint=given[0],
            )
        return _cross_validate(models[0], data, folds, *recipe_and_start(recipe or "esc50-best", changes, start))
    if recipe or start or changes:
        raise typer.BadParameter("needed with --recipe, --from and --set, which are for training", param_hint="--folds")
    config = _config(models[0])
    _check_data_is_named(config, data)
    where = out or models[0] / "evaluation"
    check_report_folder(where)
    outside_sounds = [] if outside is None else folder_sounds(outside, config.frontend.sample_rate)
    dataset = whole = load_data(data, config.frontend, _segments(config), to_measure=True)
    if model_classes:
        name = config.training.get("data", {}).get("name") or f"{whole.info.name}, {len(config.classes)} classes"
        dataset = whole.select_classes(config.classes, name)
    chosen_fold = parse_fold(fold, dataset) if fold else None
    if fit_answers:
        from training.fit.answers import refit_answers

        for model in models:
            refit_answers(
                model, dataset, chosen_fold,
                level=level_dbfs, temperature=fit_temperature, precision=precision_target,
            )  # fmt: skip
    elif level_dbfs is not None or fit_temperature or precision_target is not None:
        raise typer.BadParameter("needed to change a model", param_hint="--fit-answers")
    evaluation = run(models, dataset, chosen_fold, precision=arithmetic, views=views, allow_training_fold=trained_fold)
    answers = None
    if len(models) == 1 and evaluation.config.classes == config.classes:  # else it has answers of other classes
        others = [
            clip for clip in whole.recordings(evaluation.fold) if whole.classes[clip.label] not in dataset.classes
        ]
        answers = measure_model(
            models[0],
            evaluation.dataset,
            evaluation.fold,
            outside_sounds,
            others,
            whole.classes,
            evaluation.recordings[0],
        )
    report = write_report(evaluation, where, answers)
    print(headline(report))
    many = len(evaluation.config.classes) > 5  # of five classes, top-5 is always right
    top = f", top-5 {percent(report.top_5)}" if many else ""
    print(f"95 % interval {interval(report.interval_95)}{top}, {report.precision}")
    if report.interval_95_sources and report.sources < report.clips:
        print(f"95 % interval by source ({report.sources} sources) {interval(report.interval_95_sources)}")
    print(f"calibration error {report.calibration_error:.3f}, forward passes per clip {report.forward_passes}")
    for note in notes(report):
        print(note)
    if answers:
        print(answers_headline(answers))
        for name, groups in (("synthesised background", answers.background), ("outside sounds", answers.outside)):
            if groups and all(one.auroc is not None for one in groups):
                area = sum(one.auroc or 0.0 for one in groups) / len(groups)
                refused = sum(one.refused for one in groups) / len(groups)
                print(f"{name}: AUROC {area:.3f}, refused {percent(refused)} (means of {len(groups)} kinds)")
    print(f"Report, confusion matrix and labels: {where}")
    if record:
        record_accuracy(models[0], evaluation, report)
        print(f"Recorded in {models[0]}")


def _cross_validate(out: Path, data: Path | None, folds: int, recipe: "Recipe", model: "Model | None") -> None:
    from training.eval.crossval import as_markdown, cross_validate, headline
    from training.eval.report import interval, seen_warning
    from training.fit.run_state import resumable
    from worker.inference.malloc import keep_freed_memory

    keep_freed_memory()
    dataset = load_data(data, recipe.frontend, recipe.segments, folds=folds, seed=recipe.seed)
    chosen = dataset.folds[-folds:]  # the last ones first: ESC-50's fifth fold is the one that models are shipped for
    try:
        report = cross_validate(recipe, dataset, chosen[::-1], out, pretrained=model)
    except KeyboardInterrupt:
        interrupted(any(map(resumable, out.glob("fold*"))), out, "the same command")
    print(as_markdown(report).split("\n", 2)[2])
    print(headline(report))
    print(f"95 % interval by source ({report.sources} sources) {interval(report.interval_95_sources)}")
    if warning := seen_warning(report.seen_files, report.clips, "folds.json"):
        print(warning)
    print(f"Reports, models and labels: {out}")


def quantise(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Model directories.")], data: Data = None
) -> None:
    """Calibrate a model for 8-bit inference. OTOSCOPE_INT8=1 enables it; the clips are those of its training."""
    from training.export.quantise import quantise as run

    config = _config(models[0])
    _check_data_is_named(config, data)
    dataset = load_data(data, config.frontend, _segments(config))
    for model in models:
        ranges = run(model, dataset).int8_ranges
        print(f"{model} now has the activation ranges of {len(ranges)} convolutions")
    print(f"Evaluate its accuracy: otoscope evaluate {shlex.quote(str(models[0]))} --precision int8{_same(data)}")


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model directory.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="MODEL/model.onnx by default.")] = None,
) -> None:
    """Export a model as ONNX. The front end is included, and the output is compared with PyTorch."""
    from training.export.onnx import export_onnx

    check = export_onnx(model, out or model / "model.onnx")
    print(f"{check.path}: {check.bytes / 2**20:.1f} MiB, opset {check.opset}, waveform in, probabilities out,")
    print(f"any batch and length; at most {check.max_difference:.1e} from PyTorch")


def _config(model: Path) -> "ModelConfig":
    from training.errors import EvaluationError
    from worker.model.checkpoint import ModelError, read_config

    try:
        return read_config(model)
    except ModelError as error:
        raise EvaluationError(str(error)) from error


def _check_data_is_named(config: "ModelConfig", data: Path | None) -> None:
    """Without --data the data set is ESC-50, which is downloaded: that is no use for a model of other sounds."""
    from training.data.esc50 import ESC50

    learned = config.training.get("data", {}).get("name", ESC50.name)
    if data is None and not learned.startswith(ESC50.name):
        raise typer.BadParameter(f"needed: {config.name} was trained on {learned!r}", param_hint="--data")


def _segments(config: "ModelConfig") -> "SegmentRecipe":
    """How the training data of a model were cut; a model of another project has no recipe."""
    from training.recipe import SegmentRecipe, parse_stored

    recipe = config.training.get("recipe")
    return parse_stored(recipe).segments if recipe else SegmentRecipe()


def _precision(name: str) -> "Precision":
    from training.eval.predict import service_precision

    if name == "service":
        return service_precision()
    if name not in ("float32", "bfloat16", "int8"):
        raise typer.BadParameter("one of float32, bfloat16, int8, service", param_hint="--precision")
    return name  # type: ignore[return-value]


def _same(data: Path | None) -> str:
    """The option that selects the same data."""
    return f" --data {shlex.quote(str(data))}" if data else ""
