"""Everything that is measured on a GPU, in one run of at most eight minutes, the most valuable first.

    .venv/bin/python bench/gpu.py [--out DIR] [--only PART ...] [--minutes 8] [--data ESC-50] [--device cpu] [--short]
    .venv/bin/python bench/gpu.py --bundle DIR

Each part is a process with its own share of the time. Its rows are written to OUT/PART.jsonl as they are measured,
what it prints to OUT/PART.log; after each part OUT/report.md has its table and OUT/report.json all rows so far. A part
that fails or is stopped keeps its rows, and the next one follows. Parts, in their order:

- tests: those that need a CUDA device
- agreement: each model batched and alone on the device, against float32 on the CPU
- engine: batches of 1 to 128 through the batcher, beside the bare forward pass, CUDA graphs and torch.compile
- stack: the whole service with 1 to 8 workers and 1 to 256 callers
- kill: kill -9 of the worker under load (bench/faults.py)
- training: an epoch of each recipe
- epochs: as many epochs of esc50-best as fit; needs --data, a folder in the layout of ESC-50

`--bundle` makes a folder of at most 60 MB for a host that has Python, torch and no network: `python DIR/run.py` runs
all of this there. `--short` is a trial of every part. Exit status 1 if a part failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

HERE = Path(__file__).parents[1]
MINUTES = 8.0
LIMITS = {"tests": 70, "agreement": 50, "engine": 100, "stack": 165, "kill": 45, "training": 45, "epochs": 60}
"""Seconds of each part, of eight minutes; time that some leave over is at the disposal of the last one."""
NEEDS = {"epochs": "needs --data, a folder in the layout of ESC-50"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs", "gpu"))
    parser.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS), metavar="PART")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--data", type=Path, help="for the part `epochs`")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script")
    parser.add_argument("--short", action="store_true", help="few and short measurements")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="make a bundle and measure nothing")
    parser.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)  # what the process of a part runs
    options = parser.parse_args()
    if options.bundle:
        _bundle(options.bundle)
    elif options.part:
        run_part(options)
    else:
        raise SystemExit(run(options))


def _bundle(folder: Path) -> None:
    from bench.lib.bundle import LIMIT_MB, make_bundle

    size = make_bundle(folder) / 1e6
    print(f"{folder}: {size:.1f} MB")
    if size > LIMIT_MB:
        raise SystemExit(f"the bundle has more than {LIMIT_MB} MB")


def run(options: argparse.Namespace) -> int:
    """Every part in turn; returns the exit status."""
    options.out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options.minutes
    report: dict[str, Any] = {"machine": machine(options.device), "short": options.short, "parts": {}}
    (options.out / "report.md").write_text(f"`bench/gpu.py`, {report['machine']}\n")
    for name in options.only:
        left = until - time.monotonic()
        if name == "epochs" and not options.data:
            ended = NEEDS[name]
        elif left < 5:
            ended = "no time was left"
        else:
            began = time.monotonic()
            ended = run_process(name, options, min(LIMITS[name] * options.minutes / MINUTES, left))
            ended += f" after {time.monotonic() - began:.0f} s"
        rows = read_rows(options.out / f"{name}.jsonl")
        report["parts"][name] = {"ended": ended, "rows": rows}
        (options.out / "report.json").write_text(json.dumps(report, indent=1))
        text = f"\n### {name}: {ended}\n\n{table(rows)}"
        with (options.out / "report.md").open("a") as file:
            file.write(text)
        print(text, flush=True)
    return int(any(part["ended"].startswith(("failed", "stopped")) for part in report["parts"].values()))


def machine(device: str) -> dict[str, object]:
    """The host and its GPU."""
    import torch

    from bench.lib.machine import describe

    gpu = torch.cuda.get_device_name() if device != "cpu" and torch.cuda.is_available() else None
    return {**describe(), "gpu": gpu, "cuda": torch.version.cuda, "torch": torch.__version__}


def run_process(name: str, options: argparse.Namespace, limit: float) -> str:
    """Run a part in a session of its own, so that it is ended with all that it has started; returns how it ended."""
    rows = options.out / f"{name}.jsonl"
    rows.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--out", str(options.out.resolve())]
    command += ["--device", options.device, *(["--short"] if options.short else [])]
    command += ["--data", str(options.data.resolve())] if options.data else []
    with (options.out / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=HERE, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end_session(process)
    if status is None:
        return "stopped at its limit"
    return "done" if status == 0 else f"failed with status {status}"


def _end_session(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def run_part(options: argparse.Namespace) -> None:
    """What the process of a part does; a row is in the file as soon as it is measured."""
    with (options.out / f"{options.part}.jsonl").open("a") as file:

        def write(**row: object) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        if options.part == "kill":
            kill(options, write)
        elif options.part == "epochs":
            epochs(options)
        else:
            import torch

            from bench.lib.gpu_parts import PARTS

            options.device = torch.device(options.device)
            PARTS[options.part](options, write)


def kill(options: argparse.Namespace, write: Any) -> None:
    """bench/faults.py on this device: every accepted job ends once, and the totals balance."""
    model, jobs = ("esc50-light", "60") if options.short else ("resnet-21m", "2000")
    command = [sys.executable, str(HERE / "bench" / "faults.py"), "--model", model, "--jobs", jobs]
    done = subprocess.run([*command, "--only", "worker", "--rounds", "1"], stdout=subprocess.PIPE, text=True)
    for fault in json.loads(done.stdout.splitlines()[-1])["faults"]:
        found = {name: fault[name] for name in ("accepted", "ended", "recovered", "wrong")}
        write(model=model, **found, redelivered_after_s=fault["notes"].get("redelivered_after"))
    raise SystemExit(done.returncode)


def epochs(options: argparse.Namespace) -> None:
    """Trains until the limit of the part; the curve of the run has a row for each epoch."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "otoscope", "train", "--data", str(options.data), "--recipe", "esc50-best"]
        subprocess.run([*command, "--fold", "5", "--out", str(Path(folder, "run"))], check=True)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The complete lines."""
    rows: list[dict[str, Any]] = []
    if file.is_file():
        for line in file.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
    return rows


def table(rows: Iterable[dict[str, Any]]) -> str:
    """In Markdown, with the columns of all rows in the order in which they appear."""
    listed = list(rows)
    columns = list(dict.fromkeys(name for row in listed for name in row))
    if not columns:
        return ""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in listed:
        cells = (str(row.get(name, "")).replace("|", "/").replace("\n", " ") for name in columns)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
