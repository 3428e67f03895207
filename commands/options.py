"""What the training commands have in common: their options, and the recipe, the model and the data that these select.

Modules that need torch are imported inside the functions.
"""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from otoscope.cli import INTERRUPTED

if TYPE_CHECKING:
    from training.data.base import Dataset, Fold
    from training.recipe import Recipe, SegmentRecipe
    from worker.model.checkpoint import Model
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


def parse_fold(name: str | None, dataset: "Dataset") -> "Fold":
    """A fold by its name; the default fold of the data set without one."""
    if name is None:
        return dataset.default_fold
    return int(name) if name.isdecimal() else name


def recipe_and_start(name: str, changes: list[str] | None, start: Path | None) -> "tuple[Recipe, Model | None]":
    """The recipe with the changes of `--set`, and the model to go on from, whose network and front end it then has.
    Raises RecipeError, also for a change that would be ignored."""
    from training.fit.pretrained import load_pretrained
    from training.recipe import check_overrides, for_fine_tuning, load_recipe, parse_changes

    overrides = parse_changes(changes or ())
    recipe = load_recipe(name, overrides)
    model = load_pretrained(start) if start else None
    if model is None:
        return recipe, None
    fine_tuned = for_fine_tuning(recipe, model.config)
    check_overrides(recipe, fine_tuned, overrides)
    return fine_tuned, model


def command_options(values: Iterable[tuple[str, object]]) -> str:
    """The options that have a value, quoted for a shell."""
    return " ".join(f"{name} {shlex.quote(str(value))}" for name, value in values if value)


def interrupted(saved: bool, out: Path | None, command: str) -> NoReturn:
    """End after Ctrl-C: print by which command a run in `out` goes on, if anything of it is saved."""
    if saved:
        print(f"\nStopped and saved in {out}: {command} continues from there.", file=sys.stderr)
    else:
        print("\nStopped before the first step: nothing is saved; the same command starts again.", file=sys.stderr)
    raise SystemExit(INTERRUPTED)
