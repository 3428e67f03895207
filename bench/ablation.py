"""An ablation study: the accuracy of a recipe with one ingredient removed at a time, on the same folds.

    .venv/bin/python bench/ablation.py --data ESC-50 --out runs/ablation [--recipe NAME] [--folds 2] [--epochs N]

Every row is a cross-validation as by `otoscope evaluate --folds`, kept in --out and resumed when the command is
repeated. Prints a Markdown table: the mean over the folds, the difference from the whole recipe on the same folds, the
standard deviation of that difference, and how many clips were lost and won against it, with the p of McNemar's exact
test. A difference within its spread is not significant. Clips of one recording are not independent, so p is too small.
"""

import argparse
import statistics
from math import comb
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.esc50 import load_esc50
from training.eval.crossval import CrossValidationReport, cross_validate
from training.recipe import load_recipe, parse_changes
from worker.inference.malloc import keep_freed_memory

ROWS: dict[str, dict[str, str]] = {
    "the whole recipe": {},
    "no mixing of waveforms": {"augment.mix_alpha": "0"},
    "whole windows instead of crops": {"augment.crop_seconds": "null"},
    "no speed perturbation": {"augment.speed": "1"},
    "no masks": {"augment.frequency_masks": "0", "augment.time_masks": "0"},
    "no random gain": {"augment.gain_db": "0"},
    "no label smoothing": {"optim.label_smoothing": "0"},
    "weights of the last step instead of their average": {"optim.average": "none"},
    "with squeeze-and-excitation": {"network.squeeze_excitation": "true"},
    "Muon instead of AdamW": {"optim.optimizer": "muon"},
    "half the epochs": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="esc50-best")
    parser.add_argument(
        "--folds",
        type=int,
        default=2,
        help="how many, from the first: fold 5 tests shipped models",
    )
    parser.add_argument("--epochs", type=int, help="a shorter schedule than that of the recipe")
    parser.add_argument("--rows", type=int, nargs="*", help="only these, from 0; default: all")
    parser.add_argument(
        "--set", dest="changes", nargs="*", default=[], metavar="KEY=VALUE", help="an override for every row"
    )
    options = parser.parse_args()
    keep_freed_memory()
    everywhere = parse_changes(options.changes)
    dataset = load_esc50(options.data)
    epochs = options.epochs or load_recipe(options.recipe).optim.epochs
    reports: dict[str, CrossValidationReport] = {}
    for number, (title, changes) in enumerate(ROWS.items()):
        if options.rows is not None and number not in options.rows:
            continue
        length = epochs // 2 if title == "half the epochs" else epochs
        recipe = load_recipe(options.recipe, {**everywhere, **changes, "optim.epochs": str(length)})
        folds = dataset.folds[: options.folds]
        reports[title] = cross_validate(recipe, dataset, folds, options.out / f"row{number}")

    whole = reports.get("the whole recipe")
    if whole is None:
        return  # one of several processes that share the rows; a call with row 0 and others prints the table
    print(f"{whole.recipe}, {epochs} epochs, {len(whole.folds)} of {whole.of} folds of {whole.data}\n")
    print("| | accuracy | difference | spread of the difference | lost, won | p |\n|---|---:|---:|---:|---:|---:|")
    rights = {title: right_clips(options.out / f"row{list(ROWS).index(title)}") for title in reports}
    for title, report in reports.items():
        gaps = [
            100 * (one.correct / one.clips - base.correct / base.clips)
            for one, base in zip(report.folds, whole.folds, strict=True)
        ]
        spread = f"± {statistics.stdev(gaps):.1f}" if len(gaps) > 1 else "one fold"
        change = "" if report is whole else f"{statistics.mean(gaps):+.1f}"
        lost, won = against(rights[title], rights["the whole recipe"])
        compared = "| | | |" if report is whole else f"| {spread} | {lost}, {won} | {mcnemar(lost, won):.3f} |"
        print(f"| {title} | {100 * report.mean:.1f} % | {change} {compared}")


def right_clips(folder: Path) -> NDArray[np.bool_]:
    """(clips,) of all folds: whether the prediction is right."""
    right: NDArray[np.bool_] = np.load(folder / "pred_labels.npy") == np.load(folder / "true_labels.npy")
    return right


def against(right: NDArray[np.bool_], of_whole: NDArray[np.bool_]) -> tuple[int, int]:
    """How many clips are wrong that were right, and the other way round."""
    return int((of_whole & ~right).sum()), int((right & ~of_whole).sum())


def mcnemar(lost: int, won: int) -> float:
    """The two-sided p of the exact test (McNemar, 1947)."""
    changed = lost + won
    return min(1.0, 2 * sum(comb(changed, k) for k in range(min(lost, won) + 1)) / 2**changed)


if __name__ == "__main__":
    main()
