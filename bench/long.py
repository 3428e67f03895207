"""Memory and time of one long recording: `otoscope up` with a model, and a file of hours as Ogg Opus.

    .venv/bin/python bench/long.py [--hours 2] [--model esc50] [--include waveform,detections]

The recording is room tone with one of the benchmark's clips every five minutes. Prints each progress that the service
reports and one line of JSON: the size of the file, the seconds that the job took by stage, and the peak resident memory
of the worker, of its decode processes (idle ones included) and of both at the same moment, in MB.
"""

import argparse
import io
import json
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import soundfile

sys.path.append(str(Path(__file__).parent / "lib"))

from clips import RATE, clips, model_directory
from machine import describe
from stack import Stack, stack

_BITS_PER_SECOND = 31_000  # of the compressed file: two hours are 28 MB, below the default limit of 32 MiB
_EVERY = 300  # seconds between two clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--model", default="esc50")
    parser.add_argument("--include", default="waveform,detections")
    options = parser.parse_args()
    data = recording(options.hours * 3_600)
    with (
        tempfile.TemporaryDirectory() as folder,
        stack(model_directory(options.model, Path(folder))) as service,
        Peaks(service) as peaks,
    ):
        job = classify(service.url, data, options.include)
    report = {
        "machine": describe(),
        "options": vars(options),
        "file_mb": round(len(data) / 2**20, 1),
        "idle_mb": peaks.idle,
        "peak_mb": peaks.highest,
        "timings": job["timings"],
        "windows": job["result"]["window_count"],
        "detections": len(job["result"].get("detections", [])),
    }
    print(json.dumps(report))


def recording(seconds: float) -> bytes:
    """Noise at -60 dBFS with a clip every five minutes, as Ogg Opus."""
    random = np.random.default_rng(0)
    events = clips(8)
    file = io.BytesIO()
    level = 1 - (_BITS_PER_SECOND - 6_000) / 250_000  # libsndfile maps 0 to 1 to 256 to 6 kbit/s
    with soundfile.SoundFile(file, "w", RATE, 1, "OPUS", format="OGG", compression_level=level) as sound:
        for minute in range(round(seconds / 60)):
            block = random.normal(scale=1e-3, size=60 * RATE).astype(np.float32)
            if minute * 60 % _EVERY == 0:
                clip = events[minute * 60 // _EVERY % len(events)]
                block[20 * RATE : 20 * RATE + len(clip)] += clip
            sound.write(block)
    return file.getvalue()


class Peaks:
    """Samples the resident memory of a stack's worker and decode processes, ten times a second."""

    def __init__(self, service: Stack) -> None:
        self._service, self._stop = service, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.idle = self._sample()
        self.highest = dict(self.idle)

    def __enter__(self) -> "Peaks":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            for name, size in self._sample().items():
                self.highest[name] = max(self.highest[name], size)

    def _sample(self) -> dict[str, int]:
        """MB by process, and of both."""
        size = {"worker": 0.0, "decoders": 0.0}
        for name, process in self._service.processes():
            if name in size:
                with suppress(psutil.NoSuchProcess):
                    size[name] += process.memory_info().rss / 2**20
        return {name: round(value) for name, value in (size | {"both": sum(size.values())}).items()}


def classify(url: str, data: bytes, include: str) -> dict[str, Any]:
    """Submit the recording and poll the job until it is finished. Raises SystemExit if it fails."""
    with httpx2.Client(base_url=url, timeout=60) as http:
        began = time.monotonic()
        response = http.post(f"/v1/jobs?include={include}", content=data, headers={"Content-Type": "audio/ogg"})
        job: dict[str, Any] = response.raise_for_status().json()
        last = None
        while job["status"] in ("queued", "running"):
            time.sleep(1)
            job = http.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
            if job["progress"] != last:
                last = job["progress"]
                print(f"{time.monotonic() - began:6.1f} s  {last}", file=sys.stderr)
        if job["status"] != "succeeded":
            raise SystemExit(f"the job {job['status']}: {job['error']}")
        return job


if __name__ == "__main__":
    main()
