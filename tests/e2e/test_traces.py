"""Traces of a real stack as a collector receives them: from the gateway through the queue to the batch."""

import base64
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from shared.api_keys import Scope, new_key, write_keys
from shared.contract import job_key
from tests.api.conftest import wav
from tests.conftest import start_server, write_tiny_model
from tests.e2e.conftest import Stack
from tests.support.collector import Collector, Span
from tests.support.process_tree import children, stop, until
from tests.support.sounds import chirp, encode
from tests.support.streams import open_stream, tone

pytestmark = pytest.mark.timeout(120)

CALLER = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
VISIBILITY = 5  # seconds
WARNING = "spans are dropped"
FLAC = encode(chirp(1.0, 16_000), 16_000, "FLAC", "PCM_16")  # needs a decode process


@dataclass
class Traced:
    stack: Stack
    collector: Collector
    key: str
    http: httpx2.Client

    def submit(self, sound: bytes = FLAC, *, query: str = "", **headers: str) -> httpx2.Response:
        return self.http.post(f"/v1/jobs{query}", content=sound, headers={"Content-Type": "audio/wav", **headers})

    def job(self, job_id: str) -> dict[str, Span]:
        """The spans of a finished job's trace, by name."""
        found = self.collector.until(lambda spans: _of(spans, "classify", job_id) and _of(spans, "submit", job_id))
        (classify,) = _of(found, "classify", job_id)[-1:]
        found = self.collector.until(lambda spans: any(s.trace == classify.trace and s.kind == "server" for s in spans))
        return {span.name: span for span in found if span.trace == classify.trace}


def _of(spans: list[Span], name: str, job_id: str) -> list[Span]:
    return [span for span in spans if span.name == name and span.attributes.get("messaging.message.id") == job_id]


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    """A stack with a keys file, JSON logs, and a collector that gets spans ten times a second."""
    with tempfile.TemporaryDirectory(prefix="oto") as name, Collector() as collector:
        directory = Path(name)
        write_tiny_model(directory / "models" / "tiny")
        key, text = new_key("test", [Scope.SUBMIT, Scope.READ])
        write_keys(directory / "keys", [key])
        server, socket = start_server(directory)
        stack = Stack.on(
            directory,
            f"unix://{socket}",
            default_model="tiny",
            keys_file=str(directory / "keys"),
            log_format="json",
            otlp_endpoint=collector.url,
            decode_processes="1",
            batch_window="0.05",
            visibility_timeout=str(VISIBILITY),
        )
        stack.environment |= {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_EXPORTER_OTLP_TIMEOUT": "3"}
        headers = {"Authorization": f"Bearer {text}"}
        with stack.up(server), httpx2.Client(base_url=stack.url, timeout=60, headers=headers) as http:
            yield Traced(stack, collector, text, http)


def test_one_submission_is_one_trace_over_both_processes(traced: Traced) -> None:
    """It continues the caller's trace, parents and times reflect the work, and batch and job link to each other; both
    logs contain the trace id."""
    done = traced.submit(
        query="?top_k=2",
        traceparent=f"00-{'-'.join(CALLER)}-01",
        tracestate="their=own",
        prefer="wait=30",
    )
    assert done.status_code == 200, done.text
    job_id = done.json()["id"]
    job = traced.job(job_id)
    request = job["POST /v1/jobs"]
    assert {(name, span.service, span.kind) for name, span in job.items()} == {
        ("POST /v1/jobs", "otoscope-gateway", "server"), ("ingest", "otoscope-gateway", "internal"),
        ("submit", "otoscope-gateway", "producer"), ("queue", "otoscope-worker", "internal"),
        ("classify", "otoscope-worker", "consumer"), ("decode", "otoscope-worker", "internal"),
        ("batch_wait", "otoscope-worker", "internal"), ("forward", "otoscope-worker", "internal"),
        ("store", "otoscope-worker", "internal"),
    }  # fmt: skip
    parents = {name: next((n for n, p in job.items() if p.id == span.parent), "") for name, span in job.items()}
    assert parents == {
        "POST /v1/jobs": "", "ingest": "POST /v1/jobs", "submit": "POST /v1/jobs", "queue": "submit",
        "classify": "submit", "decode": "classify", "batch_wait": "classify", "forward": "classify",
        "store": "classify",
    }  # fmt: skip
    assert (request.trace, request.parent) == CALLER
    assert {span.state for span in job.values()} == {"their=own"}, "the worker's, too"
    assert not any(span.failed for span in job.values())

    # The stages in order, each within its parent; the gateway's request lasted as long as all of them.
    for child, parent in parents.items():
        if parent and child not in ("queue", "classify"):
            assert job[child].within(job[parent]), (child, parent)
    order = [job[name] for name in ("ingest", "submit", "decode", "batch_wait", "forward", "store")]
    assert [span.began for span in order] == sorted(span.began for span in order)
    assert job["submit"].began <= job["queue"].began <= job["queue"].ended <= job["classify"].began
    assert job["classify"].ended <= request.ended + 50 * 10**6, "but for ending the span itself"

    assert _kept(traced.stack, job_id) == f"00-{CALLER[0]}-{job['submit'].id}-01 their=own"
    assert request.attributes | {
        "http.request.method": "POST", "http.route": "/v1/jobs", "http.response.status_code": 200,
        "url.path": "/v1/jobs", "otoscope.job.id": job_id,
    } == request.attributes  # fmt: skip
    classify = job["classify"]
    assert classify.attributes | {
        "messaging.system": "redis", "messaging.operation.type": "process", "messaging.message.id": job_id,
        "otoscope.job.id": job_id, "otoscope.model": "tiny", "otoscope.job.outcome": "succeeded",
        "otoscope.job.attempt": 1,
    } == classify.attributes  # fmt: skip
    assert str(traced.stack.processes["worker"].pid) in classify.attributes["otoscope.worker"]

    (batch,) = [span for span in traced.collector.spans if span.name == "batch" and classify.at in span.links]
    assert job["forward"].links == {batch.at}
    assert batch.trace != classify.trace
    assert not batch.parent
    assert (batch.attributes["otoscope.batch.size"], batch.attributes["otoscope.model"]) == (1, "tiny")
    assert batch.within(job["forward"])

    for name in ("api", "worker"):
        lines = [json.loads(line) for line in (traced.stack.logs / f"{name}.log").read_text().splitlines()]
        traces = {line["message"]: line.get("trace") for line in lines if line.get("job") == job_id}
        assert traces
        assert set(traces.values()) == {CALLER[0]}


def test_jobs_that_share_a_batch_keep_their_traces(traced: Traced) -> None:
    """One batch links to several jobs, whose traces stay separate."""
    ids = [traced.submit(wav(1.0, 16_000)).json()["id"] for _ in range(24)]
    found = traced.collector.until(lambda spans: all(_of(spans, "classify", job_id) for job_id in ids))
    jobs = [_of(found, "classify", job_id)[0] for job_id in ids]
    assert len({job.trace for job in jobs}) == 24
    carried = [span for span in found if span.name == "batch" and span.links & {job.at for job in jobs}]
    assert sum(len(batch.links) for batch in carried) == 24, "every job in one batch"
    assert max(len(batch.links) for batch in carried) > 1
    for batch in carried:
        assert batch.attributes["otoscope.batch.jobs"] == batch.attributes["otoscope.batch.size"] == len(batch.links)


def test_later_reads_link_to_the_job(traced: Traced) -> None:
    """A poll and an event stream are separate traces, named by route templates; health checks are not traced."""
    job_id = traced.submit().json()["id"]
    submitted = traced.job(job_id)["submit"]
    assert traced.http.get(f"/v1/jobs/{job_id}?wait=30").status_code == 200
    assert "event: result" in traced.http.get(f"/v1/jobs/{job_id}/events").text
    again = traced.http.post("/evaluate", json={"audio_data": base64.b64encode(FLAC).decode()})
    assert again.status_code == 200
    for _ in range(2):
        traced.submit(**{"Idempotency-Key": "k1"})
    traced.http.get("/health/ready")
    traced.http.get("/v1/models")
    names = ["GET /v1/jobs/{job_id}", "GET /v1/jobs/{job_id}/events", "GET /v1/models", "POST /evaluate"]
    found = traced.collector.until(lambda spans: {s.name for s in spans} >= set(names))
    for name in names[:2]:
        (read,) = [span for span in found if span.name == name and submitted.at in span.links]
        assert read.trace != submitted.trace
        assert read.attributes["otoscope.job.id"] == job_id
    (evaluated,) = [span for span in found if span.name == "POST /evaluate"]
    assert "classify" in traced.job(evaluated.attributes["otoscope.job.id"])
    (first, repeat) = [s for s in found if s.name == "submit"][-2:]
    (request,) = [span for span in found if span.id == repeat.parent]
    assert request.links == {first.at}, "a repeated submission links to the first one"
    assert not [span for span in found if "health" in span.name or "health" in str(span.attributes)]


def test_failures_are_marked_with_their_code(traced: Traced) -> None:
    """A job that fails; a sound that is refused, which is the caller's error; a request without a valid key.

    Neither keys nor query parameters are recorded.
    """
    failed = traced.submit(query="?window=77", prefer="wait=30").json()
    assert failed["error"]["code"] == "invalid_request"
    classify = traced.job(failed["id"])["classify"]
    assert classify.failed
    assert (classify.attributes["error.type"], classify.attributes["otoscope.job.outcome"]) == (
        "invalid_request", "failed",
    )  # fmt: skip

    before = {span.trace for span in traced.collector.spans}
    assert traced.submit(b"secret words, no sound", query="?top_k=3").status_code == 415
    new = traced.collector.until(lambda spans: {s.name for s in spans if s.trace not in before} >= {"POST /v1/jobs"})
    refused = {span.name: span for span in new if span.trace not in before}
    assert refused.keys() == {"POST /v1/jobs", "ingest"}
    assert refused["POST /v1/jobs"].attributes["otoscope.error.code"] == "not_audio"
    assert refused["POST /v1/jobs"].attributes["http.response.status_code"] == 415
    assert (refused["POST /v1/jobs"].failed, refused["ingest"].failed) == (False, True)

    stranger = "7" * 32
    answer = traced.submit(traceparent=f"00-{stranger}-{'7' * 16}-01", Authorization="Bearer oto_1_2")
    assert answer.status_code == 401
    traced.job(traced.submit(prefer="wait=30").json()["id"])  # so all earlier spans have arrived
    assert stranger not in {span.trace for span in traced.collector.spans}
    for secret in (traced.key, traced.key.split("_")[2], "oto_1_2", "top_k", "window=77", "secret words"):
        assert secret.encode() not in traced.collector.raw


def test_a_redelivered_job_has_its_attempt(traced: Traced) -> None:
    """A worker crashes with a job in flight; the span of the next worker is in the same trace, as the second
    attempt."""
    worker = traced.stack.processes["worker"]
    until(lambda: len(children(worker.pid)) == 1)  # a replacement for a killed one may still be starting
    (decoder,) = children(worker.pid)
    stop(decoder)
    job_id = traced.submit().json()["id"]
    while traced.http.get(f"/v1/jobs/{job_id}").json()["status"] != "running":
        time.sleep(0.05)
    traced.stack.stop("worker", signal.SIGKILL)
    os.kill(decoder, signal.SIGKILL)  # while stopped it does not notice its parent's end
    traced.stack.start("worker")
    traced.stack.until_ready()
    assert traced.http.get(f"/v1/jobs/{job_id}?wait=60").json()["status"] == "succeeded"
    job = traced.job(job_id)
    assert job["classify"].attributes["otoscope.job.attempt"] == 2
    assert job["classify"].parent == job["submit"].id
    assert job["queue"].ended - job["queue"].began > (VISIBILITY - 1) * 10**9


def test_each_window_of_a_live_stream_is_a_trace(traced: Traced) -> None:
    """From its arrival through the queue to its batch; all of them have the id of the stream, which is in the log."""
    with open_stream(traced.stack.url, {"Authorization": f"Bearer {traced.key}"}) as stream:
        opened = stream.receive()
        stream.send(tone(0.5))
        stream.receive()
        stream.finish()
    found = traced.collector.until(lambda spans: len([span for span in spans if span.name == "live window"]) >= 2)
    windows = [span for span in found if span.name == "live window"]
    assert {span.attributes["otoscope.stream"] for span in windows} == {opened["stream"]}
    assert len({span.trace for span in windows}) == len(windows)
    trace = windows[0].trace
    found = traced.collector.until(lambda spans: any(s.trace == trace and s.name == "classify" for s in spans))
    names = {span.name for span in found if span.trace == trace}
    assert {"live window", "submit", "queue", "classify", "forward"} <= names


def test_a_collector_that_is_down_costs_nothing(traced: Traced) -> None:
    """Jobs go on as before, each log has one warning, and shutdown of the processes stays bounded in time."""
    traced.collector.close()
    for _ in range(30):
        assert traced.submit(prefer="wait=30").json()["status"] == "succeeded"
    deadline = time.monotonic() + 30
    warnings = {"api": 0, "worker": 0}
    while not all(warnings.values()):
        assert time.monotonic() < deadline, warnings
        time.sleep(0.1)
        warnings = {name: (traced.stack.logs / f"{name}.log").read_text().count(WARNING) for name in warnings}
    assert traced.submit(prefer="wait=30").json()["status"] == "succeeded"
    for name in ("api", "worker"):
        assert traced.stack.stop(name) == 0
        log = (traced.stack.logs / f"{name}.log").read_text()
        assert log.count(WARNING) == 1, log
        assert "Transient error" not in log
        assert "Traceback" not in log


def test_queued_spans_are_sent_at_shutdown(traced: Traced) -> None:
    """SIGTERM to both with spans that are due in a minute: they are sent at once, and both exit normally."""
    stack = traced.stack
    for name in list(stack.processes):
        stack.stop(name)
    with Collector() as collector:
        stack.environment |= {"OTOSCOPE_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
        for name in ("worker", "api"):
            stack.start(name)
        stack.until_ready()
        job_id = traced.submit(prefer="wait=30").json()["id"]
        assert not collector.spans
        assert [stack.stop(name) for name in ("api", "worker")] == [0, 0]
        job = {span.name: span.trace for span in collector.spans if span.name in ("submit", "classify")}
        assert job.keys() == {"submit", "classify"}
        assert len(set(job.values())) == 1
        assert _of(collector.spans, "classify", job_id)


def test_an_untraced_job_has_no_such_field(stack: Stack) -> None:
    """The record of a job contains a trace context only where tracing is enabled."""
    with stack.client() as http:
        job_id = http.post("/v1/jobs?model=tiny", files={"file": wav()}).json()["id"]
    assert _kept(stack, job_id) is None


def _kept(stack: Stack, job_id: str) -> str | None:
    """The trace context in the record of a job."""
    raw = redis.Redis.from_url(stack.environment["OTOSCOPE_REDIS_URL"], decode_responses=True)
    assert raw.hget(job_key(job_id), "status")
    kept: Any = raw.hget(job_key(job_id), "trace")
    raw.close()
    return kept  # type: ignore[no-any-return]
