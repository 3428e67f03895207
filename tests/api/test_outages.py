"""A gateway whose Redis server goes away and comes back: what has begun goes on."""

import json
import logging
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pytest

from otoscope.errors import StoreUnavailable
from otoscope.types import JobOptions, Part, Timings
from shared.config.settings import Settings
from shared.contract import QUEUED
from shared.jobs import AsyncJobStore
from shared.results import pack_result
from tests.api.conftest import FakeWorker, fake_result, wav
from tests.conftest import start_server
from tests.support.process_tree import stop, until
from tests.support.streams import open_stream, tone


class RedisServer:
    """A server that keeps what it has stored while it is stopped."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.start()

    def start(self) -> None:
        self._process, self.socket = start_server(self._directory, "--appendonly", "yes", "--appendfsync", "always")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        stop(self._process.pid)
        yield
        self._process.send_signal(signal.SIGCONT)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        server = RedisServer(Path(name))
        yield server
        server.stop()


@pytest.fixture
def worker(settings: Settings, server: RedisServer) -> Iterator[FakeWorker]:
    fake = FakeWorker(settings.model_copy(update={"redis_url": f"unix://{server.socket}"}))
    fake.announce(seconds=60)
    yield fake
    fake.close()


@pytest.fixture
def gateway(start_gateway: Callable[..., httpx2.Client], server: RedisServer, worker: FakeWorker) -> httpx2.Client:
    """A client of a gateway that renders one large result at a time."""
    return start_gateway(redis_url=f"unix://{server.socket}", response_memory=1)


def succeed_large(worker: FakeWorker, job_id: str) -> None:
    """Finish a job with a result of 10 MB as JSON."""
    result = fake_result(JobOptions(include=[Part.FULL_SPECTROGRAM]))
    mels = np.random.default_rng(0).normal(size=(128, 12_000)).astype(np.float16)
    worker.start(job_id)
    worker.store.succeed(job_id, pack_result(replace(result, full_spectrogram=mels)), Timings())


def finished_batch(http: httpx2.Client, worker: FakeWorker, sounds: int) -> dict[str, object]:
    """A batch of which the first sound has a large result."""
    files = [("file", (f"{number}.wav", wav(0.2))) for number in range(sounds)]
    batch: dict[str, object] = http.post("/v1/batches", files=files).json()
    first, *others = (member["id"] for member in batch["members"])  # type: ignore[attr-defined]
    succeed_large(worker, first)
    for job_id in others:
        worker.finish(job_id)
    return batch


@contextmanager
def slow_reader(http: httpx2.Client, path: str) -> Iterator[Iterator[bytes]]:
    """The body of a response, of which the gateway sends little more than has been read."""
    small = httpx2.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)])
    with (
        httpx2.Client(base_url=http.base_url, transport=small, timeout=20) as client,
        client.stream("GET", path) as answer,
    ):
        yield answer.iter_raw()


def up_to_line_end(body: Iterator[bytes]) -> bytes:
    text = b""
    while b"\n" not in text:
        text += next(body)
    return text


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.slow
def test_the_results_of_a_batch_outlast_an_outage(
    gateway: httpx2.Client, worker: FakeWorker, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The response goes on once Redis is back, and no line is missing or repeated."""
    batch = finished_batch(gateway, worker, 3)
    with slow_reader(gateway, f"/v1/batches/{batch['id']}/results") as body:
        first = next(body)
        server.stop()
        first += up_to_line_end(body)
        time.sleep(1.5)
        server.start()
        lines = [json.loads(line) for line in (first + b"".join(body)).splitlines()]
    assert [(line["name"], line["status"]) for line in lines] == [(f"{number}.wav", "succeeded") for number in range(3)]
    assert all(line["result"]["predictions"] for line in lines)
    assert not errors(caplog)


@pytest.mark.slow
def test_a_client_that_leaves_during_an_outage_ends_its_response(
    gateway: httpx2.Client, worker: FakeWorker, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where Redis never comes back, and nothing is logged as an error."""
    batch = finished_batch(gateway, worker, 2)
    with slow_reader(gateway, f"/v1/batches/{batch['id']}/results") as body:
        next(body)
        server.stop()
        up_to_line_end(body)
        time.sleep(1.5)
    counted = 'otoscope_api_requests_total{method="GET",route="/v1/batches/{batch_id}/results",status="200"} 1.0'
    until(lambda: counted in gateway.get("/metrics").text, 5)
    assert not errors(caplog)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "status"), [("outage", "succeeded"), ("deletion", "expired")])
def test_what_happens_between_the_job_and_its_large_result_does_not_break_off_the_results(
    gateway: httpx2.Client,
    worker: FakeWorker,
    server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    what: str,
    status: str,
) -> None:
    """They are read one after the other; here the response waits for memory in between."""
    batch = finished_batch(gateway, worker, 2)
    job_id = batch["members"][0]["id"]  # type: ignore[index]
    with ExitStack() as other, ExitStack() as stack:
        unread = other.enter_context(slow_reader(gateway, f"/v1/jobs/{job_id}/result"))
        next(unread)
        body = stack.enter_context(slow_reader(gateway, f"/v1/batches/{batch['id']}/results"))
        time.sleep(0.3)  # until the job is read
        if what == "deletion":
            assert gateway.delete(f"/v1/jobs/{job_id}").status_code == 204
        else:
            server.stop()
        other.close()  # it has held the memory
        time.sleep(1.5)
        if what == "outage":
            server.start()
        lines = [json.loads(line) for line in b"".join(body).splitlines()]
    assert [line["status"] for line in lines] == [status, "succeeded"]
    assert [line["result"] is None for line in lines] == [status == "expired", False]
    assert not errors(caplog)


@pytest.mark.slow
def test_an_accepted_job_is_answered_although_its_large_result_cannot_be_read(
    gateway: httpx2.Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read after the job: where Redis goes away in between, the client still has to learn the id."""

    async def result(store: AsyncJobStore, job_id: str) -> bytes:
        raise StoreUnavailable("The queue cannot be reached right now; try again.", retry_after=2)

    monkeypatch.setattr(AsyncJobStore, "result", result)
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(gateway.post, "/v1/jobs", files={"file": wav()}, headers={"Prefer": "wait=20"})
        until(lambda: bool(worker._client.zcard(QUEUED)))
        (job_id,) = worker._client.zrange(QUEUED, 0, -1)  # type: ignore[misc]
        succeed_large(worker, job_id.decode())
        answer = request.result()
    assert (answer.status_code, answer.json()["id"], answer.json()["result"]) == (202, job_id.decode(), None)


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, "evening"])
def test_a_batch_is_answered_although_redis_goes_away_halfway(
    gateway: httpx2.Client, worker: FakeWorker, server: RedisServer, key: str | None
) -> None:
    """Without an Idempotency-Key, the client has to learn its id; with one, it repeats the request."""
    files = [("file", (f"{number}.wav", wav(0.2))) for number in range(256)]
    headers = {"Idempotency-Key": key} if key else {}
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(gateway.post, "/v1/batches", files=files, headers=headers)
        until(lambda: worker._client.zcard(QUEUED) > 4)
        server.stop()
        answer = request.result()
    server.start()
    if key:
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        answer = gateway.post("/v1/batches", files=files, headers=headers)
        assert answer.json()["counts"] == {"queued": 256}
        return
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    assert batch["counts"].keys() == {"queued", "missing"}
    now = gateway.get(answer.headers["location"]).json()
    known = {each["id"]: each["status"] for each in now["members"]}
    assert all(known[each["id"]] == "queued" for each in batch["members"] if each["status"] == "queued")


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, "evening"])
def test_a_batch_is_answered_although_its_model_is_removed_halfway(
    gateway: httpx2.Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """The client has to learn its id; a client with an Idempotency-Key does not repeat the request."""
    monkeypatch.setattr("shared.ttl_cache.TTL_SECONDS", 0.0)
    worker.announce("tiny", "other", seconds=60)
    files = [("file", (f"{number}.wav", wav(0.2))) for number in range(256)]
    headers = {"Idempotency-Key": key} if key else {}
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(gateway.post, "/v1/batches", files=files, data={"model": "tiny"}, headers=headers)
        until(lambda: worker._client.zcard(QUEUED) > 4)
        worker.store.remove_models(["tiny"])
        answer = request.result()
    assert answer.status_code == 202, answer.text
    assert answer.json()["counts"].keys() == {"queued", "missing"}


@pytest.mark.slow
def test_a_window_of_a_stream_is_answered_although_redis_hangs(
    gateway: httpx2.Client, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soon after its deadline: a command to a server that hangs takes ten seconds."""
    monkeypatch.setattr("api.live.stream.DEADLINE_SECONDS", 1.0)
    with open_stream(str(gateway.base_url)) as client:
        client.receive()
        with server.hanging():
            client.send(tone(0.5))
            assert client.receive(10)["error"]["code"] == "store_unavailable"


@pytest.mark.slow
def test_a_lost_subscription_is_logged_once(
    gateway: httpx2.Client, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """And once more when it is back."""
    caplog.set_level(logging.INFO)
    gateway.get("/v1/models")
    server.stop()
    until(lambda: any("lost the subscription" in line for line in caplog.messages))
    time.sleep(2.5)
    server.start()
    until(lambda: "subscribed to job changes again" in caplog.messages)
    lines = [record for record in caplog.records if record.name == "api.notifications"]
    assert [record.levelname for record in lines] == ["WARNING", "INFO"]
    assert {vars(record)["server"] for record in lines} == {0}


@pytest.mark.slow
def test_a_server_that_hangs_is_given_up_within_seconds(gateway: httpx2.Client, server: RedisServer) -> None:
    """One that accepts connections and answers nothing, on kept connections and on new ones."""
    job_id = gateway.post("/v1/jobs", content=wav(0.2), headers={"Content-Type": "audio/wav"}).json()["id"]
    with server.hanging(), ThreadPoolExecutor(4) as threads:
        began = time.monotonic()
        answers = list(threads.map(lambda _: gateway.get(f"/v1/jobs/{job_id}", timeout=60), range(4)))
        assert {answer.status_code for answer in answers} == {503}
        assert time.monotonic() - began < 25
    until(lambda: gateway.get(f"/v1/jobs/{job_id}").status_code == 200)
