"""`otoscope tune`: a search over values of a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import (
    Changes,
    Data,
    FoldName,
    StartName,
    command_options,
    interrupted,
    load_data,
    parse_fold,
    recipe_and_start,
)


def tune(
    recipe: Annotated[str, typer.Option("--recipe", metavar="NAME", help="A bundled recipe, or a YAML file.")],
    data: Data = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory of the search; an existing search is continued.")
    ] = Path("runs/tune"),
    fold: FoldName = None,
    changes: Changes = None,
    start: StartName = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="KEY=LOW..HIGH",
            help="Values to try, or KEY=A,B,C; may be repeated. By default learning rate, weight decay, label smoothing"
            " and speed perturbation.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=2, metavar="N", help="Trainings in all.")] = 20,
) -> None:
    """Search for better values of a recipe. They are compared on a held-out part of the training data."""
    from training.tune import TRIALS, parse_range, usual_ranges
    from training.tune import tune as run
    from worker.inference.malloc import keep_freed_memory

    keep_freed_memory()
    chosen, model = recipe_and_start(recipe, changes, start)
    wanted = [parse_range(one) for one in ranges or ()] or usual_ranges(chosen)
    dataset = load_data(data, chosen.frontend, chosen.segments)
    try:
        found = run(chosen, dataset, parse_fold(fold, dataset), out, wanted, trials, pretrained=model)
    except KeyboardInterrupt:
        interrupted((out / TRIALS).is_file(), out, "the same command")
    print(
        f"{found.trials} trials, {found.stopped} of them stopped early; the best has a loss of {found.loss:.3f} and"
        f" {found.accuracy:.1%} on the held-out part: {out}/trials.csv"
    )
    own = [change for change in changes or () if change.partition("=")[0].strip() not in found.changes]
    same = [
        ("--data", data), ("--recipe", recipe), ("--from", start), ("--fold", fold),
        *(("--set", change) for change in [*own, *(f"{key}={value}" for key, value in found.changes.items())]),
    ]  # fmt: skip
    print(f"Train with it: otoscope train {command_options(same)}")
