"""Compares the runs of a folder: recipe, changes, epochs, accuracy on held-out and on unseen clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from training.data.base import Fold
from training.errors import EvaluationError, RecipeError, cause
from training.eval.plots import save_learning_curves
from training.eval.report import EvaluationReport
from training.fit.history import HISTORY, Row, read_history
from training.fit.run_state import CHECKPOINT
from training.recipe import Recipe, differences, load_recipe, parse_stored
from worker.model.checkpoint import CONFIG, ModelError, read_config


@dataclass(frozen=True)
class Run:
    """A run in a folder, finished or not."""

    folder: Path
    recipe: Recipe
    data: str
    fold: Fold
    start: str  # the name of the model that it started from, or nothing
    finished: bool
    history: Sequence[Row]
    report: EvaluationReport | None  # of the test fold

    @property
    def changes(self) -> dict[str, str]:
        """What `--set` changed of the bundled recipe, without front end and network of a pretrained model.

        Nothing for a recipe of one's own.
        """
        try:
            changed = differences(self.recipe, load_recipe(self.recipe.name))
        except RecipeError:
            return {}
        left_out = ("frontend.", "network.") if self.start else ("frontend.",)
        return {key: value for key, value in changed.items() if not key.startswith(left_out)}


def find_runs(root: Path) -> list[Run]:
    """All runs at any depth below a folder, by their paths. Raises EvaluationError if there is none."""
    found = {path.parent for name in (CONFIG, CHECKPOINT) for path in root.rglob(name)}
    runs = [run for folder in sorted(found) if (run := _read(folder)) is not None]
    if not runs:
        raise EvaluationError(f"{root} holds no run; `otoscope train` makes one")
    return runs


def _read(folder: Path) -> Run | None:
    """None for a model that was not trained here."""
    finished = (folder / CONFIG).is_file()
    try:
        if finished:
            training = read_config(folder).training
        else:
            training = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True, mmap=True)["identity"]
        recipe, data, fold = parse_stored(training["recipe"]), training["data"]["name"], training["test_fold"]
        start = training.get("started_from", {}).get("name", "")
    except (ModelError, ValidationError, KeyError, RuntimeError, OSError, TypeError):
        return None
    return Run(folder, recipe, data, fold, start, finished, read_history(folder), _report(folder, fold))


def _report(folder: Path, fold: Fold) -> EvaluationReport | None:
    """The latest report on the test fold of the run."""
    for path in sorted(folder.glob("evaluation*/report.json"), key=lambda path: -path.stat().st_mtime):
        try:
            report = EvaluationReport.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        if report.fold == fold and not report.trained_on:
            return report
    return None


def table(runs: Sequence[Run], root: Path) -> list[list[str]]:
    """Rows of text, the first one with the titles; the best accuracy first, runs without one last."""
    rows = [["run", "recipe", "changes", "data", "epochs", "held out", "unseen clips", "95 % interval"]]
    for run in sorted(runs, key=lambda run: -run.report.accuracy if run.report else 1.0):
        held_out = [row["val_accuracy"] for row in run.history if "val_accuracy" in row]
        epochs = f"{len(run.history)} of {run.recipe.optim.epochs}" if run.history else str(run.recipe.optim.epochs)
        report = run.report
        low, high = _interval(report) if report else (0.0, 0.0)
        rows.append([
            str(run.folder.relative_to(root)) if run.folder != root else run.folder.name,
            f"{run.recipe.name} from {run.start}" if run.start else run.recipe.name,
            " ".join(f"{key}={value}" for key, value in run.changes.items()) or "-",
            f"{run.data}, {run.fold}",
            epochs if run.finished else f"{epochs}, unfinished",
            f"{held_out[-1]:.1%}" if held_out else "-",
            f"{report.accuracy:.1%} of {report.clips}" if report else "-",
            f"{100 * low:.1f}-{100 * high:.1f} %" if report else "-",
        ])  # fmt: skip
    return rows


def _interval(report: EvaluationReport) -> tuple[float, float]:
    """By source where clips share sources, as `otoscope evaluate` prints it."""
    shared = report.interval_95_sources if report.sources < report.clips else None
    return shared or report.interval_95


def save_plot(path: Path, runs: Sequence[Run], root: Path) -> None:
    """The learning curves of all runs that have one, as one picture. Raises EvaluationError."""
    curves = {str(run.folder.relative_to(root)): run.history for run in runs if run.history}
    if not curves:
        raise EvaluationError(f"no run of {root} has a {HISTORY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_learning_curves(path, curves)
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written: {cause(error)}") from error
