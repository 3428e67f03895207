"""CPU time of a job by process, for each model and format, beside another version of the code.

    .venv/bin/python bench/cost.py [--models esc50 esc50-light] [--formats OGG WAV] [--callers 16 64] [--against TREE]

CPU time says more than a rate on a machine that other programs use. The services of both trees run at the same time and
are loaded in turn, round by round, so that other load affects both equally; figures are medians over the rounds. A tree
serves its own models/, and has to understand this tree's `otoscope up`. Prints a table and one line of JSON.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from bench.lib.clips import encoded
from bench.lib.machine import describe
from bench.lib.stack import stack, submissions

HERE = Path(__file__).parents[1]
PROCESSES = ("gateway", "redis", "worker", "decoders")

Load = tuple[str, str, int]  # model, format, callers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["esc50", "esc50-light"], help="of models/")
    parser.add_argument("--formats", nargs="+", default=["OGG", "WAV"], help="WAV, FLAC, OGG or MP3")
    parser.add_argument("--callers", type=int, nargs="+", default=[64])
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, nargs="*", default=[], help="working trees of other versions")
    options = parser.parse_args()
    loads = [(m, f, c) for m in options.models for f in options.formats for c in options.callers]
    trees = [HERE, *options.against]
    measured: dict[tuple[Load, Path], list[dict[str, Any]]] = defaultdict(list)
    with ExitStack() as exits:
        served = {"models": ",".join(options.models), "default_model": options.models[0]}
        services = {tree: exits.enter_context(stack(tree / "models", tree, **served)) for tree in trees}
        for number in range(options.rounds):
            for load in loads:
                model, kind, callers = load
                for tree in trees if number % 2 else reversed(trees):
                    service = services[tree]
                    requests = submissions(service.target, encoded(kind), model=model)
                    measured[load, tree].append(service.load(requests, "callers", callers, options.seconds))
            print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    print(table(loads, trees, measured))
    figures = [
        {"model": load[0], "format": load[1], "callers": load[2], "tree": tree.name, "rounds": found}
        for (load, tree), found in measured.items()
    ]
    print(json.dumps({"machine": describe(), "options": vars(options), "figures": figures}, default=str))


def table(loads: list[Load], trees: list[Path], measured: dict[tuple[Load, Path], list[dict[str, Any]]]) -> str:
    """Medians over the rounds."""
    lines = [
        "| model, format, callers | tree | gateway | Redis | worker | decode processes | sum, ms | jobs a second |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for load in loads:
        for tree in trees:
            rounds = measured[load, tree]
            costs = [[found["cpu_ms_a_job"][name] for name in PROCESSES] for found in rounds]
            cells = [f"{statistics.median(values):.2f}" for values in zip(*costs, strict=True)]
            total, rate = statistics.median(map(sum, costs)), statistics.median(found["per_second"] for found in rounds)
            name = f"{load[0]}, {load[1]}, {load[2]}"
            lines.append(f"| {name} | {tree.name} | {' | '.join(cells)} | {total:.2f} | {rate:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
