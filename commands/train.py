"""The training commands: `otoscope train`, `evaluate`, `lr-find`, `overfit`, `quantise`, `export`.

Modules that need torch are imported inside the commands.
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from training.data.base import Dataset, Fold
    from training.eval.predict import Precision
    from training.recipe import Recipe, SegmentRecipe
    from worker.model.checkpoint import Model, ModelConfig
    from worker.model.frontend import FrontendConfig

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="A custom data set, or a folder like ESC-50; default: download ESC-50."),
]
FoldName = Annotated[
    str | None, typer.Option("--fold", metavar="N", help="The held-out fold; the last one by default.")
]
RecipeName = Annotated[str, typer.Option("--recipe", metavar="NAME", help="A bundled recipe, or a YAML file.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; may be repeated.")
]
TeacherNames = Annotated[
    list[Path] | None, typer.Option("--teacher", metavar="MODEL", help="Distil from this model; may be repeated.")
]
StartName = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="MODEL",
        help="Fine-tune this model, by its directory or its name in `models`; the classes may differ.",
    ),
]
INTERRUPTED = 130  # exit status after Ctrl-C


def train(
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The model directory to create; runs/RECIPE-foldN by default.")
    ] = None,
    fold: FoldName = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="A bundled recipe, or a YAML file; without it one is proposed.",
        ),
    ] = None,
    changes: Changes = None,
    teacher: TeacherNames = None,
    start: StartName = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    track: Annotated[
        list[str] | None,
        typer.Option("--track", metavar="NAME", help="Record the run with mlflow or wandb, too; may be repeated."),
    ] = None,
) -> None:
    """Train a network by a recipe. Ctrl-C saves a checkpoint, --resume continues from it. Without a recipe, look at the
    data and propose one. Several processes: torchrun --standalone --nproc-per-node N -m otoscope train ..."""
    from training.data.base import fold_name, most_folds
    from training.eval.answer_report import measure_model
    from training.eval.evaluate import evaluate as evaluate_model
    from training.eval.model_card import record_accuracy
    from training.eval.report import headline, write_report
    from training.fit import processes
    from training.fit.history import CURVE
    from training.fit.loop import train as run
    from training.fit.trackers import TENSORBOARD
    from worker.inference.malloc import keep_freed_memory

    keep_freed_memory()
    if recipe is None:
        if changes or teacher or resume:
            raise typer.BadParameter("needed with --set, --teacher and --resume", param_hint="--recipe")
        recipe, start, changes = _propose(data, fold, start, out)
    chosen, model = recipe_and_start(recipe, changes, start)
    with processes.joined():
        dataset = processes.first_alone(lambda: load_data(data, chosen.frontend, chosen.segments))
        test_fold = parse_fold(fold, dataset)
        out = out or Path("runs") / f"{chosen.name}-{fold_name(test_fold).replace(' ', '')}"
        try:
            run(
                chosen, dataset, test_fold, out,
                teachers=teacher or (), pretrained=model, resume=resume, threshold_fold=test_fold,
                trackers=(TENSORBOARD, *(track or ())),
            )  # fmt: skip
        except KeyboardInterrupt:
            _interrupted(out)
        if not processes.is_first():
            return
    print(f"The model {chosen.name} is in {out}")
    for part in ("val", "test") if test_fold == "test" else (test_fold,):
        if part in dataset.folds:
            evaluation = evaluate_model(out, dataset, part)
            answers = measure_model(out, dataset, part, recordings=evaluation.recordings[0])
            folder = out / (f"evaluation-{part}" if test_fold == "test" else "evaluation")
            report = write_report(evaluation, folder, answers)
            print(f"{headline(report)}: {folder}")
    record_accuracy(out, evaluation, report)
    print(f"Model card: {out}/README.md, learning curve: {out}/{CURVE}")
    same = [("--data", data), ("--recipe", recipe), *(("--set", one) for one in changes or ()), ("--from", start)]
    if folds := 0 if teacher else most_folds(dataset):
        again = f"otoscope evaluate {shlex.quote(f'{out}-folds')} {command_options(same)} --folds {folds}"
        print(f"The accuracy of one split depends on chance; by folds: {again}")
    else:
        print(f"Serve it: cp -r {shlex.quote(str(out))} models/ && otoscope up")


def _propose(
    data: Path | None, fold: str | None, start: Path | None, out: Path | None
) -> tuple[str, Path | None, list[str]]:
    """Print what is in the data, and a recipe with its reasons, time and commands. On a terminal ask whether to train
    by it, and split the data if necessary; elsewhere exit with status 2, since nothing is trained."""
    from training.data.custom.split import write_split
    from training.data.download import fetch_esc50 as fetch
    from training.proposal import describe_time, device_name, estimate_seconds, propose, survey

    root = data or fetch()
    found = survey(root, int(fold) if fold and fold.isdecimal() else fold)
    proposal = propose(found, start)
    recipe, model = recipe_and_start(proposal.recipe, list(proposal.changes), proposal.start)
    print(f"{root}: {found}")
    print(f"Proposed: {proposal.recipe}{f' from {proposal.start}' if proposal.start else ''}")
    for reason in proposal.reasons:
        print(f"  - {reason}")
    print(f"  - {describe_time(estimate_seconds(recipe, found, model))} on {device_name()}, measured with a few steps")
    if found.needs_split:
        print(f"  otoscope data split {shlex.quote(str(root))}")
    same = [
        ("--data", data), ("--recipe", proposal.recipe), *(("--set", one) for one in proposal.changes),
        ("--from", proposal.start), ("--fold", fold), ("--out", out),
    ]  # fmt: skip
    print(f"  otoscope train {command_options(same)}")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise SystemExit(2)
    if not typer.confirm("Train so?", default=True):
        raise SystemExit(1)
    if found.needs_split:
        write_split(root, val=0.15, test=0.15, seed=1)
    return proposal.recipe, proposal.start, list(proposal.changes)


def command_options(values: "Iterable[tuple[str, object]]") -> str:
    """The options that have a value, quoted for a shell."""
    return " ".join(f"{name} {shlex.quote(str(value))}" for name, value in values if value)


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
    recipe: RecipeName = "esc50-best",
    changes: Changes = None,
    start: StartName = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the report; MODEL/evaluation by default.")
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="float32|bfloat16|int8", help="`service`: what a worker on this machine would use.")
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
    """Evaluate a model on its held-out fold, or cross-validate a recipe."""
    from training.eval.answer_report import headline as answers_headline
    from training.eval.answer_report import measure_model
    from training.eval.evaluate import evaluate as run
    from training.eval.model_card import record_accuracy
    from training.eval.report import headline, interval, percent, write_report

    arithmetic = _precision(precision)
    if folds:
        if len(models) > 1:
            raise typer.BadParameter("takes one directory for its runs", param_hint="--folds")
        return _cross_validate(models[0], data, folds, *recipe_and_start(recipe, changes, start))
    if start or changes:
        raise typer.BadParameter("needed to train", param_hint="--folds")
    config = _config(models[0])
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
    where = out or models[0] / "evaluation"
    answers = None
    if len(models) == 1 and evaluation.config.classes == config.classes:  # else it has answers of other classes
        others = [clip for clip in whole.split(evaluation.fold)[1] if whole.classes[clip.label] not in dataset.classes]
        answers = measure_model(
            models[0], evaluation.dataset, evaluation.fold, outside, others, whole.classes, evaluation.recordings[0]
        )
    report = write_report(evaluation, where, answers)
    print(headline(report))
    print(f"95 % interval {interval(report.interval_95)}, top-5 {percent(report.top_5)}, {report.precision}")
    if report.interval_95_sources and report.sources < report.clips:
        print(f"95 % interval by source ({report.sources} sources) {interval(report.interval_95_sources)}")
    print(f"calibration error {report.calibration_error:.3f}, forward passes per clip {report.forward_passes}")
    if report.seen_clips:
        print(f"WARNING: the sound of {report.seen_clips} of the {report.clips} clips is in the training data as well")
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
    from training.eval.report import interval
    from worker.inference.malloc import keep_freed_memory

    keep_freed_memory()
    dataset = load_data(data, recipe.frontend, recipe.segments, folds=folds, seed=recipe.seed)
    chosen = dataset.folds[-folds:]  # the last ones first: ESC-50's fifth fold is the one that models are shipped for
    try:
        report = cross_validate(recipe, dataset, chosen[::-1], out, pretrained=model)
    except KeyboardInterrupt:
        print(f"\nStopped and saved in {out}: the same command resumes from there.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    print(as_markdown(report).split("\n", 2)[2])
    print(headline(report))
    print(f"95 % interval by source ({report.sources} sources) {interval(report.interval_95_sources)}")
    print(f"Reports, models and labels: {out}")


def lr_find(
    data: Data = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory of lr_find.png.")] = Path("runs/lr-find"),
    fold: FoldName = None,
    recipe: RecipeName = "esc50-first",
    changes: Changes = None,
    teacher: TeacherNames = None,
    start: StartName = None,
    steps: Annotated[int, typer.Option(min=20, metavar="N", help="Steps from 1e-6 to 1.")] = 100,
) -> None:
    """Find a learning rate by a range test (arXiv:1506.01186): the loss over an increasing rate, as a plot."""
    from training.diagnostics import find_learning_rate

    chosen, model = recipe_and_start(recipe, changes, start)
    dataset = load_data(data, chosen.frontend, chosen.segments)
    found = find_learning_rate(
        chosen, dataset, parse_fold(fold, dataset), out, steps, teachers=teacher or (), pretrained=model
    )
    print(f"The loss falls fastest at {found.steepest:.1e} and is lowest at {found.lowest:.1e}: {out}/lr_find.png")
    others = [change for change in changes or () if change.partition("=")[0].strip() != "optim.max_lr"]
    same = [
        ("--recipe", recipe), *(("--set", change) for change in [*others, f"optim.max_lr={found.steepest:.1e}"]),
        ("--fold", fold), ("--from", start), *(("--teacher", one) for one in teacher or ()), ("--data", data),
    ]  # fmt: skip
    print(f"Try it: otoscope train {command_options(same)}")


def overfit(
    data: Data = None,
    fold: FoldName = None,
    recipe: RecipeName = "esc50-best",
    changes: Changes = None,
    start: StartName = None,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Give up after N steps.")] = 200,
) -> None:
    """Check that the network can overfit one minibatch."""
    from training.diagnostics import overfit_one_batch

    chosen, model = recipe_and_start(recipe, changes, start)
    dataset = load_data(data, chosen.frontend, chosen.segments)
    taken, loss = overfit_one_batch(chosen, dataset, parse_fold(fold, dataset), steps, pretrained=model)
    print(f"100 % of one minibatch after {taken} steps, loss {loss:.3f}: the network and the loss work")


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model directory.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="MODEL/model.onnx by default.")] = None,
) -> None:
    """Export a model as ONNX, front end included, and compare its output with PyTorch."""
    from training.export.onnx import export_onnx

    check = export_onnx(model, out or model / "model.onnx")
    print(f"{check.path}: {check.bytes / 2**20:.1f} MiB, opset {check.opset}, waveform in, probabilities out,")
    print(f"any batch and length; at most {check.max_difference:.1e} from PyTorch")


def quantise(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Model directories.")], data: Data = None
) -> None:
    """Calibrate a model for 8-bit inference (OTOSCOPE_INT8=1) on clips that it was trained on."""
    from training.export.quantise import quantise as run

    config = _config(models[0])
    dataset = load_data(data, config.frontend, _segments(config))
    for model in models:
        ranges = run(model, dataset).int8_ranges
        print(f"{model} now has the activation ranges of {len(ranges)} convolutions")
    print(f"Evaluate its accuracy: otoscope evaluate {models[0]} --precision int8{_same(data)}")


def load_data(
    data: Path | None,
    frontend: "FrontendConfig",
    segments: "SegmentRecipe",
    *,
    folds: int = 0,
    seed: int = 1,
    to_measure: bool = False,
) -> "Dataset":
    """A custom data set or a folder like ESC-50, by default ESC-50 itself, for a front end. Raises DatasetError."""
    from training.data.custom.dataset import load_dataset
    from training.data.download import fetch_esc50 as fetch

    return load_dataset(data or fetch(), frontend, segments, folds=folds, seed=seed, to_measure=to_measure)


def _segments(config: "ModelConfig") -> "SegmentRecipe":
    """How the training data of a model were cut; a model of another project has no recipe."""
    from training.recipe import SegmentRecipe, parse_stored

    recipe = config.training.get("recipe")
    return parse_stored(recipe).segments if recipe else SegmentRecipe()


def parse_fold(name: str | None, dataset: "Dataset") -> "Fold":
    """A fold by its name; the default fold of the data set without one."""
    if name is None:
        return dataset.default_fold
    return int(name) if name.isdecimal() else name


def _config(model: Path) -> "ModelConfig":
    from training.errors import EvaluationError
    from worker.model.checkpoint import ModelError, read_config

    try:
        return read_config(model)
    except ModelError as error:
        raise EvaluationError(str(error)) from error


def load_changed_recipe(name: str, changes: list[str] | None) -> "Recipe":
    """A recipe with the changes of `--set`. Raises RecipeError."""
    from training.recipe import load_recipe

    overrides: dict[str, str] = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals:
            raise typer.BadParameter(f"{change!r} is not KEY=VALUE", param_hint="--set")
        overrides[key.strip()] = value
    return load_recipe(name, overrides)


def recipe_and_start(name: str, changes: list[str] | None, start: Path | None) -> "tuple[Recipe, Model | None]":
    """The recipe and the model to go on from, whose network and front end it then has. Raises RecipeError for an
    override that would be ignored."""
    from training.fit.pretrained import load_pretrained
    from training.recipe import check_overrides, for_fine_tuning

    recipe = load_changed_recipe(name, changes)
    model = load_pretrained(start) if start else None
    if model is None:
        return recipe, None
    fine_tuned = for_fine_tuning(recipe, model.config)
    check_overrides(recipe, fine_tuned, (change.partition("=")[0].strip() for change in changes or ()))
    return fine_tuned, model


def _precision(name: str) -> "Precision":
    from training.eval.predict import service_precision

    if name == "service":
        return service_precision()
    if name not in ("float32", "bfloat16", "int8"):
        raise typer.BadParameter("one of float32, bfloat16, int8, service", param_hint="--precision")
    return name  # type: ignore[return-value]


def _same(data: Path | None) -> str:
    """The option that selects the same data."""
    return f" --data {data}" if data else ""


def _interrupted(out: Path) -> None:
    from training.fit.run_state import resumable

    if resumable(out):
        print(f"\nStopped and saved in {out}: the same command with --resume continues from there.", file=sys.stderr)
    else:
        print("\nStopped before the first step: nothing is saved; the same command starts again.", file=sys.stderr)
    raise SystemExit(INTERRUPTED)
