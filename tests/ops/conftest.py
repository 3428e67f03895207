"""A service under load and a real Prometheus that scrapes it, with the project's scrape configuration and rules."""

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
    """A stack that was under load for some seconds, and the Prometheus that scraped it."""

    stack: Stack
    prometheus: Prometheus
    busy: float  # Unix time at which it was under full load; the load has ended


@pytest.fixture(scope="package")
def watched() -> Iterator[Watched]:
    """Scraped once a second with an API key, which a gateway with keys requires."""
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
            with load(stack, text) as other_sounds:
                time.sleep(SECONDS_OF_LOAD)
                other_sounds.set()
                deadline = time.monotonic() + SECONDS_OF_NOISE
                while not has_data(prometheus, busy := time.time()) and time.monotonic() < deadline:
                    time.sleep(1.0)  # between two scrapes
            time.sleep(2.5)  # until its last samples have been scraped
            yield Watched(stack, prometheus, busy)


def panel_query(target: dict[str, Any]) -> str:
    """The query of a panel, over the few seconds of the test."""
    return filled(target["expr"], "5s", instance=".*", window="6s", before="4s")


def has_data(prometheus: Prometheus, at: float) -> bool:
    """Whether every panel has data."""
    targets = [target for panel in panels() if panel["title"] not in NEED_A_GPU for target in panel["targets"]]
    found = [prometheus.query(panel_query(target), at) for target in targets]
    return all(any(series["value"][1] != "NaN" for series in query) for query in found)


@contextmanager
def load(stack: Stack, key: str) -> Iterator[threading.Event]:
    """Two clients submit chirps in two formats, some files that are not audio, and some invalid requests.

    After the event is set they submit noise, which the tiny network puts into another class.
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
