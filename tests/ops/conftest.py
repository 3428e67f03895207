"""A service under load beside a real Prometheus that reads it, with the project's own jobs and rules."""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest

from ops.dashboard import NEED_A_GPU, filled, panels
from ops.local import GATEWAY, WORKER, Prometheus, configuration, program
from shared.api_keys import Scope, new_key, write_keys
from tests.conftest import free_port, start_server, write_tiny_model
from tests.e2e.conftest import Stack
from tests.support.sounds import chirp, encode

SECONDS_OF_LOAD, SECONDS_OF_NOISE = 9.0, 30.0  # of noise at most


@dataclass
class Watched:
    """A stack that was used for a while, and the Prometheus that watched."""

    stack: Stack
    prometheus: Prometheus
    busy: float  # seconds since 1970 at which it was in full use; it is not any more


@pytest.fixture(scope="package")
def watched() -> Iterator[Watched]:
    """Read once a second with a key, as a gateway with keys asks for."""
    if program("prometheus") is None:
        pytest.skip("needs prometheus, which `make prometheus` gets from Debian")
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        folder = Path(name)
        write_tiny_model(folder / "models" / "tiny")
        key, text = new_key("prometheus", [Scope.ADMIN])
        write_keys(folder / "keys", [key])
        (folder / "key").write_text(text)
        server, socket = start_server(folder, "--save", "", "--maxmemory", "256mb")
        stack = Stack.on(folder, f"unix://{socket}", default_model="tiny", keys_file=str(folder / "keys"))
        targets = {GATEWAY: [urlsplit(stack.url).netloc], WORKER: [urlsplit(stack.worker_metrics).netloc]}
        config = configuration(targets, 1.0, folder / "key")
        with stack.up(server), Prometheus.running(config, free_port(), folder) as prometheus:
            with used(stack, text) as other_sounds:
                time.sleep(SECONDS_OF_LOAD)
                other_sounds.set()
                deadline = time.monotonic() + SECONDS_OF_NOISE
                while not shown(prometheus, busy := time.time()) and time.monotonic() < deadline:
                    time.sleep(0.2)
            time.sleep(2.5)  # until what came of it has been read
            yield Watched(stack, prometheus, busy)


def asked(target: dict[str, Any]) -> str:
    """A query of a panel, over the few seconds that there are."""
    return filled(target["expr"], "5s", instance=".*", window="6s", before="4s")


def shown(prometheus: Prometheus, at: float) -> bool:
    """Whether every panel has something to show."""
    targets = [target for panel in panels() if panel["title"] not in NEED_A_GPU for target in panel["targets"]]
    found = [prometheus.query(asked(target), at) for target in targets]
    return all(any(series["value"][1] != "NaN" for series in query) for query in found)


@contextmanager
def used(stack: Stack, key: str) -> Iterator[threading.Event]:
    """Two callers send chirps in two formats, and some files that are no sound or cannot be answered.

    After the event is set they send noise, which the tiny network takes for something else.
    """
    noise = np.random.default_rng(0).normal(scale=0.3, size=16_000).astype(np.float32)
    sounds, others = (
        [encode(wave, 16_000, form, "PCM_16") for form in ("WAV", "FLAC")]
        for wave in (chirp(1.0, 16_000), noise[:, None])
    )
    bad = ({"file": b"no sound"}, {"file": sounds[0], "window": (None, "9")})
    headers = {"Authorization": f"Bearer {key}", "Prefer": "wait=30"}
    over, other_sounds = threading.Event(), threading.Event()

    def call() -> None:
        with httpx2.Client(base_url=stack.url, headers=headers, timeout=60) as http:
            while not over.wait(0.05):
                for sound in others if other_sounds.is_set() else sounds:
                    http.post("/v1/jobs", files={"file": sound}).raise_for_status()
                for files in bad:
                    http.post("/v1/jobs", files=files)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        yield other_sounds
    finally:
        over.set()
        for caller in callers:
            caller.join()
