"""Models, health, limits, metrics, OpenAPI, and an unreachable Redis."""

import asyncio
import base64
import json
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import msgpack
import pytest

from api.http.problems import STATUS
from api.service import Gateway
from otoscope.errors import BY_CODE, AudioError, Busy, JobFailure, StoreUnavailable
from otoscope.results import CONTRACT_VERSION
from otoscope.types import JobOptions, Limits, ModelList, Ready
from shared.audio.formats import FORMATS
from shared.config.settings import Settings
from shared.contract import WORKERS, result_key
from shared.results import pack_result
from tests.api.conftest import FakeWorker, fake_result, gateway_thread, wav
from tests.conftest import start_server
from tests.support.process_tree import until


def test_models_are_listed_with_the_default(http: httpx2.Client, worker: FakeWorker) -> None:
    """What workers announced, with classes, rate, layers, accuracy and licence."""
    models = ModelList.model_validate(http.get("/v1/models").json())
    assert models.default == "tiny"
    assert models.models[0].classes == ["dog", "rain", "bell"]
    assert http.get("/v1/models/tiny").json()["accuracy"][0]["total"] == 2
    assert http.get("/v1/models/nope").json()["code"] == "model_not_found"


def test_default_model_among_several(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> None:
    """A request without a model uses the configured default; each job has the name of its model."""
    worker.announce("large", "small")
    http = start_gateway(default_model="small")
    for name, expected in ((None, "small"), ("large", "large")):
        answer = http.post("/v1/jobs", files={"file": wav()}, data={"model": name} if name else {})
        assert answer.json()["model"] == expected


def test_the_default_is_the_first_that_is_served(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker
) -> None:
    """Of several names; `/evaluate` has a model of its own, which its clients expect."""
    worker.announce("large", "small")
    http = start_gateway(default_model="gone, large, small", evaluate_model="small")
    assert http.get("/v1/models").json()["default"] == "large"
    assert http.post("/v1/jobs", files={"file": wav()}).json()["model"] == "large"


def test_models_are_listed_without_the_default(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> None:
    """A default that no worker serves is a configuration error; the served models are listed all the same."""
    worker.announce("large", "small")
    http = start_gateway(default_model="gone")
    models = ModelList.model_validate(http.get("/v1/models").raise_for_status().json())
    assert (models.default, [card.name for card in models.models]) == ("gone", ["large", "small", "tiny"])
    assert http.post("/v1/jobs", files={"file": wav()}).json()["code"] == "model_not_found"


def test_ready_needs_a_worker(http: httpx2.Client, settings: Settings) -> None:
    """Live at once, ready once a worker sends heartbeats, and not ready after it deregistered, or died."""
    assert http.get("/health/live").json() == {"status": "live"}
    answer = http.get("/health/ready")
    assert answer.status_code == 503
    assert Ready.model_validate(answer.json()).redis
    worker = FakeWorker(settings)
    worker.announce()
    expected = {
        "status": "ready", "redis": True, "workers": 1, "models": ["tiny"], "writable": True, "servers_down": [],
    }  # fmt: skip
    assert http.get("/health/ready").json() == expected
    worker.store.deregister("w1")
    assert http.get("/health/ready").status_code == 503
    worker.announce()
    worker._client.zincrby(WORKERS, 3_600, "w1")  # the clock of Redis has stepped back since the last heartbeat
    assert http.get("/health/ready").status_code == 503
    worker.announce()
    assert http.get("/health/ready").status_code == 200
    worker.close()


def test_requests_for_readiness_share_an_answer() -> None:
    """Those that come while it is read; the next one reads it again, also after an error."""
    reads = 0

    class Store:
        async def health(self) -> dict[int, None]:
            nonlocal reads
            reads += 1
            await asyncio.sleep(0.01)
            if reads == 2:
                raise StoreUnavailable("")
            return {0: None}

    async def request_all() -> None:
        gateway = Gateway(Settings(), Store())  # type: ignore[arg-type]
        first, *others = [asyncio.create_task(gateway.readiness()) for _ in range(50)]
        await asyncio.sleep(0)
        first.cancel()  # its client has gone; the others wait
        assert [answer.status for answer in await asyncio.gather(*others)] == ["not_ready"] * 49
        with pytest.raises(StoreUnavailable):
            await gateway.readiness()
        assert (await gateway.readiness()).status == "not_ready"

    asyncio.run(request_all())
    assert reads == 3


def test_limits_are_those_of_this_server(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> None:
    """From the settings; submissions are checked against them."""
    http = start_gateway(max_upload_bytes=8_000, max_seconds=0.2, max_wait=7.0, result_ttl=60, queue_limit=3)
    limits = Limits.model_validate(http.get("/v1/limits").json())
    assert limits.max_full_spectrogram_seconds == 600
    assert (limits.max_upload_bytes, limits.max_wait, limits.result_ttl, limits.queue_limit) == (8_000, 7.0, 60, 3)
    assert (limits.min_seconds, limits.max_seconds) == (0.05, 0.2)
    assert (limits.max_channels, limits.min_rate, limits.max_rate) == (64, 1_000, 768_000)
    refused = {
        "payload_too_large": wav(2.0),
        "audio_too_long": wav(0.8, rate=4_000),
        "audio_too_short": wav(0.01),
        "audio_rate": wav(0.2, rate=500),
        "audio_channels": wav(0.05, rate=1_000, channels=65),
    }
    for code, sound in refused.items():
        assert http.post("/v1/jobs", files={"file": sound}).json()["code"] == code


def test_limits_name_formats_and_their_extensions(start_gateway: Callable[..., httpx2.Client]) -> None:
    """All of the table, in its order; every format has file name extensions."""
    limits = start_gateway().get("/v1/limits").json()
    assert limits["formats"] == [str(each) for each in FORMATS]
    assert limits["extensions"] == [extension for each in FORMATS for extension in each.extensions]
    assert {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".m4a", ".webm"} <= set(limits["extensions"])


def sample(text: str, name: str) -> float:
    match = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert match, f"{name} is not in the metrics"
    return float(match[1])


def test_metrics_count_requests_errors_and_jobs(http: httpx2.Client, worker: FakeWorker) -> None:
    """Requests by route template and status, errors by code, the state of the queue."""
    job_id = http.post("/v1/jobs", files={"file": wav()}).json()["id"]
    http.post("/v1/jobs", files={"file": b"text"})
    http.get(f"/v1/jobs/{job_id}")
    text = http.get("/metrics").text
    assert sample(text, 'otoscope_api_requests_total{method="POST",route="/v1/jobs",status="202"}') == 1
    assert sample(text, 'otoscope_api_requests_total{method="POST",route="/v1/jobs",status="415"}') == 1
    assert sample(text, 'otoscope_api_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"}') == 1
    assert sample(text, 'otoscope_api_errors_total{code="not_audio",fault="caller"}') == 1
    assert sample(text, 'otoscope_jobs_total{outcome="accepted",server="0"}') == 1
    assert sample(text, 'otoscope_queue_waiting_jobs{server="0"}') == 1
    assert sample(text, 'otoscope_jobs_unfinished{server="0"}') == 1
    assert sample(text, 'otoscope_queue_oldest_seconds{server="0"}') > 0
    assert sample(text, 'otoscope_queue_ready_workers{server="0"}') == 1
    assert sample(text, 'otoscope_queue_limit_jobs{server="0"}') == Settings().queue_limit
    assert sample(text, 'otoscope_api_errors_total{code="queue_full",fault="service"}') == 0
    assert sample(text, "process_start_time_seconds") > 0
    assert job_id not in text


def test_openapi_describes_forms_errors_and_schemas(http: httpx2.Client) -> None:
    """The document has all three forms of a submission, and every reference in it resolves."""
    document = http.get("/openapi.json").json()
    submit = document["paths"]["/v1/jobs"]["post"]
    assert set(submit["requestBody"]["content"]) == {"multipart/form-data", "application/json", "audio/*"}
    assert {"200", "202", "406", "413", "415", "422", "429", "503"} <= set(submit["responses"])
    # /evaluate can fail because of the sound, the queue or the job.
    evaluate = document["paths"]["/evaluate"]["post"]["responses"]
    problems = (answer["content"].get("application/problem+json", {}) for answer in evaluate.values())
    documented = {code for problem in problems for code in problem.get("examples", {})}
    assert {code for code, kind in BY_CODE.items() if issubclass(kind, AudioError | Busy | JobFailure)} <= documented
    assert {"invalid_base64", "payload_too_large", "unsupported_media_type", "request_timeout"} <= documented
    read = document["paths"]["/v1/jobs/{job_id}"]["get"]
    named = {(parameter["in"], parameter["name"]) for parameter in submit["parameters"] + read["parameters"]}
    options = {("query", name) for name in JobOptions.model_fields}  # of a raw body
    assert named == {
        ("header", "prefer"), ("header", "idempotency-key"), ("path", "job_id"), ("query", "wait"), *options,
    }  # fmt: skip
    summaries = [operation["summary"] for path in document["paths"].values() for operation in path.values()]
    assert not [each for each in ("Submit", "Read", "Cancel", "Events") if summaries.count(each) > 1]
    for answer in (submit["responses"]["200"], submit["responses"]["202"], read["responses"]["200"]):
        assert {"application/json", "application/msgpack"} <= set(answer["content"])
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', http.get("/openapi.json").text))
    assert references <= set(schemas), references - set(schemas)
    assert {"Job", "ResultJSON", "Problem", "JobRequest", "EvaluateResponse", "ModelCard"} <= set(schemas)


def test_every_error_code_has_a_status() -> None:
    """A new error without a status would fail in the error handler."""
    assert set(STATUS) == set(BY_CODE)


def finish_newer(worker: FakeWorker, job_id: str) -> None:
    """Finish a job with a result of a contract version that the gateway does not know."""
    worker.finish(job_id)
    tree = msgpack.unpackb(pack_result(fake_result(JobOptions())))
    worker._client.set(result_key(job_id), msgpack.packb({**tree, "contract": CONTRACT_VERSION + 2}))


def test_a_result_of_a_much_newer_contract_is_503(http: httpx2.Client, worker: FakeWorker) -> None:
    """With Retry-After: another gateway may be newer."""
    job_id = http.post("/v1/jobs", files={"file": wav()}).json()["id"]
    finish_newer(worker, job_id)
    answer = http.get(f"/v1/jobs/{job_id}/result")
    assert (answer.status_code, answer.json()["code"]) == (503, "contract_mismatch")
    assert int(answer.headers["retry-after"]) > 0


def test_a_result_of_a_much_newer_contract_does_not_break_off_a_stream(http: httpx2.Client, worker: FakeWorker) -> None:
    """Where the response has begun, the error is in it: of the job in its last event, of one sound of a batch."""
    batch = http.post("/v1/batches", files=[("file", ("a.wav", wav())), ("file", ("b.wav", wav()))]).json()
    first, second = (member["id"] for member in batch["members"])
    finish_newer(worker, first)
    worker.finish(second)
    lines = [json.loads(line) for line in http.get(batch["links"]["results"]).text.splitlines()]
    assert [line["error"] and line["error"]["code"] for line in lines] == ["contract_mismatch", None]
    assert [line["result"] is None for line in lines] == [True, False]
    table = http.get(batch["links"]["results"] + "?format=csv").text
    assert "contract_mismatch: This result has contract version" in table
    last = http.get(f"/v1/jobs/{first}/events").text.split("event: result")[1]
    job = json.loads(last.strip().removeprefix("data: "))
    assert (job["status"], job["result"], job["error"]["code"]) == ("succeeded", None, "contract_mismatch")


def test_redis_gone_is_503_and_comes_back(settings: Settings) -> None:
    """An unreachable Redis is reported at once; when it is back, the same gateway continues.

    With `appendfsync always`: with `everysec` Redis delays its writes while an fsync runs (up to two seconds on a slow
    disk), and a kill then loses what it has acknowledged.
    """
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        server, socket = start_server(Path(name), *durable)
        try:
            own = settings.model_copy(update={"redis_url": f"unix://{socket}"})
            worker = FakeWorker(own)
            worker.announce()
            with gateway_thread(own) as url, httpx2.Client(base_url=url, timeout=30) as http:
                job_id = http.post("/v1/jobs", files={"file": wav()}).json()["id"]
                server.kill()
                server.wait()
                for method, path in (("GET", f"/v1/jobs/{job_id}"), ("DELETE", f"/v1/jobs/{job_id}")):
                    answer = http.request(method, path)
                    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
                    assert "retry-after" in answer.headers
                answer = http.post("/v1/jobs", files={"file": wav()})
                assert answer.json()["code"] == "store_unavailable"
                assert http.get("/health/live").status_code == 200
                assert http.get("/health/ready").json()["redis"] is False
                assert 'otoscope_redis_up{server="0"} 0.0' in http.get("/metrics").text
                server, _ = start_server(Path(name), *durable)
                assert http.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"
                worker.finish(job_id)
                assert http.get(f"/v1/jobs/{job_id}", params={"wait": 5}).json()["status"] == "succeeded"
            worker.close()
        finally:
            server.kill()
            server.wait()


def test_an_accepted_job_is_answered_although_redis_goes_away(settings: Settings) -> None:
    """While a request waits: /v1/jobs returns the job with its id; /evaluate, which has none, the error."""
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        server, socket = start_server(Path(name), "--save", "")
        try:
            own = settings.model_copy(update={"redis_url": f"unix://{socket}", "max_wait": 5.0})
            worker = FakeWorker(own)
            worker.announce()
            with (
                gateway_thread(own) as url,
                httpx2.Client(base_url=url, timeout=30) as http,
                ThreadPoolExecutor(2) as pool,
            ):
                requests = [
                    pool.submit(http.post, "/v1/jobs", files={"file": wav()}, headers={"Prefer": "wait=5"}),
                    pool.submit(http.post, "/evaluate", json={"audio_data": base64.b64encode(wav()).decode()}),
                ]
                until(lambda: worker._client.zcard("otoscope:queued") == 2)
                server.kill()
                server.wait()
                accepted, evaluated = (answer.result() for answer in requests)
            worker.close()
        finally:
            server.kill()
            server.wait()
    assert (accepted.status_code, accepted.json()["status"]) == (202, "queued")
    assert accepted.headers["location"] == f"/v1/jobs/{accepted.json()['id']}"
    assert (evaluated.status_code, evaluated.json()["code"]) == (503, "store_unavailable")
