"""Cross-validation of networks side by side: for each fold, models are trained, joined and tested.

    .venv/bin/python -m bench.side_by_side --data ../shared/data/esc50-16k --runs runs/side-by-side \
        --part audioset-finetune models/yamnet 0.6 --part probe runs/aisfx 0.4 [--folds 1 2 3 4 5]

A part is a recipe, the model that it goes on from (`-`: none), and its weight (`otoscope models join`). Interrupted or
finished trainings in --runs are resumed or used. Prints the accuracy of each part and of all of them together by fold,
and one line of JSON at the end.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--part", nargs=3, action="append", required=True, metavar=("RECIPE", "MODEL", "WEIGHT"))
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    options = parser.parse_args()
    correct: dict[str, list[int]] = {}
    clips: list[int] = []
    for fold in options.folds:
        runs = [trained(recipe, model, fold, options) for recipe, model, _ in options.part]
        joined = options.runs / f"joined-{fold}"
        shutil.rmtree(joined, ignore_errors=True)
        weights = [word for _, _, weight in options.part for word in ("--weight", weight)]
        otoscope("models", "join", *map(str, runs), *weights, "--out", str(joined))
        for name, run in (*zip((recipe for recipe, _, _ in options.part), runs, strict=True), ("joined", joined)):
            report = tested(run, fold, options.data)
            correct.setdefault(name, []).append(report["correct"])
        clips.append(report["clips"])
        print(f"fold {fold}: " + ", ".join(f"{name} {counts[-1]}" for name, counts in correct.items()), flush=True)
    for name, counts in correct.items():
        shares = [100 * count / of for count, of in zip(counts, clips, strict=True)]
        spread = statistics.stdev(shares) if len(shares) > 1 else 0.0
        by_fold = ", ".join(f"{share:.1f}" for share in shares)
        print(f"{name}: {by_fold}; {sum(counts)} of {sum(clips)}, {statistics.mean(shares):.1f} % ± {spread:.1f}")
    print(json.dumps({"folds": options.folds, "clips": clips, "correct": correct}))


def trained(recipe: str, model: str, fold: int, options: argparse.Namespace) -> Path:
    """The model directory of a training, which is resumed or skipped if it was begun or finished before."""
    run: Path = options.runs / f"{recipe}-{fold}"
    words = ["train", "--data", str(options.data), "--fold", str(fold), "--recipe", recipe]
    start = [] if model == "-" else ["--from", model]
    otoscope(*words, *start, "--out", str(run), *(["--resume"] if run.exists() else []))
    return run


def tested(model: Path, fold: int, data: Path) -> dict[str, int]:
    """The report of the held-out fold."""
    otoscope("evaluate", str(model), "--data", str(data), "--fold", str(fold))
    report: dict[str, int] = json.loads((model / "evaluation" / "report.json").read_text())
    return report


def otoscope(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "otoscope", *words], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
