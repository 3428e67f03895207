"""`otoscope train` and `otoscope evaluate`. What needs torch is imported inside the commands."""

import sys
from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="ESC-50 in its official layout, or any folder like it.")
]
Fold = Annotated[int | None, typer.Option("--fold", min=1, metavar="N", help="The fold that is not trained on.")]

INTERRUPTED = 130  # exit status after Ctrl-C


def train(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the run is kept; becomes a model directory.")],
    fold: Annotated[int, typer.Option(min=1, metavar="N", help="The fold that is kept out of training.")] = 5,
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="A bundled recipe, or the path of a YAML file.")
    ] = "esc50",
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Train a network by a recipe; Ctrl-C is safe, --resume goes on."""
    from training.dataset import load_esc50
    from training.recipe import load_recipe
    from training.train import train as run

    overrides: dict[str, str] = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals:
            raise typer.BadParameter(f"{change!r} is not KEY=VALUE", param_hint="--set")
        overrides[key.strip()] = value
    try:
        config = run(load_recipe(recipe, overrides), load_esc50(data), fold, out, resume=resume)
    except KeyboardInterrupt:
        print(f"\nStopped. The last whole epoch is kept in {out}; --resume goes on from it.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    print(f"{out} holds the model {config.name}. Measure it: otoscope evaluate {out} --data {data}")


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model directory.")],
    data: Data,
    fold: Fold = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the report goes; MODEL/evaluation by default.")
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="float32|bfloat16", help="Arithmetic; `service` is what a worker here would use.")
    ] = "float32",
    trained_fold: Annotated[
        bool, typer.Option("--allow-training-fold", help="Measure a fold that the model was trained on.")
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Write the figure into the model's config and README.")
    ] = False,
) -> None:
    """Measure a model on the fold that it has not seen."""
    from training.dataset import load_esc50
    from training.evaluate import evaluate as run
    from training.evaluate import service_precision
    from training.record import record as write
    from training.report import headline, interval, percent, write_report

    if precision not in ("float32", "bfloat16", "service"):
        raise typer.BadParameter("one of float32, bfloat16, service", param_hint="--precision")
    chosen = service_precision() if precision == "service" else precision
    evaluation = run(model, load_esc50(data), fold, precision=chosen, allow_training_fold=trained_fold)  # type: ignore[arg-type]
    where = out or model / "evaluation"
    report = write_report(evaluation, where)
    print(headline(report))
    print(f"95 % interval {interval(report.interval_95)}, top-5 {percent(report.top_5)}, {report.precision}")
    print(f"Report, confusion matrix and labels: {where}")
    if record:
        write(model, evaluation, report)
        print(f"Recorded in {model}")
