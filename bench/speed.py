"""Throughput as a share of what the machine can do: limits, engine and stack, measured alternately in one run.

    .venv/bin/python bench/speed.py [--seconds 10] [--model resnet-21m] [--format OGG] [--rounds 3]

The baseline is eager PyTorch in two processes of one thread, eight clips at a time, without HTTP or queue
(bench/peers/limit.py). On a shared machine only measurements that follow each other can be compared: so everything is
measured in each of several rounds, and a ratio is the median over the rounds. Prints Markdown tables, and one line of
JSON at the end.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from bench.engine import with_ranges
from bench.lib.clips import MODEL, encoded, model_directory
from bench.lib.machine import describe
from bench.lib.stack import stack, submissions
from bench.peers.limit import measure_limit
from worker.model.checkpoint import load_model, write_config

BENCH = Path(__file__).parent
PARTS = "maps,spectrogram"
UNCOMPRESSED = "64 callers, WAV"
LOADS = {  # name -> callers, parts, representation
    "1 caller": (1, "", "application/json"),
    "16 callers": (16, "", "application/json"),
    "64 callers": (64, "", "application/json"),
    "256 callers": (256, "", "application/json"),
    UNCOMPRESSED: (64, "", "application/json"),
    "64 callers, maps and spectrogram as MessagePack": (64, PARTS, "application/msgpack"),
    "64 callers, maps and spectrogram as JSON": (64, PARTS, "application/json"),
}

STACKS: dict[str, dict[str, str]] = {
    "stack": {},
    "stack, int8": {"int8": "1"},
    "stack, eager PyTorch": {"engine": "torch"},
}
LIKE_PEERS = ("1 caller", "16 callers", "64 callers")
"""With PyTorch, which the peers use, the stack is measured under the loads of bench/peers.py."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help=f"{MODEL}, or one of models/")
    parser.add_argument("--format", default="OGG", choices=("OGG", "MP3", "FLAC", "WAV"), help="of the sounds")
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        models = model_directory(options.model, Path(folder))
        directory = models / options.model
        if options.model == MODEL:
            write_config(directory, with_ranges(load_model(directory)).config)
        for number in range(options.rounds):
            rounds.append(dict(one_round(models, directory, options)))
            print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    print(table(rounds))
    print(json.dumps({"machine": describe(), "options": vars(options), "rounds": rounds}))


def one_round(models: Path, directory: Path, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and figures of each measurement."""
    for batch in (8, 1):
        limit = measure_limit(options.seconds, directory, batch, options.format)
        yield f"eager limit, batch {batch}", {"per_second": limit.per_second}
    for int8 in (False, True):
        for figure in engine(options, int8):
            yield f"{figure['what']}: {figure['engine']}, batch {figure['batch']}", figure
    for which, settings in STACKS.items():
        with stack(models, **settings) as service:
            for name, (callers, parts, kind) in LOADS.items():
                if "engine" in settings and name not in LIKE_PEERS:
                    continue
                sounds = encoded("WAV" if name == UNCOMPRESSED else options.format)
                requests = submissions(service.target, sounds, parts, kind)
                yield f"{which}: {name}", service.load(requests, "callers", callers, options.seconds)


def engine(options: argparse.Namespace, int8: bool) -> list[dict[str, Any]]:
    """The figures of bench/engine.py, in a process of its own, so that it leaves nothing in memory."""
    command = [sys.executable, str(BENCH / "engine.py"), "--model", options.model, "--batches", "1", "8"]
    command += ["--format", options.format]
    command += ["--seconds", str(options.seconds), *(["--int8"] * int8)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])["figures"]
    return figures


def table(rounds: list[dict[str, dict[str, Any]]]) -> str:
    """Medians over the rounds, and of each round's ratio to its own eager limit."""
    columns: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in rounds:
        for name, figure in one.items():
            limit = one["eager limit, batch 8"]["per_second"]
            columns[name].append({**figure, "share": figure["per_second"] / limit})
    lines = [
        "| | clips a second | of the eager limit | p50 ms | p99 ms | CPU ms: gateway, worker, decoders, Redis | MB |",
        "|---|---:|---:|---:|---:|---|---|",
    ]

    def median(figures: list[dict[str, Any]], key: str) -> str:
        return f"{statistics.median(figure[key] for figure in figures):.1f}" if key in figures[0] else ""

    for name, figures in columns.items():
        shares = sorted(figure["share"] for figure in figures)
        spread = f" ({shares[0]:.2f}–{shares[-1]:.2f})" if len(shares) > 1 else ""
        cost = memory = ""
        if "cpu_ms_a_job" in figures[0]:
            of = [figure["cpu_ms_a_job"] for figure in figures]
            cost = ", ".join(median(of, process) for process in ("gateway", "worker", "decoders", "redis"))
            memory = ", ".join(f"{process} {held}" for process, held in figures[-1]["memory_mb"].items())
        lines.append(
            f"| {name} | {median(figures, 'per_second')} | {statistics.median(shares):.2f}{spread}"
            f" | {median(figures, 'p50_ms')} | {median(figures, 'p99_ms')} | {cost} | {memory} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
