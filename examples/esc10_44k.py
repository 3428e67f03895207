"""ESC-10 at its original 44.1 kHz, with the 44.1 kHz recipe of the older systems.

    .venv/bin/python examples/esc10_44k.py FOLDER [--out runs/esc10-44k] [--epochs 30]

FOLDER holds one folder per class. The last line is JSON.
"""

import argparse
import json
import time
from pathlib import Path

from helpers import read_report, run_otoscope

SOURCE = r"^[0-9]-([0-9]+)-"  # fold-recording-take.ogg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/esc10-44k"))
    parser.add_argument("--epochs", type=int, default=30, help="the 100 epochs of the recipe take an hour on two cores")
    options = parser.parse_args()
    started = time.monotonic()
    sounds, model = options.out / "sounds", options.out / "model"
    run_otoscope("data", "import", options.folder, "--to", sounds, "--group", SOURCE)
    run_otoscope("data", "split", sounds, "--val", "0.1", "--test", "0.2")
    if not (model / "config.json").is_file():
        shorter = ("--set", f"optim.epochs={options.epochs}")
        run_otoscope("train", "--data", sounds, "--recipe", "audio-cnn-visualizer", "--out", model, *shorter)
    report = read_report(model / "evaluation-test")
    figures = {
        "example": "esc10-44k",
        "test_accuracy": report["accuracy"],
        "test_clips": report["clips"],
        "epochs": options.epochs,
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
