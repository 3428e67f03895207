"""ESC-10 at its original 44.1 kHz, with the 44.1 kHz recipe of the older systems.

    .venv/bin/python examples/esc10_44k.py FOLDER [--out runs/esc10-44k] [--epochs 30] [--folds 5]

FOLDER holds one folder per class. The same command resumes an interrupted run. The last line is JSON.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from helpers import read_report, run_otoscope

SOURCE = r"^[0-9]-([0-9]+)-"  # fold-recording-take.ogg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/esc10-44k"))
    parser.add_argument("--epochs", type=int, default=30, help="the 100 epochs of the recipe take an hour on two cores")
    parser.add_argument("--folds", type=int, default=0, help="also the accuracy over N folds, each a training")
    options = parser.parse_args()
    started = time.monotonic()
    sounds, model = options.out / "sounds", options.out / "model"
    recipe = ("--recipe", "audio-cnn-visualizer", "--set", f"optim.epochs={options.epochs}")
    run_otoscope("data", "import", options.folder, "--to", sounds, "--group", SOURCE)
    run_otoscope("data", "split", sounds, "--val", "0.1", "--test", "0.2")
    if not (model / "config.json").is_file():
        interrupted = ("--resume",) if (model / "train_state.pt").is_file() else ()
        run_otoscope("train", "--data", sounds, *recipe, "--out", model, *interrupted)
    report = read_report(model / "evaluation-test")
    figures = {
        "example": "esc10-44k",
        "test_accuracy": report["accuracy"],
        "test_clips": report["clips"],
        "epochs": options.epochs,
        **over_folds(sounds, options.out / "folds", options.folds, recipe),
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(figures))


def over_folds(sounds: Path, out: Path, folds: int, recipe: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy over folds by source, and its interval; nothing for no folds."""
    if not folds:
        return {}
    run_otoscope("evaluate", out, "--data", sounds, *recipe, "--folds", folds)
    measured = json.loads((out / "folds.json").read_text())
    return {"folds_accuracy": measured["mean"], "folds_interval_by_source": measured["interval_95_sources"]}


if __name__ == "__main__":
    main()
