"""Accuracy on sounds of the classes of ESC-50 that are from elsewhere: the games and lessons in packages of Debian.

    .venv/bin/python -m bench.elsewhere models/yamnet models/esc50 [MODEL ...] [--folder runs/elsewhere]

Folds of ESC-50 promise more than a user meets: all of its clips were found on one website, and were cut and encoded by
one person. The sounds of bench/elsewhere.csv are short and long, clean and mixed, in 8 to 24 bits and three codecs. A
file is labelled by its name. Nobody chose a setting by them: they are for measuring only.

The packages (1.4 GB) are downloaded once. Each file has the answer of the service; a model with other classes is
measured on those that have counterparts among its own (training/base_models/counterparts.py). Prints a table, the
classes in which the last model is wrong, and one line of JSON. `otoscope evaluate MODEL --data runs/elsewhere/sounds`
then measures another model on the same files.
"""

import argparse
import csv
import itertools
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
from bench.lib.debian import unpacked
from otoscope.types import Verdict
from training.data.custom.dataset import load_dataset
from training.data.custom.importers import import_csv
from training.data.custom.manifest import MANIFEST
from training.errors import TrainingError
from training.eval.answers import Answered, Thresholds, answer, area_under_curve, folder_sounds, listen, verdict
from training.eval.evaluate import Evaluation, evaluate, of_another_project
from training.eval.predict import service_precision
from worker.model.checkpoint import Model, read_config

TABLE = Path(__file__).with_suffix(".csv")
"""The class of each file: class,package,file."""
LENGTHS = (0.3, 1.0, 2.5, 5.0)  # seconds, at which the table by length is divided


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/elsewhere"), help="of the packages and the data set")
    parser.add_argument("--outside", type=Path, help="folder of sounds of none of the classes: a table by length")
    options = parser.parse_args()
    try:
        root = data_set(options.folder)
        dataset = load_dataset(root, read_config(options.models[0]).frontend, to_measure=True)
        found = {path.name: evaluate(path, dataset, precision=service_precision()) for path in options.models}
    except TrainingError as error:
        sys.exit(str(error))
    print("| | sounds | right | among the first three | named | right when named |\n|---|---:|---:|---:|---:|---:|")
    rows = {name: measured(evaluation) for name, evaluation in found.items()}
    for name, row in rows.items():
        sounds, named = row["sounds"], row.get("named")
        shares = "– | –" if named is None else f"{named / sounds:.1%} | {row['right_named'] / max(named, 1):.1%}"
        print(f"| `{name}` | {sounds} | {row['right'] / sounds:.1%} | {row['of_three'] / sounds:.1%} | {shares} |")
    print(f"\nWrong by {list(found)[-1]}: {wrong(list(found.values())[-1])}")
    if options.outside:
        by_length(found, options.outside)
    print(json.dumps({"models": rows}))


def data_set(folder: Path) -> Path:
    """A custom data set of the files in the table; made if it is not there."""
    root = folder / "sounds"
    if (root / MANIFEST).is_file():
        return root
    with TABLE.open(newline="") as table:
        rows = list(csv.DictReader(table))
    packages = unpacked(sorted({row["package"] for row in rows}), folder / "packages")
    listed = folder / "elsewhere.csv"
    with listed.open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file", "label", "source"])
        for row in rows:
            path = packages.get(row["package"], folder) / row["file"]
            if path.is_file():
                writer.writerow([path.relative_to(folder), row["class"], f"{row['package']}/{row['file']}"])
            else:
                print(f"{row['package']} has no {row['file']}", file=sys.stderr)
    result = import_csv(listed, root)
    for message in (*result.duplicates, *result.conflicts, *result.skipped):
        print(message, file=sys.stderr)
    print(f"{result.added} of {len(rows)} files in {root}", file=sys.stderr)
    return root


def measured(evaluation: Evaluation) -> dict[str, int]:
    """How many sounds there are, how many of them are right, and of a model with these classes how many are named."""
    (answers,) = evaluation.answered
    truth, probabilities = evaluation.truth, evaluation.probabilities
    first = np.argsort(-probabilities, axis=1)[:, :3]
    right = first[:, 0] == truth
    counts = {
        "sounds": len(truth),
        "right": int(right.sum()),
        "of_three": int((first == truth[:, None]).any(axis=1).sum()),
    }
    config = evaluation.config
    if of_another_project(config):  # its verdicts are of its own classes
        return counts
    named = np.array(verdicts(evaluation.models[0], answers)) == "named"
    return counts | {"named": int(named.sum()), "right_named": int((right & named).sum())}


def verdicts(model: Model, answers: Sequence[Answered]) -> list[Verdict]:
    """With the thresholds of the model."""
    stored = Thresholds(model.config.answers.unknown_threshold, model.config.answers.min_confidence)
    return [verdict(one, model, stored) for one in answers]


def by_length(found: dict[str, Evaluation], folder: Path) -> None:
    """How well each model with an open-set scorer separates these sounds from those in `folder` of the same length."""
    ranges = list(itertools.pairwise((0.0, *LENGTHS, float("inf"))))
    for name, evaluation in found.items():
        (model,), (known,) = evaluation.models, evaluation.answered
        if model.open_set is None:
            continue
        sounds = folder_sounds(folder, model.config.frontend.sample_rate)
        others = answer(model, model.open_set, listen(model, sounds, "outside sounds", precision=service_precision()))
        print(f"\n| `{name}`, seconds | known sounds | named | unknown | outside sounds | named | unknown | AUROC |")
        print(f"|---|{'---:|' * 7}")
        for low, high in ranges:
            groups = [[one for one in side if low <= one.seconds < high] for side in (known, others)]
            if not all(groups):
                continue
            cells = [f"{low:g} to {high:g}".replace("0 to", "below").replace(" to inf", " and more")]
            for group in groups:
                counts = Counter(verdicts(model, group))
                cells += [str(len(group)), *(f"{counts[given] / len(group):.0%}" for given in ("named", "unknown"))]
            scores = [np.array([one.answer.known or 0.0 for one in group]) for group in groups]
            print(f"| {' | '.join(cells)} | {area_under_curve(*scores):.3f} |")


def wrong(evaluation: Evaluation) -> str:
    """The classes with wrong answers, the most frequent ones first."""
    classes = evaluation.dataset.classes
    missed = Counter(classes[true] for true in evaluation.truth[evaluation.predicted != evaluation.truth])
    of = Counter(classes[true] for true in evaluation.truth)
    return ", ".join(f"{name} {count} of {of[name]}" for name, count in missed.most_common())


if __name__ == "__main__":
    main()
