"""What the documented commands of docs/training.md take, on a folder of recordings: seconds on the clock, and of CPU.

    .venv/bin/python -m bench.training_commands FOLDER [--group PATTERN] [--only import split ...] [--out DIR]

Runs them in the order of the documentation, each in a process of its own with the threads that OMP_NUM_THREADS states,
and prints a table in Markdown with the machine, its load and the date. CPU time does not depend on what else the
machine does, as far as caches allow. Later commands need the files of earlier ones, which stay in --out.
"""

import argparse
import datetime
import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = Path("models/esc50-scratch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--group", default=r"^(?:[0-9]-)?([^-]+)-", help="the source in the name of a file")
    parser.add_argument("--only", nargs="*", help="names of the table")
    parser.add_argument("--out", type=Path, help="a new folder by default")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="otoscope-commands-"))
    commands = documented(options.folder, options.group, out)
    rows: list[str] = []
    for name, words in commands.items():
        if options.only and name not in options.only:
            continue
        taken, cpu = timed([sys.executable, "-m", "otoscope", *words])
        shown = shlex.join(words).replace(str(out), "OUT").replace(str(options.folder), "FOLDER")
        rows.append(f"| {name} | `otoscope {shown}` | {taken:.0f} | {cpu:.0f} |")
        print(rows[-1], flush=True)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {threads} threads, load", end=" ")
    print(f"{os.getloadavg()[1]:.0f}, Python {platform.python_version()}, {datetime.date.today()}\n")
    print("| | command | seconds | of CPU |\n|---|---|---:|---:|", *rows, sep="\n")


def documented(folder: Path, group: str, out: Path) -> dict[str, list[str]]:
    """The commands by name; the data set and the models are in `out`."""
    sounds, model = str(out / "sounds"), str(out / "model")
    data = ["--data", sounds]
    start = ["--recipe", "own-sounds", "--from", str(MODEL)]
    return {
        "import": ["data", "import", str(folder), "--to", sounds, "--group", group],
        "split": ["data", "split", sounds, "--val", "0", "--test", "0.3"],
        "report": ["data", "report", sounds],
        "preview": ["data", "preview", sounds, *start, "--out", str(out / "preview.png")],
        "log-mels": ["data", "export", sounds, *start, "--npz", str(out / "mels.npz")],
        "learning rate": ["lr-find", *data, *start, "--out", str(out / "lr-find")],
        "overfit": ["overfit", *data, *start],
        "train": ["train", *data, *start, "--out", model],
        "evaluate": ["evaluate", model, *data],
        "runs": ["runs", str(out)],
        "folds": ["evaluate", str(out / "folds"), *data, *start, "--folds", "2"],
    }


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds on the clock and of CPU, children included. Exits if the command fails."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    taken, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        raise SystemExit(f"{shlex.join(command)}: {ended.stderr[-1_000:]}")
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
