"""What the gateway can do when the worker is not what limits it: jobs that are there are read again and again.

    .venv/bin/python bench/gateway.py [--reads status maps ...] [--callers 16]

Starts a stack of its own, has it classify some sounds, asks for them with so many callers at a time, and ends it.
Prints a table and one line of JSON: answers a second, latency, the CPU of gateway and Redis for each, and how many
answers a second one core of the gateway's own would therefore give. Ends with status 1 where an answer was not 200.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from clips import encoded, model_directory
from machine import describe
from stack import Stack, stack

from otoscope.client import Client

PACKED = {"Accept": "application/msgpack"}
READS: dict[str, tuple[str, str, dict[str, str]]] = {
    "status": ("", "/v1/jobs/{}", {}),
    "msgpack": ("", "/v1/jobs/{}", PACKED),
    "maps": ("maps,spectrogram", "/v1/jobs/{}", {}),
    "maps-msgpack": ("maps,spectrogram", "/v1/jobs/{}", PACKED),
    "result": ("", "/v1/jobs/{}/result", {}),
    "health": ("", "/health/live", {}),
}
"""By name: what the jobs were asked for, the address that is read, and its headers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="esc50-light", help="one of models/")
    parser.add_argument("--reads", nargs="*", choices=READS, default=list(READS))
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8)
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": describe(), "options": vars(options)}
    with tempfile.TemporaryDirectory() as folder, stack(model_directory(options.model, Path(folder))) as service:
        report["reads"] = [measure(service, name, options.callers, options.seconds) for name in options.reads]
    for read in report["reads"]:
        print(row(read), file=sys.stderr)
    print(json.dumps(report))
    raise SystemExit(any(read["errors"] for read in report["reads"]))


def measure(service: Stack, name: str, callers: int, seconds: float) -> dict[str, Any]:
    """Read some jobs in turns, in one of the ways of READS."""
    include, path, headers = READS[name]
    requests = [service.target.request("GET", path.format(job_id), headers) for job_id in jobs(service, include)]
    load = service.load(requests, "callers", callers, seconds)
    cost = {process: load["cpu_ms_a_job"][process] for process in ("gateway", "redis")}
    figures = ("per_second", "p50_ms", "p95_ms", "p99_ms", "answers", "errors", "outcomes")
    told = {figure: load[figure] for figure in figures if figure in load}
    return {"read": name, **told, "cpu_ms": cost, "per_second_and_core": round(1e3 / cost["gateway"])}


def jobs(service: Stack, include: str) -> list[str]:
    """The ids of some finished jobs."""
    with Client(f"http://{service.target.host}:{service.target.port}") as client:
        parts = include.split(",") if include else []
        return [client.classify(sound, include=parts).id for sound in encoded("WAV", 16)]


def row(read: dict[str, Any]) -> str:
    cost = ", ".join(f"{name} {value}" for name, value in read["cpu_ms"].items())
    return (
        f"{read['read']:>12}  {read['per_second']:>7.1f}/s  p50 {read['p50_ms']:>6.1f}  p95 {read['p95_ms']:>6.1f}"
        f"  p99 {read['p99_ms']:>6.1f} ms  errors {read['errors']}  CPU ms: {cost}"
        f"  on a core of its own {read['per_second_and_core']}/s"
    )


if __name__ == "__main__":
    main()
