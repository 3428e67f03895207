"""Helpers of the examples: `otoscope` commands that are printed as they run, and a service for a folder of models."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from otoscope import Client

_READY_SECONDS = 120


def run_otoscope(*arguments: object) -> None:
    """Print and run a command; the example ends if the command fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ otoscope {shlex.join(words)}", flush=True)
    if status := subprocess.run([sys.executable, "-m", "otoscope", *words], check=False).returncode:
        raise SystemExit(status)


@contextmanager
def running_service(models: Path, home: Path) -> Iterator[str]:
    """The URL of a service for these models; the service is stopped at the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "OTOSCOPE_MODELS_DIR": str(models.resolve()),
        "OTOSCOPE_DEFAULT_MODEL": sorted(path.parent.name for path in models.glob("*/config.json"))[0],
        "OTOSCOPE_HOME": str(home.resolve()),
        "OTOSCOPE_PORT": str(port),
        "OTOSCOPE_METRICS_PORT": "0",
    }
    log = (home.parent / "service.log").open("w")
    service = subprocess.Popen([sys.executable, "-m", "otoscope", "up"], env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        print(f"\nStarting the service at {url}", flush=True)
        _until_ready(url, service)
        yield url
    finally:
        service.send_signal(signal.SIGINT)
        service.wait(60)
        log.close()


def _until_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    with Client(url) as client:
        while time.monotonic() < deadline and service.poll() is None:
            try:
                if client.models().models:
                    return
            except Exception:
                time.sleep(0.5)
    raise SystemExit("the service did not start; see service.log")


def classify(url: str, sound: Path) -> dict[str, Any]:
    """Classify a sound and print the prediction."""
    with Client(url) as client:
        job = client.classify(str(sound))
    assert job.result
    first = job.result.predictions[0]
    print(f"{sound.name}: {first.class_}, {first.confidence:.0%}", flush=True)
    return {"sound": sound.name, "class": first.class_, "confidence": round(first.confidence, 3)}


def read_report(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report
