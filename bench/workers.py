"""Throughput by number of workers, and their shares of the queue. One worker on each core, from one core to all.

    .venv/bin/python bench/workers.py [--model esc50] [--callers 64] [--seconds 20]

Each worker is pinned to a core of its own; Redis, gateway and load generator use all cores. Prints a line for each
number of workers and one line of JSON: results a second, latency, and each worker's share of the jobs.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from bench.lib.clips import MODEL, encoded, model_directory
from bench.lib.machine import describe
from bench.lib.rig import Rig
from bench.lib.stack import submissions
from otoscope.loadgen import Target, measure
from shared.contract import job_key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="esc50", help=f"{MODEL}, or one of models/")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    runs: list[dict[str, Any]] = []
    for count in range(1, len(cores) + 1):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "models").mkdir()
            models = model_directory(options.model, folder / "models")
            with Rig(folder, models, workers=count, cores=cores[:count]) as rig:
                rig.start()
                target = Target.of(rig.url)
                load = measure(target, submissions(target, encoded()), callers=options.callers, seconds=options.seconds)
                done = Counter(
                    (rig.redis.hget(key, "worker") or b"?").decode().rpartition("-")[2]
                    for key in rig.redis.scan_iter(job_key("*"), count=1000)
                )
        shares = [round(jobs / done.total(), 3) for jobs in done.values()]
        runs.append({"workers": count, **load.summary(), "shares": shares})
        print(runs[-1], file=sys.stderr)
    print(json.dumps({"machine": describe(), "options": vars(options), "runs": runs}))


if __name__ == "__main__":
    main()
