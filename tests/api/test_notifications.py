"""Waiting for a job: what it costs, and that a lost message costs nothing but time."""

import base64
import threading
import time
from collections.abc import Callable

import httpx2
import pytest
import redis

from shared import contract
from shared.config.settings import Settings
from tests.api.conftest import StandInWorker, wav
from tests.support.process_tree import until


@pytest.fixture
def raw(settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(settings.redis_url)


def waiting_job(raw: redis.Redis) -> str:
    """The id of the job that waits, once there is one."""
    until(lambda: bool(raw.zcard(contract.QUEUED)))
    return raw.zrange(contract.QUEUED, 0, -1)[0].decode()  # type: ignore[index, union-attr, no-any-return]


def ask(http: httpx2.Client, answers: list[httpx2.Response], **request: object) -> threading.Thread:
    """Send a request in a thread."""
    thread = threading.Thread(target=lambda: answers.append(http.request(**request)))  # type: ignore[arg-type]
    thread.start()
    return thread


def submission(wait: float) -> dict[str, object]:
    return {"method": "POST", "url": "/v1/jobs", "files": {"file": wav()}, "headers": {"Prefer": f"wait={wait}"}}


def test_a_job_that_is_waited_for_is_read_once(http: httpx2.Client, worker: StandInWorker, raw: redis.Redis) -> None:
    """Stored and sent in one step, and read at its end, not when it starts."""

    def scripts() -> int:
        return int(raw.info("commandstats")["cmdstat_evalsha"]["calls"])  # type: ignore[index]

    for _ in range(2):  # the first time the scripts are loaded
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
def test_every_end_ends_the_wait(http: httpx2.Client, worker: StandInWorker, raw: redis.Redis, how: str) -> None:
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


def test_news_that_was_lost_is_looked_for(http: httpx2.Client, worker: StandInWorker, raw: redis.Redis) -> None:
    """The job ends while the gateway has lost its subscription: who waits is answered as soon as it has one again."""
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


def test_news_that_never_comes_loses_nothing_but_time(
    http: httpx2.Client, worker: StandInWorker, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When time is up the job is read, whatever was heard of it."""
    monkeypatch.setattr("api.notifications.Subscription.notify", lambda self, status="": None)
    answers: list[httpx2.Response] = []
    thread = ask(http, answers, **submission(wait=1))
    worker.finish(waiting_job(raw))
    thread.join()
    assert (answers[0].status_code, answers[0].json()["status"]) == (200, "succeeded")


def test_a_repeat_waits_for_the_first_job(
    start_gateway: Callable[..., httpx2.Client], worker: StandInWorker, raw: redis.Redis
) -> None:
    """With the same key and another connection, before and after its end."""
    answers: list[httpx2.Response] = []
    asked = submission(wait=20)
    asked["headers"] = {"Prefer": "wait=20", "Idempotency-Key": "k"}
    threads = [ask(start_gateway(), answers, **asked) for _ in range(2)]
    job_id = waiting_job(raw)
    time.sleep(0.5)
    worker.finish(job_id)
    for thread in threads:
        thread.join()
    ask(start_gateway(), answers, **asked).join()
    assert [(answer.status_code, answer.json()["id"]) for answer in answers] == [(200, job_id)] * 3
    assert all(answer.json()["result"] for answer in answers)


@pytest.mark.parametrize("how", ["read", "submit"])
def test_who_has_gone_is_not_waited_for(
    start_gateway: Callable[..., httpx2.Client], worker: StandInWorker, raw: redis.Redis, how: str
) -> None:
    """A held line that was closed is no request under way; its job goes on, since it can be asked for."""
    http = start_gateway(max_connections=1)
    asked = submission(wait=30)
    if how == "read":
        job_id = http.post("/v1/jobs", files={"file": wav()}).json()["id"]
        asked = {"method": "GET", "url": f"/v1/jobs/{job_id}", "params": {"wait": 30}}
    leave(http, asked)
    until(lambda: http.get("/v1/models").status_code == 200)
    assert http.get(f"/v1/jobs/{waiting_job(raw)}").json()["status"] == "queued"


def test_an_evaluation_nobody_waits_for_is_cancelled(
    http: httpx2.Client, worker: StandInWorker, raw: redis.Redis
) -> None:
    """Nobody knows its id, so nobody could ever have its answer."""
    leave(http, {"method": "POST", "url": "/evaluate", "json": {"audio_data": base64.b64encode(wav()).decode()}})
    until(lambda: raw.hget(contract.TOTALS, "cancelled") == b"1")
    told = 'otoscope_api_requests_total{method="POST",route="/evaluate",status="409"} 1.0'
    until(lambda: told in http.get("/metrics").text)  # no failure of ours


def leave(http: httpx2.Client, asked: dict[str, object]) -> None:
    """Send a request and close the connection while it is held."""
    with httpx2.Client(base_url=http.base_url) as client, pytest.raises(httpx2.ReadTimeout):
        client.request(**asked, timeout=httpx2.Timeout(5, read=0.5))  # type: ignore[arg-type]
