"""From a folder of recordings to a served model: drone, car or speech?

    .venv/bin/python examples/own_sounds.py FOLDER [--out runs/own-sounds]

FOLDER holds one folder per class. Every step is an `otoscope` command; the last one sends recordings of the test set to
a running service. The last line is JSON.
"""

import argparse
import csv
import json
import time
from pathlib import Path

from helpers import classify, read_report, run_otoscope, running_service

# The recording or the speaker in a file name: 1-17124-A-43.ogg, bebop-000.flac, george-003.flac.
SOURCE = r"^(?:[0-9]-)?([^-]+)-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/own-sounds"))
    parser.add_argument("--pretrained", type=Path, default=Path("models/esc50-scratch"), help="the pretrained model")
    options = parser.parse_args()
    started = time.monotonic()
    sounds, model = options.out / "sounds", options.out / "models" / "drone-car-speech"

    run_otoscope("data", "import", options.folder, "--to", sounds, "--group", SOURCE)
    # Two subsets only: all drone recordings come from two machines, one for training and one for testing.
    run_otoscope("data", "split", sounds, "--val", "0", "--test", "0.3")
    run_otoscope("data", "report", sounds)
    if not (model / "config.json").is_file():
        run_otoscope("train", "--data", sounds, "--recipe", "own-sounds", "--from", options.pretrained, "--out", model)
    run_otoscope("evaluate", model, "--data", sounds, "--out", model / "evaluation-test", "--record")
    # The accuracy of one split depends on chance: which of the two drones is learned. By two folds, both ways:
    folds = ("--recipe", "own-sounds", "--from", options.pretrained, "--folds", "2")
    run_otoscope("evaluate", options.out / "folds", "--data", sounds, *folds)

    with running_service(options.out / "models", options.out / "home") as url:
        predictions = [classify(url, sound) for sound in test_recordings(sounds)]
    report = read_report(model / "evaluation-test")
    both = json.loads((options.out / "folds" / "folds.json").read_text())
    figures = {
        "example": "own-sounds",
        "test_accuracy": report["accuracy"],
        "test_clips": report["clips"],
        "folds_accuracy": both["mean"],
        "folds_interval_by_source": both["interval_95_sources"],
        "parameters": report["parameters"],
        "predictions": predictions,
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(figures))


def test_recordings(sounds: Path) -> list[Path]:
    """The first recording of each class in the test set."""
    with (sounds / "split" / "test.csv").open(newline="", encoding="utf-8") as table:
        firsts = {row["label"]: sounds / row["file"] for row in reversed(list(csv.DictReader(table)))}
    return [firsts[label] for label in sorted(firsts)]


if __name__ == "__main__":
    main()
