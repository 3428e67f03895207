"""From a folder of recordings to a served model: is it a drone, a car or somebody speaking?

    .venv/bin/python examples/own_sounds.py FOLDER [--out runs/own-sounds]

FOLDER holds one folder a class. Every step is an `otoscope` command; the last asks a running service about recordings
that the network never heard. The last line is JSON.
"""

import argparse
import csv
import json
import time
from pathlib import Path

from steps import ask, otoscope, read_report, served

# The recording or the speaker in a file's name: 1-17124-A-43.ogg, bebop-000.flac, george-003.flac.
SOURCE = r"^(?:[0-9]-)?([^-]+)-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/own-sounds"))
    parser.add_argument("--ears", type=Path, default=Path("models/esc50"), help="the network to go on from")
    options = parser.parse_args()
    started = time.monotonic()
    sounds, model = options.out / "sounds", options.out / "models" / "drone-car-speech"

    otoscope("data", "import", options.folder, "--to", sounds, "--group", SOURCE)
    # Two parts only: all drone recordings come from two machines, one to learn from and one to be tested on.
    otoscope("data", "split", sounds, "--val", "0", "--test", "0.3")
    otoscope("data", "report", sounds)
    if not (model / "config.json").is_file():
        otoscope("train", "--data", sounds, "--recipe", "own-sounds", "--from", options.ears, "--out", model)
    otoscope("evaluate", model, "--data", sounds, "--out", model / "evaluation-test", "--record")

    with served(options.out / "models", options.out / "home") as url:
        answers = [ask(url, sound) for sound in unheard(sounds)]
    report = read_report(model / "evaluation-test")
    figures = {
        "example": "own-sounds",
        "test_accuracy": report["accuracy"],
        "test_clips": report["clips"],
        "parameters": report["parameters"],
        "answers": answers,
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(figures))


def unheard(sounds: Path) -> list[Path]:
    """The first recording of each class in the test part."""
    with (sounds / "split" / "test.csv").open(newline="", encoding="utf-8") as table:
        firsts = {row["label"]: sounds / row["file"] for row in reversed(list(csv.DictReader(table)))}
    return [firsts[label] for label in sorted(firsts)]


if __name__ == "__main__":
    main()
