"""The part of bench/gpu.py that runs a whole service: callers, gateways and workers."""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from bench.lib.clips import MODEL, encoded
from bench.lib.gpu_rows import Write, model_folders, row_of_error
from bench.lib.loads import load_all
from bench.lib.rig import Rig
from bench.lib.stack import submissions
from otoscope.loadgen import Target
from shared.config.settings import usable_cores


def stack(options: argparse.Namespace, write: Write) -> None:
    """The whole service: callers, workers and gateways, from Ogg files."""
    model = "esc50-light" if options.short else MODEL
    gateways = max(2, usable_cores() // 4)
    seconds = 1.0 if options.short else 3.0
    callers = (1, 4) if options.short else (256, 1, 64, 16)
    for workers in (1,) if options.short else (4, 1, 8, 2):
        with tempfile.TemporaryDirectory() as name, model_folders() as folders:
            models = Path(name, "models")
            models.mkdir()
            (models / model).symlink_to(next(folder for folder in folders if folder.name == model))
            settings = {"device": options.device.type, "decode_processes": "2", "queue_limit": "2000"}
            with Rig(Path(name), models, workers=workers, gateways=gateways, **settings) as rig:
                began = time.monotonic()
                try:
                    rig.start()
                except TimeoutError:
                    for process in rig.processes:  # their logs are deleted with the folder
                        print(process, rig.log(process)[-2_000:], sep="\n", file=sys.stderr)
                    raise
                started = round(time.monotonic() - began, 1)
                for kind, count in [("OGG", count) for count in callers] + [("WAV", callers[0])]:
                    requests = submissions(Target.of(rig.url), encoded(kind))
                    labels = {"model": model, "workers": workers, "gateways": gateways, "format": kind}
                    with row_of_error(write, **labels, callers=count):
                        before = cpu_seconds(rig)
                        with watched_gpu() as gpu:
                            load = load_all(rig.urls, requests, count, seconds)
                        spent = {name: value - before[name] for name, value in cpu_seconds(rig).items()}
                        jobs = max(1, load.outcomes.total()) * (seconds + 1) / seconds  # with the warm-up
                        cost = {f"{name}_ms": round(1e3 * value / jobs, 2) for name, value in spent.items()}
                        figures = {name: value for name, value in load.summary().items() if name != "outcomes"}
                        write(**labels, callers=count, **figures, **cost, **gpu, start_s=started)


def cpu_seconds(rig: Rig) -> dict[str, float]:
    """Of gateways, Redis and workers with their decode processes so far."""
    spent = {"gateway": 0.0, "server": 0.0, "worker": 0.0}
    for name, process in rig.processes.items():
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(process.pid)
            for each in (root, *root.children(recursive=True)):
                times = each.cpu_times()
                spent[name.partition(" ")[0]] += times.user + times.system
    return spent


@contextmanager
def watched_gpu() -> Iterator[dict[str, int]]:
    """Fills in the busy share of the GPU and its memory in use, from nvidia-smi; nothing where that is missing."""
    found: dict[str, int] = {}
    query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "250"]
    try:
        process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        yield found
        return
    samples: list[tuple[int, int]] = []

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            with suppress(ValueError):
                busy, used = map(int, line.split(","))
                samples.append((busy, used))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield found
    finally:
        process.terminate()
        process.wait()
        reader.join(5)
        if samples:
            found["gpu_busy_percent"] = round(sum(busy for busy, _ in samples) / len(samples))
            found["gpu_mb"] = max(used for _, used in samples)
