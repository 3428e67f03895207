"""A search over values of a recipe: each trial is a short training, measured on a held-out part of the training data.

The test fold is used by no trial. Trials are proposed by a tree-structured Parzen estimator and stopped early if they
are worse than the median of the others at the same epoch (Optuna, arXiv:1907.10902).
"""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from shared.install_hints import install_command
from training.data.base import Dataset, Fold
from training.errors import DivergedError, RecipeError, RunError, cause
from training.fit import processes
from training.fit.loop import train
from training.fit.run_state import run_identity
from training.recipe import Recipe, differences, with_changes
from worker.model.checkpoint import Model

TRIALS = "trials.csv"
HOLDOUT = 0.2  # of the recordings, where the recipe holds none out and the data set has no val set
_JOURNAL = "trials.log"
_FIRST = 4  # trials that are not stopped early: there is nothing to compare them with yet


@dataclass(frozen=True)
class Range:
    """Values of one key of a recipe: `choices`, or numbers from `low` to `high`."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def logarithmic(self) -> bool:
        """Over a factor of ten or more the order of magnitude counts."""
        return self.low > 0 and self.high >= 10 * self.low


def parse_range(text: str) -> Range:
    """`optim.max_lr=1e-4..1e-2`, `optim.batch=16,32,64`. Raises RecipeError."""
    key, equals, values = text.partition("=")
    low, dots, high = values.partition("..")
    if not (key and equals and values):
        raise RecipeError(f"{text!r} is not KEY=LOW..HIGH or KEY=A,B,C")
    if not dots:
        return Range(key.strip(), choices=tuple(yaml.safe_load(one) for one in values.split(",")))
    try:
        ends = [int(one) if one.strip().lstrip("-").isdecimal() else float(one) for one in (low, high)]
    except ValueError as error:
        raise RecipeError(f"{text!r}: {error}") from error
    if not ends[0] < ends[1]:
        raise RecipeError(f"{text!r}: {low} is not below {high}")
    return Range(key.strip(), low=ends[0], high=ends[1])


def usual_ranges(recipe: Recipe) -> list[Range]:
    """Of the values that matter most in a recipe: learning rate, weight decay, label smoothing, speed perturbation."""
    rate = recipe.optim.max_lr
    return [
        Range("optim.max_lr", low=rate / 5, high=rate * 5),
        Range("optim.weight_decay", low=1e-3, high=0.2),
        Range("optim.label_smoothing", low=0.0, high=0.2),
        Range("augment.speed", low=1.0, high=1.4),
    ]


@dataclass(frozen=True)
class Found:
    """The best trial of a search."""

    changes: dict[str, str]  # for --set, from the recipe that the search started with
    loss: float  # on the held-out part
    accuracy: float
    trials: int
    stopped: int  # of these, before their last epoch


def tune(
    recipe: Recipe, dataset: Dataset, test_fold: Fold, out: Path, ranges: Sequence[Range], trials: int, *,
    pretrained: Model | None = None,
) -> Found:  # fmt: skip
    """Run trials until there are so many in `out`; a search that was interrupted goes on. A trial that diverges counts
    as one that was stopped early. Raises RunError, RecipeError and DatasetError."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise RunError(f"the search needs the extra `tune`: {install_command('tune')} ({error})") from error

    processes.check_single()
    if not recipe.optim.holdout and not dataset.train_validation_split(test_fold, 0.0, recipe.seed)[1]:
        recipe = with_changes(recipe, {"optim.holdout": HOLDOUT})
    if not dataset.train_validation_split(test_fold, recipe.optim.holdout, recipe.seed)[1]:
        raise RunError("nothing can be held out: each class needs two recordings or more in the training data")
    measured = with_changes(recipe, {"open_set.background": 0})  # which no trial needs
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings are tracebacks of what is raised anyway
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out} cannot be created: {cause(error)}") from error
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(out / _JOURNAL)))
    study = optuna.create_study(
        storage=storage, study_name="search", load_if_exists=True, direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=recipe.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_FIRST, n_warmup_steps=recipe.optim.epochs // 4),
    )  # fmt: skip
    _check_same_search(study, run_identity(recipe, dataset, test_fold, 0, (), pretrained), ranges, out)

    def objective(trial: Any) -> float:
        changes = {one.key: _suggest(trial, one) for one in ranges}
        folder = out / f"trial-{trial.number}"
        shutil.rmtree(folder, ignore_errors=True)
        last: dict[str, float] = {}

        def after_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
            last.update(metrics)
            trial.set_user_attr("accuracy", metrics["val_accuracy"])
            trial.report(metrics["val_loss"], epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            tried = with_changes(measured, changes)
            train(tried, dataset, test_fold, folder, pretrained=pretrained, on_epoch=after_epoch)
        except DivergedError as error:
            raise optuna.TrialPruned from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _write(out / TRIALS, study, ranges)
        shown = ", ".join(f"{key}={_short(value)}" for key, value in changes.items())
        tqdm.write(f"trial {trial.number}: loss {last['val_loss']:.3f}, {last['val_accuracy']:.1%} with {shown}")
        return last["val_loss"]

    measured_states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)  # not: interrupted, failed
    study.optimize(objective, n_trials=max(trials - len(study.get_trials(states=measured_states)), 0))
    _write(out / TRIALS, study, ranges)
    complete, stopped = (study.get_trials(states=[state]) for state in measured_states)
    if not complete:
        raise RunError(f"none of {len(stopped)} trials reached its last epoch: try lower values of optim.max_lr")
    best = study.best_trial
    chosen = differences(with_changes(recipe, best.params), recipe)
    accuracy = float(best.user_attrs["accuracy"])
    return Found(chosen, study.best_value, accuracy, len(complete) + len(stopped), len(stopped))


def _check_same_search(study: Any, identity: dict[str, Any], ranges: Sequence[Range], out: Path) -> None:
    """Raise RunError for a folder with a search of another recipe, data set, fold, model or ranges: losses of different
    searches cannot be compared."""
    wanted = json.dumps({**identity, "ranges": [astuple(one) for one in ranges]}, sort_keys=True)
    stored = study.user_attrs.get("search")
    if stored is None:
        study.set_user_attr("search", wanted)
    elif stored != wanted:
        raise RunError(
            f"{out} holds a search with another recipe, fold, data set, pretrained model or other ranges: choose"
            " another folder with --out"
        )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _suggest(trial: Any, of: Range) -> Any:
    if of.choices:
        return trial.suggest_categorical(of.key, of.choices)
    if of.whole:
        return trial.suggest_int(of.key, int(of.low), int(of.high), log=of.logarithmic)
    return trial.suggest_float(of.key, of.low, of.high, log=of.logarithmic)


def _write(path: Path, study: Any, ranges: Sequence[Range]) -> None:
    """One row for each trial. A disk that is full costs the table only: the journal has the trials."""
    keys = [one.key for one in ranges]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["trial", "state", "val_loss", "val_accuracy", *keys])
        for one in study.trials:
            loss = one.value if one.value is not None else next(reversed(one.intermediate_values.values()), "")
            found = [one.params.get(key, "") for key in keys]
            table.writerow([one.number, one.state.name.lower(), loss, one.user_attrs.get("accuracy", ""), *found])
