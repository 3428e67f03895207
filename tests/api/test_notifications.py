"""Waiting for a job: the number of reads, and that a lost notification costs time only."""

import base64
import threading
import time
from collections.abc import Callable

import httpx2
import pytest
import redis

from shared import contract
from shared.config.settings import Settings
from tests.api.conftest import FakeWorker, wav
from tests.support.process_tree import until


@pytest.fixture
def raw(settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(settings.redis_url)


def waiting_job(raw: redis.Redis) -> str:
    """The id of the queued job, once there is one."""
    until(lambda: bool(raw.zcard(contract.QUEUED)))
    return raw.zrange(contract.QUEUED, 0, -1)[0].decode()  # type: ignore[index, union-attr, no-any-return]


def ask(http: httpx2.Client, answers: list[httpx2.Response], **request: object) -> threading.Thread:
    """Send a request in a thread."""
    thread = threading.Thread(target=lambda: answers.append(http.request(**request)))  # type: ignore[arg-type]
    thread.start()
    return thread


def submission(wait: float) -> dict[str, object]:
    return {"method": "POST", "url": "/v1/jobs", "files": {"file": wav()}, "headers": {"Prefer": f"wait={wait}"}}


def test_waiting_for_a_job_reads_it_once(http: httpx2.Client, worker: FakeWorker, raw: redis.Redis) -> None:
    """One script submits it, and it is read at its end, not when it starts."""

    def scripts() -> int:
        return int(raw.info("commandstats")["cmdstat_evalsha"]["calls"])  # type: ignore[index]

    for _ in range(2):  # the first iteration loads the scripts
        raw.config_resetstat()
        answers: list[httpx2.Response] = []
        thread = ask(http, answers, **submission(wait=20))
        job_id = waiting_job(raw)
        worker.start(job_id)
        time.sleep(0.2)
        running = scripts()
        worker.succeed(job_id)
        thread.join()
        assert (answers[0].status_code, answers[0].json()["status"]) == (200, "succeeded")
    assert running == 2, "its submission and its start"
    assert scripts() == 4, "its end, and one reading"


@pytest.mark.parametrize("how", ["finish", "cancel"])
def test_every_end_ends_the_wait(http: httpx2.Client, worker: FakeWorker, raw: redis.Redis, how: str) -> None:
    """Whether a worker finishes the job or the caller cancels it."""
    answers: list[httpx2.Response] = []
    thread = ask(http, answers, **submission(wait=20))
    job_id = waiting_job(raw)
    if how == "finish":
        worker.finish(job_id)
    else:
        assert http.delete(f"/v1/jobs/{job_id}").status_code == 204
    began = time.monotonic()
    thread.join()
    assert time.monotonic() - began < 5
    assert answers[0].json()["status"] == {"finish": "succeeded", "cancel": "cancelled"}[how]


def test_a_lost_subscription_is_renewed(http: httpx2.Client, worker: FakeWorker, raw: redis.Redis) -> None:
    """A job ends while the gateway has no subscription: the waiting request is answered after the reconnection."""
    http.get("/v1/models")
    answers: list[httpx2.Response] = []
    thread = ask(http, answers, **submission(wait=20))
    job_id = waiting_job(raw)
    worker.start(job_id)
    assert raw.client_kill_filter(_type="pubsub") == 1
    worker.succeed(job_id)
    began = time.monotonic()
    thread.join()
    assert time.monotonic() - began < 10
    assert answers[0].json()["status"] == "succeeded"


@pytest.mark.slow
def test_without_notifications_the_job_is_read_at_the_timeout(
    http: httpx2.Client, worker: FakeWorker, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost notification costs time only."""
    monkeypatch.setattr("api.notifications.Subscription.notify", lambda self, status="": None)
    answers: list[httpx2.Response] = []
    thread = ask(http, answers, **submission(wait=1))
    worker.finish(waiting_job(raw))
    thread.join()
    assert (answers[0].status_code, answers[0].json()["status"]) == (200, "succeeded")


def test_a_repeated_submission_waits_for_the_first_job(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker, raw: redis.Redis
) -> None:
    """With the same idempotency key, on another gateway, before and after its end."""
    answers: list[httpx2.Response] = []
    repeated = submission(wait=20)
    repeated["headers"] = {"Prefer": "wait=20", "Idempotency-Key": "k"}
    threads = [ask(start_gateway(), answers, **repeated) for _ in range(2)]
    job_id = waiting_job(raw)
    time.sleep(0.5)
    worker.finish(job_id)
    for thread in threads:
        thread.join()
    ask(start_gateway(), answers, **repeated).join()
    assert [(answer.status_code, answer.json()["id"]) for answer in answers] == [(200, job_id)] * 3
    assert all(answer.json()["result"] for answer in answers)


@pytest.mark.parametrize("how", ["read", "submit"])
def test_a_disconnected_client_ends_the_wait(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker, raw: redis.Redis, how: str
) -> None:
    """Its request no longer counts against the limit; the job continues, since the client may read it later."""
    http = start_gateway(max_connections=1)
    waiting = submission(wait=30)
    if how == "read":
        job_id = http.post("/v1/jobs", files={"file": wav()}).json()["id"]
        waiting = {"method": "GET", "url": f"/v1/jobs/{job_id}", "params": {"wait": 30}}
    disconnect(http, waiting)
    until(lambda: http.get("/v1/models").status_code == 200)
    assert http.get(f"/v1/jobs/{waiting_job(raw)}").json()["status"] == "queued"


def test_an_abandoned_evaluation_is_cancelled(http: httpx2.Client, worker: FakeWorker, raw: redis.Redis) -> None:
    """No client knows its id, so its result could never be read."""
    disconnect(http, {"method": "POST", "url": "/evaluate", "json": {"audio_data": base64.b64encode(wav()).decode()}})
    until(lambda: raw.hget(contract.TOTALS, "cancelled") == b"1")
    counted = 'otoscope_api_requests_total{method="POST",route="/evaluate",status="409"} 1.0'
    until(lambda: counted in http.get("/metrics").text)  # not counted as a server error


def disconnect(http: httpx2.Client, request: dict[str, object]) -> None:
    """Send a request and close the connection while it waits."""
    with httpx2.Client(base_url=http.base_url) as client, pytest.raises(httpx2.ReadTimeout):
        client.request(**request, timeout=httpx2.Timeout(5, read=0.5))  # type: ignore[arg-type]
