"""Tracing alone: off and on, OpenTelemetry's variables, and a collector that misbehaves."""

import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from otoscope.errors import NotAudio
from otoscope.types import JobOptions
from shared import tracing
from shared.config.settings import Settings
from shared.jobs.records import NewJob, SkippedJob
from tests.conftest import PYTHON, ROOT
from tests.shared.conftest import AUDIO, Stores
from tests.support.collector import Collector

CALLER = f"00-{'a' * 32}-{'b' * 16}-01"


@contextmanager
def traced(url: str, service: str = "test") -> Iterator[None]:
    tracing.configure(Settings(otlp_endpoint=url), service)
    try:
        yield
    finally:
        tracing.shutdown()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def test_off_nothing_is_imported() -> None:
    """Gateway and worker in a fresh process, built and ready to start, load no tracer and no exporter.

    FastAPI and redis-py import OpenTelemetry's API, and redis-py its metrics where they are installed, whatever the
    settings are.
    """
    code = """
import sys
from shared import tracing
from shared.config.settings import Settings
tracing.configure(Settings(), "test")
import api.__main__, api.main, worker.__main__, worker.app
api.main.create_app()
worker.app.Worker(Settings(device="cpu"))
with tracing.span("a"):
    tracing.set_attributes({"b": 1})
assert not tracing.enabled() and tracing.context() == tracing.trace_id() == "" and tracing.current_link() is None
print(*[name for name in sys.modules if name.startswith(("opentelemetry.sdk.trace", "opentelemetry.exporter",
                                                         "opentelemetry.proto", "shared.tracing.otel",
                                                         "shared.tracing.span_processor"))])
"""
    done = subprocess.run([PYTHON, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize("room", ["api", "worker"])
def test_without_the_extra_the_error_has_the_install_command(room: str) -> None:
    """The process does not start, and the error is one line."""
    code = f"""
import runpy, sys
sys.modules["opentelemetry.sdk"] = None
runpy.run_module({room!r}, run_name="__main__")
"""
    own = {"OTOSCOPE_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, env=own)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "OTOSCOPE_OTLP_ENDPOINT needs .venv/bin/pip install -e '.[tracing]'" in line


@pytest.mark.parametrize("url", ["collector:4318", "grpc://collector:4317", "http://", "http://[", "http://a:b@c:x/"])
def test_an_invalid_endpoint_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="OTOSCOPE_OTLP_ENDPOINT is not a URL"):
        Settings(otlp_endpoint=url)


def test_an_invalid_otel_variable_is_refused(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than replaced by a default."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "many")
    with pytest.raises(tracing.TracingSetupError, match="OTEL_BSP_MAX_QUEUE_SIZE"):
        tracing.configure(Settings(otlp_endpoint=collector.url), "test")
    assert not tracing.enabled()


def test_otel_variables_are_used(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers, resource and service name; an endpoint without a path, or with the complete one."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=ours")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "renamed")
    for url in (collector.url, f"{collector.url}/", f"{collector.url}/v1/traces"):
        with traced(url), tracing.span("one"):
            pass
    assert [span.service for span in collector.spans] == ["renamed"] * 3
    assert {span.resource["deployment.environment.name"] for span in collector.spans} == {"test"}
    assert {headers["x-tenant"] for headers in collector.headers} == {"ours"}


def test_an_unsampled_trace_is_unsampled_everywhere(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision of the caller, or of our sampler, travels with the job; a batch is sampled where one of its jobs
    is."""
    kept = []
    for sampler, parent in (
        ("parentbased_always_off", CALLER),
        ("", CALLER[:-1] + "0"),
        ("always_off", None),
        ("traceidratio", None),
    ):
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler or "parentbased_always_on")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "1.0")
        with traced(collector.url), tracing.span("job", parent=parent):
            assert tracing.context().endswith(("-01", "-03")) == (tracing.current_link() is not None)
            kept.append(tracing.context().rpartition("-")[2] in ("01", "03"))
            with tracing.batch_span([link] if (link := tracing.current_link()) else [], {}):
                pass
    names = [span.name for span in collector.spans]
    assert kept == [True, False, False, True]
    assert names == ["batch", "job"] * 2


@pytest.mark.parametrize(
    "parent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", CALLER + "," + CALLER, "x" * 70_000]
)
def test_an_invalid_parent_begins_a_trace(collector: Collector, parent: str) -> None:
    with traced(collector.url), tracing.span("one", parent=parent):
        pass
    assert not collector.spans[0].parent


def test_a_callers_tracestate_is_bounded_and_not_logged(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """One that is too long or malformed is dropped; a caller's text does not get into the log."""
    kept = []
    with traced(collector.url):
        for state in ("a=1,b=2", "a=" + "x" * 250 + ",b=" + "x" * 250 + ",c=" + "x" * 250, "\x7f broken", "a=1,a=2"):
            with tracing.span("one", parent=f"{CALLER} {state}"):
                kept.append(tracing.context().partition(" ")[2])
    assert kept == ["a=1,b=2", "", "", ""]
    assert not caplog.records


def test_an_error_is_recorded_by_its_code_alone(collector: Collector) -> None:
    """Without its message and traceback: both may repeat what a caller sent."""
    with traced(collector.url):
        for error in (NotAudio("a secret"), ValueError("a secret")):
            with pytest.raises(type(error)), tracing.span("one"):
                raise error
    assert [span.attributes["error.type"] for span in collector.spans] == ["not_audio", "ValueError"]
    assert all(span.failed for span in collector.spans)
    assert b"secret" not in collector.raw


def test_the_record_of_a_job_has_its_trace(stores: Stores) -> None:
    """For every delivery to a worker, also when the job fails as poison; an untraced job has none."""
    plain = stores.submit()
    job = stores.run(stores.gateway.submit(NewJob("tiny", JobOptions(), AUDIO, b"sound", trace=CALLER))).job
    assert job.trace == stores.run(stores.gateway.get(job.id)).trace == CALLER
    assert stores.run(stores.gateway.get(plain)).trace == ""
    assert [(work.trace, work.attempt) for work in map(stores.claim, (plain, job.id, job.id, job.id))] == [
        ("", 1), (CALLER, 1), (CALLER, 2), (CALLER, 3),
    ]  # fmt: skip
    poison = stores.worker.claim(job.id, "w1", isolated=True)
    assert isinstance(poison, SkippedJob)
    assert (poison.reason, poison.trace) == ("poison", CALLER)
    assert not stores.raw.hexists(f"otoscope:job:{plain}", "trace")


def test_a_collector_that_refuses_is_logged_once(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While it refuses, spans are dropped without waiting; once it accepts them again, the number is logged."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    collector.status = 400
    with traced(collector.url):
        _make_until(lambda: len(caplog.records) == 1)
        for _ in range(5):
            with tracing.span("lost"):
                time.sleep(0.03)
        assert len(caplog.records) == 1
        assert (caplog.records[0].levelname, caplog.records[0].name) == ("WARNING", "shared.tracing.span_processor")
        collector.status = 200
        _make_until(lambda: len(caplog.records) == 2)
    assert "accepts spans again" in caplog.records[1].message
    assert len(caplog.records) == 2
    assert collector.spans


def test_spans_beyond_the_queue_are_dropped(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While a collector does not answer, the queue fills and no more; its spans are sent once it answers."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    collector.delay = 30.0
    with traced(collector.url):
        for _ in range(1_000):
            with tracing.span("one"):
                pass
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        collector.release()
        collector.until(lambda spans: len(caplog.records) == 2)
    assert 100 <= len(collector.spans) <= 120, "those in the queue, and the batch in flight"
    assert f"; {1_000 - len(collector.spans)} spans were dropped" in caplog.records[1].message


@pytest.mark.slow
def test_shutdown_is_bounded_in_time(collector: Collector) -> None:
    """A collector that does not answer delays it by FLUSH_SECONDS at most."""
    collector.delay = 30.0
    tracing.configure(Settings(otlp_endpoint=collector.url), "test")
    with tracing.span("one"):
        pass
    closing = threading.Thread(target=tracing.shutdown)
    closing.start()
    closing.join(tracing.FLUSH_SECONDS + 5)
    assert not closing.is_alive()


def _make_until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        with tracing.span("one"):
            time.sleep(0.01)
