"""Throughput of the gateway alone: finished jobs are read repeatedly.

    .venv/bin/python bench/gateway.py [--reads status maps ...] [--callers 16]

Starts a service of its own, classifies some sounds, reads the jobs with that many concurrent callers, and stops it.
Prints a table and one line of JSON: responses a second, latency, the CPU of gateway and Redis for each response, and
the throughput of a gateway with a core of its own that follows from it; and how often the event loop was more than some
milliseconds late, which delays every request. Ends with status 1 if a response was not 200.
"""

import argparse
import io
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import soundfile

sys.path.append(str(Path(__file__).parents[1]))
from prometheus_client.parser import text_string_to_metric_families

from bench.lib.clips import RATE, clips, encoded, model_directory
from bench.lib.machine import describe
from bench.lib.stack import Stack, stack
from otoscope.client import Client
from otoscope.types import Part

PACKED = {"Accept": "application/msgpack"}
READS: dict[str, tuple[str, str, dict[str, str]]] = {
    "status": ("", "/v1/jobs/{}", {}),
    "msgpack": ("", "/v1/jobs/{}", PACKED),
    "maps": ("maps,spectrogram", "/v1/jobs/{}", {}),
    "maps-msgpack": ("maps,spectrogram", "/v1/jobs/{}", PACKED),
    "long": ("full_spectrogram", "/v1/jobs/{}", {}),
    "result": ("", "/v1/jobs/{}/result", {}),
    "health": ("", "/health/live", {}),
}
"""Name -> parts of the jobs, path that is read, headers."""


LATE = (4, 8, 16, 32)  # ms, bounds of the histogram's buckets


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
    """Read some jobs in turn, in one of the ways of READS."""
    include, path, headers = READS[name]
    requests = [service.target.request("GET", path.format(job_id), headers) for job_id in jobs(service, include)]
    before = delays(service)
    load = service.load(requests, "callers", callers, seconds)
    late = delays(service)
    late.subtract(before)
    share = {f"over_{ms}_ms": round(late[str(ms)] / late["measurements"], 3) for ms in LATE}
    cost = {process: load["cpu_ms_a_job"][process] for process in ("gateway", "redis")}
    figures = ("per_second", "p50_ms", "p95_ms", "p99_ms", "answers", "errors", "outcomes")
    report = {figure: load[figure] for figure in figures if figure in load}
    report |= {"cpu_ms": cost, "per_second_and_core": round(1e3 / cost["gateway"]), "loop_late": share}
    return {"read": name, **report}


def delays(service: Stack) -> Counter[str]:
    """The number of measurements of the event loop so far, and how often it was later than each of LATE."""
    counts: Counter[str] = Counter()
    for family in text_string_to_metric_families(httpx2.get(f"{service.url}/metrics").text):
        for sample in family.samples:
            if sample.name == "otoscope_api_loop_delay_seconds_count":
                counts["measurements"] = int(sample.value)
            if sample.name == "otoscope_api_loop_delay_seconds_bucket":
                counts[f"to {1e3 * float(sample.labels['le']):g}"] = int(sample.value)
    total = counts["measurements"]
    return Counter({"measurements": total, **{str(ms): total - counts[f"to {ms}"] for ms in LATE}})


def jobs(service: Stack, include: str) -> list[str]:
    """The ids of some finished jobs."""
    with Client(f"http://{service.target.host}:{service.target.port}") as client:
        parts = include.split(",") if include else []
        sounds = [ten_minutes()] if Part.FULL_SPECTROGRAM in parts else encoded("WAV", 16)
        return [client.classify(sound, include=parts).id for sound in sounds]


def ten_minutes() -> bytes:
    """A sound whose whole spectrogram is 25 MB of JSON."""
    file = io.BytesIO()
    soundfile.write(file, np.concatenate(clips(120)), RATE, format="FLAC")
    return file.getvalue()


def row(read: dict[str, Any]) -> str:
    cost = ", ".join(f"{name} {value}" for name, value in read["cpu_ms"].items())
    return (
        f"{read['read']:>12}  {read['per_second']:>7.1f}/s  p50 {read['p50_ms']:>6.1f}  p95 {read['p95_ms']:>6.1f}"
        f"  p99 {read['p99_ms']:>6.1f} ms  errors {read['errors']}  CPU ms: {cost}"
        f"  on a core of its own {read['per_second_and_core']}/s  loop late: {read['loop_late']}"
    )


if __name__ == "__main__":
    main()
