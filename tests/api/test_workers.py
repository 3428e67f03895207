"""/v1/workers: the running workers and the addresses of their metrics."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import redis

from otoscope.top.collect import Collector, Snapshot
from otoscope.top.stats import History
from shared import contract
from shared.api_keys import Scope, new_key, write_keys
from shared.jobs.records import WorkerHeartbeat
from tests.api.conftest import FakeWorker


def test_workers_as_in_their_heartbeats(http: httpx2.Client, worker: FakeWorker) -> None:
    """In the order of their ids; the address of the metrics is null where it is not known."""
    assert [each["id"] for each in http.get("/v1/workers").json()["workers"]] == ["w1"]
    worker.store.heartbeat(WorkerHeartbeat("w0", ["tiny"], 3, metrics="http://10.0.0.7:9100/metrics"), {}, 30)
    assert http.get("/v1/workers").json() == {
        "workers": [
            {"id": "w0", "models": ["tiny"], "busy": 3, "metrics": "http://10.0.0.7:9100/metrics"},
            {"id": "w1", "models": ["tiny"], "busy": 0, "metrics": None},
        ]
    }
    worker.store.deregister("w0")


def test_workers_of_other_versions(http: httpx2.Client, worker: FakeWorker, redis_url: str) -> None:
    """A heartbeat with missing or unknown fields is accepted."""
    with redis.Redis.from_url(redis_url) as raw:
        for heartbeat in ({"id": "w1", "models": []}, {"id": "w1", "models": [], "busy": 1, "colour": "blue"}):
            raw.set(contract.worker_key("w1"), json.dumps(heartbeat))
            assert [each["id"] for each in http.get("/v1/workers").json()["workers"]] == ["w1"]
            assert http.get("/health/ready").json()["workers"] == 1


def test_metrics_are_for_admin(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker, tmp_path: Path) -> None:
    """`otoscope top` without an admin key shows that the service is up, and which scope is missing."""
    path = tmp_path / "keys"
    (reads, reading), (admin, all_of_it) = new_key("reads", [Scope.READ]), new_key("admin", [Scope.ADMIN])
    write_keys(path, [reads, admin])
    url = str(start_gateway(keys_file=path).base_url)
    for key in (None, reading):
        snapshot = asyncio.run(_snapshot(url, key))
        assert (snapshot.scrape, snapshot.workers) == (None, ())
        assert snapshot.ready is not None
        figures = History(url).add(snapshot)
        assert figures.state == "strained"
        assert figures.says == "the gateway is up, but its metrics require a key with the scope admin: OTOSCOPE_KEY"
    snapshot = asyncio.run(_snapshot(url, all_of_it))
    assert snapshot.scrape is not None
    assert [one.name for one in snapshot.workers] == ["w1"]


async def _snapshot(url: str, key: str | None) -> Snapshot:
    async with Collector(url, key=key) as collector:
        return await collector.collect()
