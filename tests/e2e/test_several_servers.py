"""Several Redis servers with a worker each, as processes: jobs are spread, and a server that dies takes only its own
jobs with it, until it is back."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from bench.lib.rig import Rig
from shared.contract import COUNTERS, TOTALS, UNFINISHED, server_of
from tests.conftest import write_tiny_model
from tests.support.process_tree import until
from tests.support.sounds import chirp, encode

CALLERS = 4
SOUND = encode(chirp(1.0, 16_000), 16_000, "FLAC", "PCM_16")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[int], Rig]]:
    """Starts a service with so many Redis servers."""
    write_tiny_model(tmp_path / "models" / "tiny")
    (tmp_path / "rig").mkdir()
    rigs = []

    def begin(servers: int) -> Rig:
        rig = Rig(
            tmp_path / "rig", tmp_path / "models", servers=servers, workers=servers, default_model="tiny",
            engine="torch", decode_processes="1", batch_size="2", visibility_timeout="5",
        )  # fmt: skip
        rigs.append(rig.__enter__())
        rig.start()
        for store in rig.stores:  # with `everysec` a kill may lose what was acknowledged while an fsync ran
            store.config_set("appendfsync", "always")
        return rig

    yield begin
    for rig in rigs:
        rig.__exit__()


class Load:
    """Submits jobs, several at once, until the end of the block; `accepted` are the ids of those that got a 202."""

    def __init__(self, url: str) -> None:
        self.accepted: list[str] = []
        self.answers: Counter[int] = Counter()
        self._url, self._stop = url, threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._submit) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _submit(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=60) as http:
            while not self._stop.is_set():
                answer = http.post("/v1/jobs", content=SOUND, headers={"Content-Type": "audio/flac"})
                self.answers[answer.status_code] += 1
                if answer.status_code == 202:
                    self.accepted.append(answer.json()["id"])
                time.sleep(0.02)


def accepted(rig: Rig) -> list[int]:
    """Jobs so far, by server."""
    return [int(store.hget(TOTALS, "accepted") or 0) for store in rig.stores]  # type: ignore[arg-type]


def check_all_succeeded(rig: Rig, http: httpx2.Client, ids: list[str]) -> None:
    """Every accepted job has a result, and the totals of each server balance."""
    until(lambda: not any(store.exists(UNFINISHED) for store in rig.stores), 60)
    assert {http.get(f"/v1/jobs/{job_id}").json()["status"] for job_id in ids} == {"succeeded"}
    for store in rig.stores:
        totals = {name: int(store.hget(TOTALS, name) or 0) for name in COUNTERS}  # type: ignore[arg-type]
        assert totals["accepted"] == sum(totals.values()) - totals["accepted"]


@pytest.mark.long
@pytest.mark.parametrize("servers", [2, 4])
def test_jobs_are_spread_over_the_servers(start: Callable[[int], Rig], servers: int) -> None:
    """Each gets some and finishes them."""
    rig = start(servers)
    load = Load(rig.url)
    with httpx2.Client(base_url=rig.url, timeout=60) as http:
        with load.running():  # that a worker is ready is known to the gateway within a second
            until(lambda: min(accepted(rig)) > 10, 60)
        assert load.answers.keys() == {202}
        assert len(http.get("/v1/workers").json()["workers"]) == servers
        check_all_succeeded(rig, http, load.accepted)
        assert sum(accepted(rig)) == len(load.accepted)


def test_a_server_is_killed_under_load(start: Callable[[int], Rig]) -> None:
    """No accepted job is lost: those of the other server go on, those of the killed one end when it is back."""
    rig = start(2)
    load = Load(rig.url)
    with httpx2.Client(base_url=rig.url, timeout=60) as http, load.running():
        until(lambda: min(accepted(rig)) > 10, 60)
        rig.kill("server 1")
        theirs = next(job_id for job_id in load.accepted if server_of(job_id) == 1)
        until(lambda: http.get("/health/ready").json()["servers_down"] == [1], 10)
        before = len(load.accepted)
        until(lambda: len(load.accepted) > before + 20, 30)
        assert {server_of(job_id) for job_id in load.accepted[before:]} == {0}
        assert load.answers[503] <= CALLERS, "the requests of that moment"
        began = time.monotonic()
        answer = http.get(f"/v1/jobs/{theirs}")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert answer.headers["retry-after"]
        assert time.monotonic() - began < 1
        assert http.get("/health/ready").json()["status"] == "ready"
        rig.begin("server 1")
        rig.wait_until_ready(2)
        back = accepted(rig)[1]
        until(lambda: accepted(rig)[1] > back + 10, 60)
        assert http.get("/health/ready").json()["servers_down"] == []
    with httpx2.Client(base_url=rig.url, timeout=60) as http:
        check_all_succeeded(rig, http, load.accepted)
    assert load.answers.keys() <= {202, 503}
    assert load.answers[503] <= CALLERS
