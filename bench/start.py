"""The start of a service with all models of models/, and the first job of each model.

    .venv/bin/python bench/start.py [--rounds 3] [--against TREE]

Prints for each start the seconds until it is ready and the resident MB of the worker then, the seconds of the first and
of the second job of each model, and the MB after them; and one line of JSON. `--against` is another version of the
code, whose starts alternate with those of this one; both serve the models of this one.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from bench.lib.clips import SHIPPED, encoded
from bench.lib.machine import describe
from bench.lib.stack import TREE, Stack, stack
from otoscope.client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="the root of another working tree")
    options = parser.parse_args()
    trees = {"this": TREE} | ({"other": options.against.resolve()} if options.against else {})
    starts: list[dict[str, Any]] = []
    for _ in range(options.rounds):
        for name, tree in trees.items():
            with stack(SHIPPED, tree) as service:
                starts.append({"code": name, **figures(service)})
            print(starts[-1], file=sys.stderr)
    print(json.dumps({"machine": describe(), "starts": starts}))


def figures(service: Stack) -> dict[str, Any]:
    ready = service.memory()["worker"]
    sounds = iter(encoded("OGG", 64))
    seconds: dict[str, list[float]] = {}
    with Client(service.url) as client:
        for card in client.models().models:
            for _ in range(2):
                began = time.perf_counter()
                client.classify(next(sounds), model=card.name)
                seconds.setdefault(card.name, []).append(round(time.perf_counter() - began, 3))
    return {
        "ready_seconds": service.start_seconds, "ready_mb": ready, "first_and_second_job_seconds": seconds,
        "mb_after_them": service.memory()["worker"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
