"""A gateway with several Redis servers, which are databases of the one server of the run; the test is their workers."""

import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from resource import RLIMIT_NOFILE, setrlimit

import httpx2
import pytest
import redis

from shared.config.settings import Settings
from shared.contract import TOTALS, new_job_id, server_of
from shared.jobs.records import WorkerHeartbeat
from tests.api.conftest import FakeWorker, card, wav
from tests.conftest import PYTHON, ROOT, start_server
from tests.support.process_tree import until
from tests.support.streams import open_stream, tone


@pytest.fixture
def urls(redis_url: str) -> list[str]:
    """Of two servers."""
    return [f"{redis_url}?db={number}" for number in range(2)]


@pytest.fixture
def workers(settings: Settings, urls: list[str]) -> Iterator[list[FakeWorker]]:
    """The worker of each server; both have announced the model `tiny`."""
    with ExitStack() as stack:
        found = [FakeWorker(settings.model_copy(update={"redis_url": url})) for url in urls]
        for worker in found:
            stack.callback(worker.close)
            worker.announce()
        yield found


@pytest.fixture
def http(start_gateway: Callable[..., httpx2.Client], urls: list[str], workers: list[FakeWorker]) -> httpx2.Client:
    return start_gateway(redis_url=" ".join(urls))


@pytest.fixture
def busy(workers: list[FakeWorker], http: httpx2.Client) -> Iterator[None]:
    """The workers finish every job, in threads."""
    stop = threading.Event()
    threads = [threading.Thread(target=worker.finish_soon, args=(http, stop), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()


def submit(http: httpx2.Client, **headers: str) -> httpx2.Response:
    return http.post("/v1/jobs", files={"file": wav()}, headers=headers)


def test_jobs_of_both_servers_are_answered(http: httpx2.Client, busy: None) -> None:
    """Whether a client waits, polls or follows the events."""
    answers = [submit(http, Prefer="wait=20") for _ in range(8)]
    assert {answer.json()["status"] for answer in answers} == {"succeeded"}
    assert {server_of(answer.json()["id"]) for answer in answers} == {0, 1}
    for _ in range(2):
        job_id = submit(http).json()["id"]
        until(lambda: http.get(f"/v1/jobs/{job_id}", params={"wait": 20}).json()["status"] == "succeeded")  # noqa: B023
        assert "event: result" in http.get(f"/v1/jobs/{job_id}/events").text
    assert http.get(f"/v1/jobs/{new_job_id(2)}").status_code == 404


def test_a_repeated_request_is_answered_with_its_job(http: httpx2.Client, busy: None) -> None:
    """The server of its idempotency key is not the one that has the least to do."""
    for key in ("a", "b", "c", "d"):
        first, second = (submit(http, **{"Prefer": "wait=20", "Idempotency-Key": key}).json() for _ in range(2))
        assert first["id"] == second["id"]
        assert (first["status"], second["status"]) == ("succeeded", "succeeded")


def test_a_batch_is_on_one_server(http: httpx2.Client, busy: None) -> None:
    """With its record and all of its jobs; another one is on the other server."""
    files = [("file", (f"{number}.wav", wav(0.2 + number / 10))) for number in range(4)]
    used = set()
    for _ in range(2):
        batch = http.post("/v1/batches", files=files).json()
        (server,) = {server_of(job_id) for job_id in (batch["id"], *(member["id"] for member in batch["members"]))}
        used.add(server)
        until(lambda: http.get(f"/v1/batches/{batch['id']}").json()["counts"] == {"succeeded": 4})  # noqa: B023
    assert used == {0, 1}
    again = [http.post("/v1/batches", files=files, headers={"Idempotency-Key": "k"}).json() for _ in range(2)]
    assert again[0]["id"] == again[1]["id"]


def test_the_windows_of_a_stream_are_on_both_servers(
    http: httpx2.Client, busy: None, workers: list[FakeWorker]
) -> None:
    """One after the other, answered in order."""
    with open_stream(str(http.base_url)) as client:
        client.receive()
        for number in range(4):
            client.send(tone(0.5))
            assert client.receive()["end"] == (number + 1) / 2
    text = http.get("/metrics").text
    for server in (0, 1):
        assert f'otoscope_jobs_total{{outcome="accepted",server="{server}"}} 2.0' in text


def test_a_window_that_another_server_has_taken_is_removed(
    start_gateway: Callable[..., httpx2.Client],
    urls: list[str],
    workers: list[FakeWorker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As any window whose answer came too late."""
    monkeypatch.setattr("api.live.stream.DEADLINE_SECONDS", 0.5)
    for name in ("w2", "w3"):  # of the first server, where a worker has the least to do, and there is no place
        workers[0].store.heartbeat(WorkerHeartbeat(name, ["tiny"]), {"tiny": card("tiny")}, 30)
    http = start_gateway(redis_url=" ".join(urls), queue_limit=2, caller_share=1.0)
    counts = [0, 0]
    while counts != [2, 1]:
        job_id = submit(http).json()["id"]
        server = server_of(job_id) or 0
        if counts[server] == 2 - server:
            http.delete(f"/v1/jobs/{job_id}")
        else:
            counts[server] += 1
    time.sleep(1.2)  # until both are probed again
    with redis.Redis.from_url(urls[1]) as raw, open_stream(str(http.base_url)) as client:
        jobs = set(raw.keys("otoscope:job:*"))  # type: ignore[arg-type]
        accepted = int(raw.hget(TOTALS, "accepted") or 0)  # type: ignore[arg-type]
        client.receive()
        client.send(tone(0.5))
        assert client.receive()["error"]["code"] == "deadline_exceeded"
        assert raw.hget(TOTALS, "accepted") == str(accepted + 1).encode()
        until(lambda: set(raw.keys("otoscope:job:*")) == jobs)  # type: ignore[arg-type]


@pytest.fixture
def half(start_gateway: Callable[..., httpx2.Client], urls: list[str], workers: list[FakeWorker]) -> httpx2.Client:
    """A client of a gateway whose second server is down."""
    return start_gateway(redis_url=f"{urls[0]} unix:///nowhere/redis.sock")


def test_the_gateway_is_ready_while_one_server_works(half: httpx2.Client, workers: list[FakeWorker]) -> None:
    """It names the one that is down, and so do the metrics."""
    answer = half.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready", "redis": True, "workers": 1, "models": ["tiny"], "writable": True, "servers_down": [1],
    }  # fmt: skip
    text = half.get("/metrics").text
    assert 'otoscope_redis_up{server="0"} 1.0' in text
    assert 'otoscope_redis_up{server="1"} 0.0' in text
    assert 'otoscope_queue_ready_workers{server="0"} 1.0' in text
    assert 'otoscope_queue_ready_workers{server="1"}' not in text, "it is not known"
    workers[0].store.deregister("w1")
    answer = half.get("/health/ready")
    assert (answer.status_code, answer.json()["redis"]) == (503, True)


def test_only_the_jobs_of_a_server_that_is_down_are_unavailable(half: httpx2.Client, workers: list[FakeWorker]) -> None:
    """503 with Retry-After; new ones go to the other server."""
    for _ in range(4):
        job_id = submit(half).json()["id"]
        assert server_of(job_id) == 0
        workers[0].finish(job_id)
        assert half.get(f"/v1/jobs/{job_id}").json()["status"] == "succeeded"
    for method, path in (("GET", "jobs"), ("DELETE", "jobs"), ("GET", "batches")):
        answer = half.request(method, f"/v1/{path}/{new_job_id(1)}")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert answer.headers["retry-after"]
    codes = Counter(submit(half, **{"Idempotency-Key": str(key)}).status_code for key in range(12))
    assert codes.keys() == {202, 503}


def test_a_full_server_of_a_key_refuses_that_key_alone(
    start_gateway: Callable[..., httpx2.Client], urls: list[str], workers: list[FakeWorker]
) -> None:
    """The next submission of the caller goes to the other server."""
    http = start_gateway(redis_url=" ".join(urls), queue_limit=1, caller_share=1.0)
    full = submit(http, **{"Idempotency-Key": "first"}).json()["id"]
    for key in range(100):
        answer = submit(http, **{"Idempotency-Key": str(key)})
        if answer.status_code == 429:
            break
        http.delete(f"/v1/jobs/{answer.json()['id']}")
    answer = submit(http)
    assert answer.status_code == 202, answer.text
    assert server_of(answer.json()["id"]) != server_of(full)


@pytest.mark.slow
def test_requests_that_wait_outlast_an_outage(
    start_gateway: Callable[..., httpx2.Client], settings: Settings, redis_url: str
) -> None:
    """A long poll and the events of a batch continue when their server is back, whatever wakes them meanwhile."""
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    with tempfile.TemporaryDirectory(prefix="oto") as name, ThreadPoolExecutor(2) as pool:
        server, socket = start_server(Path(name), *durable)
        worker = FakeWorker(settings.model_copy(update={"redis_url": f"unix://{socket}"}))
        try:
            worker.announce("elsewhere", seconds=60)
            http = start_gateway(redis_url=f"{redis_url} unix://{socket}", keepalive_seconds=0.5)
            files = [("file", (f"{number}.wav", wav(0.2))) for number in range(2)]
            batch = http.post("/v1/batches", files=files, data={"model": "elsewhere"}).json()
            ids = [member["id"] for member in batch["members"]]
            assert [server_of(job_id) for job_id in ids] == [1, 1]
            events = pool.submit(http.get, batch["links"]["events"])
            polled = pool.submit(http.get, f"/v1/jobs/{ids[0]}", params={"wait": 20})
            until(lambda: "otoscope_api_event_streams 1.0" in http.get("/metrics").text)
            time.sleep(0.3)  # the long poll has no metric
            server.kill()
            server.wait()
            until(lambda: http.get("/health/ready").json()["servers_down"] == [1])
            with redis.Redis.from_url(redis_url) as other:
                other.client_kill_filter(
                    _type="pubsub"
                )  # after a lost subscription every waiting request reads its job
            time.sleep(1.5)
            server, _ = start_server(Path(name), *durable)
            until(lambda: http.get("/health/ready").json()["servers_down"] == [])
            for job_id in ids:
                worker.finish(job_id)
            answer = polled.result(20)
            assert (answer.status_code, answer.json()["id"]) == (200, ids[0])
            assert "event: finished" in events.result(20).text
        finally:
            worker.close()
            server.kill()
            server.wait()


@pytest.mark.parametrize(("servers", "connections"), [(1, 832), (4, 637)])
def test_each_server_has_its_descriptors(servers: int, connections: int) -> None:
    """The connections of clients leave enough of them for those to all servers."""
    code = f"from api.descriptors import raise_limit; print(raise_limit(1, {servers}))"
    limit = partial(setrlimit, RLIMIT_NOFILE, (1_024, 1_024))
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, preexec_fn=limit, capture_output=True, text=True)
    assert done.stdout == f"{connections}\n", done.stderr
