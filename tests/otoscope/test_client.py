"""Client and AsyncClient against a small service over real HTTP; every test that can runs with both."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from otoscope import AsyncClient, Client, ServiceUnreachable, WaitTimeout
from otoscope.connection import service_url
from otoscope.errors import (
    AudioRate,
    AudioTooLong,
    InvalidRequest,
    JobCancelled,
    JobNotFound,
    OtoscopeError,
    QueueFull,
)
from tests.support.fake_service import CannedResponse, FakeService, answer, job_document, problem, sse

Ask = Callable[..., Any]


def _sync(fake: FakeService, method: str, *args: Any, seconds: float = 5.0, **options: Any) -> Any:
    with Client(fake.url, timeout=seconds) as client:
        answer = getattr(client, method)(*args, **options)
        return list(answer) if method == "stream" else answer


def _async(fake: FakeService, method: str, *args: Any, seconds: float = 5.0, **options: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(fake.url, timeout=seconds) as client:
            answer = getattr(client, method)(*args, **options)
            return [event async for event in answer] if method == "stream" else await answer

    return asyncio.run(ask())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest, service: FakeService) -> Ask:
    """`ask(method, ...)` on a fresh client of either kind."""
    return lambda method, *args, **options: request.param(service, method, *args, **options)


def test_classify_returns_the_finished_job(ask: Ask, service: FakeService, tmp_path: Path) -> None:
    """A file goes up under its name with its options, and one request is enough when the answer is quick."""
    path = tmp_path / "dög.wav"
    path.write_bytes(b"RIFF")
    job = ask("classify", path, model="tiny", top_k=2, include=["maps", "cam"], window=0, layer="layer1")
    assert job.result.predictions[0].class_ == "dog"
    (seen,) = service.requests
    assert (seen.filename, seen.file) == ("dög.wav", b"RIFF")
    assert seen.fields == {"model": "tiny", "top_k": "2", "include": "maps,cam", "window": "0", "layer": "layer1"}
    assert float(seen.headers["Prefer"].removeprefix("wait=")) > 4


def test_classify_waits_on_after_202(ask: Ask, service: FakeService) -> None:
    """A job that is not done when the line is let go is waited for with a long poll."""
    service.delay = 0.3
    service.first.append(answer(job_document("job0", "queued"), 202))
    service._jobs["job0"] = (time.monotonic() + 0.3, None)  # type: ignore[assignment]
    service.outcome = lambda _, job_id: job_document(job_id, "succeeded")
    assert ask("classify", b"RIFF").status == "succeeded"
    assert [seen.method for seen in service.requests] == ["POST", "GET"]
    assert float(service.requests[1].query["wait"]) > 4


def test_failed_job_raises_its_error(ask: Ask, service: FakeService) -> None:
    """A job that fails while decoding is the same exception as a file refused at the door."""
    error = {"code": "audio_rate", "title": "t", "detail": "1 Hz"}
    service.outcome = lambda _, job_id: job_document(job_id, "failed", error=error)
    with pytest.raises(AudioRate, match="1 Hz"):
        ask("classify", b"RIFF")


def test_cancelled_job_raises(ask: Ask, service: FakeService) -> None:
    """Nobody takes a cancelled job for an answer."""
    service.outcome = lambda _, job_id: job_document(job_id, "cancelled")
    with pytest.raises(JobCancelled):
        ask("classify", b"RIFF")


def test_submit_returns_at_once(ask: Ask, service: FakeService) -> None:
    """Submitting does not wait, and the queue position is there to show."""
    service.delay = 5.0
    job = ask("submit", b"RIFF")
    assert (job.status, job.queue_position) == ("queued", 1)
    assert "Prefer" not in service.requests[0].headers


def test_job_and_cancel(ask: Ask, service: FakeService) -> None:
    """A job can be read and cancelled by its id; an unknown id is JobNotFound."""
    job = ask("submit", b"RIFF")
    assert ask("job", job.id).status == "succeeded"
    assert ask("cancel", job.id) is None
    with pytest.raises(JobNotFound):
        ask("cancel", "no/such?job")
    assert service.requests[-1].path == "/v1/jobs/no%2Fsuch%3Fjob"


def test_wait_gives_up_in_time(ask: Ask, service: FakeService) -> None:
    """The caller's timeout ends the wait with a TimeoutError, and without asking over and over."""
    service.delay = 30.0
    job = ask("submit", b"RIFF")
    asked, started = len(service.requests), time.monotonic()
    with pytest.raises(WaitTimeout) as caught:
        ask("wait", job.id, timeout=0.4)
    assert isinstance(caught.value, TimeoutError)
    assert time.monotonic() - started < 10
    assert len(service.requests) - asked <= 2


def test_wait_does_not_spin(ask: Ask, service: FakeService) -> None:
    """Where something on the way does not hold the line, the client paces itself."""
    service.first.extend([answer(job_document("job0", "running"))] * 100)
    with pytest.raises(WaitTimeout):
        ask("wait", "job0", timeout=1.5)
    assert len(service.requests) < 6


def test_wait_survives_a_restart(ask: Ask, service: FakeService) -> None:
    """A connection lost in the middle of a wait is taken up again."""
    service.first.extend([answer(job_document("job0", "queued")), CannedResponse(None), CannedResponse(None)])
    service.first.append(answer(job_document("job0", "succeeded")))
    assert ask("wait", "job0", timeout=10.0).status == "succeeded"


def test_busy_service_is_asked_again(ask: Ask, service: FakeService) -> None:
    """429 and 503 that name a time are obeyed within the caller's timeout."""
    service.first.extend([problem(429, "queue_full", 0), problem(503, "not_ready", 0)])
    assert ask("classify", b"RIFF").status == "succeeded"
    assert len(service.requests) == 3


def test_busy_longer_than_the_timeout(ask: Ask, service: FakeService) -> None:
    """A time to come back that lies past the timeout is told at once."""
    service.first.append(problem(429, "queue_full", 30))
    started = time.monotonic()
    with pytest.raises(QueueFull) as caught:
        ask("classify", b"RIFF", timeout=20.0)
    assert caught.value.retry_after == 30
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("key", [None, "k"])
def test_lost_submission_is_repeated_under_one_key(ask: Ask, service: FakeService, key: str | None) -> None:
    """What may have arrived is sent again as the same job; a service that is not there is told at once."""
    service.first.append(CannedResponse(None))
    assert ask("classify", b"RIFF", idempotency_key=key).status == "succeeded"
    first, again = (seen.headers["Idempotency-Key"] for seen in service.requests)
    assert first == again == (key or first)
    assert first
    assert ask("classify", b"RIFF", idempotency_key=key).status == "succeeded"
    assert (service.requests[2].headers["Idempotency-Key"] == first) == (key is not None)


@pytest.mark.parametrize(
    ("canned", "kind"),
    [
        (problem(413, "audio_too_long"), AudioTooLong),
        (problem(418, "teapot"), OtoscopeError),
        (CannedResponse(502, b"<html>bad gateway</html>"), OtoscopeError),
        (CannedResponse(200, b'{"hello": "world"}'), OtoscopeError),
    ],
)
def test_errors_become_exceptions(
    ask: Ask, service: FakeService, canned: CannedResponse, kind: type[OtoscopeError]
) -> None:
    """Problem documents become the shared errors by code; all else is still an OtoscopeError."""
    service.first.append(canned)
    with pytest.raises(kind) as caught:
        ask("job", "job0")
    assert type(caught.value) is kind


def test_nothing_there_says_how_to_start() -> None:
    """A refused connection tells a newcomer what to type, and does not wait for a service that never was."""
    started = time.monotonic()
    for call in ("ready", "models"):
        with (
            Client("http://127.0.0.1:9", timeout=30.0) as client,
            pytest.raises(ServiceUnreachable, match="otoscope up"),
        ):
            getattr(client, call)()
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceUnreachable):
        client.wait("job0")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("ask", [_sync, _async], ids=["sync", "async"])
@pytest.mark.parametrize(("call", "most"), [(("models",), 0.5), (("job", "job0"), 0.5), (("classify", b"RIFF"), 2.5)])
def test_silence_is_waited_for_as_long_as_was_asked(ask: Ask, call: tuple[Any, ...], most: float) -> None:
    """Something takes the connection and says nothing; a line that is held may be answered a moment late."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = SimpleNamespace(url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(ServiceUnreachable):
            ask(there, *call, seconds=0.5)
        assert time.monotonic() - started < most + 2


def test_result_has_numpy_arrays(ask: Ask) -> None:
    """The binary form brings arrays without a detour through text."""
    result = ask("result", "job0")
    np.testing.assert_array_equal(result.embedding, np.arange(4, dtype=np.float16))
    assert result.full_spectrogram.shape == (2, 3)
    assert {name: values.shape for name, values in result.channels.items()} == {"layer1": (4, 2, 1)}


def test_models_and_ready(ask: Ask, service: FakeService) -> None:
    """Not being ready is an answer, not an error."""
    assert ask("models").models[0].name == "tiny"
    assert ask("ready").status == "ready"
    service.ready = False
    assert ask("ready").status == "not_ready"


def test_newer_service_is_understood(ask: Ask, service: FakeService) -> None:
    """Fields that this client does not know are no reason to fail."""
    service.first.append(answer(job_document("job0", "succeeded", mood="good")))
    assert ask("job", "job0").status == "succeeded"


def test_stream_resumes_where_it_was_cut(ask: Ask, service: FakeService) -> None:
    """A stream cut in the middle of an event goes on after the last whole one, and nothing comes twice."""
    queued, running = (
        sse("status", 1, job_document("job0", "queued")),
        sse("status", 2, job_document("job0", "running")),
    )
    succeeded = sse("status", 3, job_document("job0", "succeeded"))
    result = sse("result", 4, job_document("job0", "succeeded"))
    service.streams.append(([b": hello\n\n", queued, running[:30]], True))
    service.streams.append(([running], False))  # an orderly end without the result: a restarting gateway
    service.streams.append(([succeeded[:9], succeeded[9:] + result], False))
    events = ask("stream", "job0", timeout=20.0)
    assert [(event.kind, event.job.status) for event in events] == [
        ("status", "queued"),
        ("status", "running"),
        ("status", "succeeded"),
        ("result", "succeeded"),
    ]
    assert events[-1].job.result.predictions[0].class_ == "dog"
    assert [seen.headers["Last-Event-ID"] for seen in service.requests] == [None, "1-0", "2-0"]


def test_stream_of_unknown_job(ask: Ask, service: FakeService) -> None:
    """The error comes as an exception, not as an empty stream."""
    service.first.append(problem(404, "job_not_found"))
    with pytest.raises(JobNotFound):
        ask("stream", "job0")


def test_stream_gives_up_in_time(ask: Ask, service: FakeService) -> None:
    """A stream that never ends keeps to the caller's timeout."""
    with pytest.raises(WaitTimeout):
        ask("stream", "job0", timeout=1.0)
    assert len(service.requests) <= 3


def test_leaving_a_stream_closes_its_connection(service: FakeService) -> None:
    """A caller who has seen enough leaves no connection behind."""
    events = [sse("status", number, job_document("job0", "queued")) for number in range(3)]
    service.streams.append((events, False))
    with Client(service.url) as client:
        for event in client.stream("job0"):
            assert event.job.status == "queued"
            break


def test_samples_need_their_rate(service: FakeService) -> None:
    """A forgotten rate is told before anything is sent."""
    with Client(service.url) as client, pytest.raises(TypeError, match="rate"):
        client.classify(np.zeros(16_000, np.float32))
    assert service.requests == []


def test_service_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is as given, else from the environment, else the default; nonsense is told as such."""
    assert service_url() == "http://127.0.0.1:8000"
    monkeypatch.setenv("OTOSCOPE_PORT", "8123")
    assert service_url() == "http://127.0.0.1:8123"
    monkeypatch.setenv("OTOSCOPE_URL", "https://sounds.example")
    assert service_url() == "https://sounds.example"
    assert service_url("localhost:9000") == "http://localhost:9000"
    with pytest.raises(InvalidRequest):
        service_url("ftp://sounds.example")


def test_client_is_light() -> None:
    """`from otoscope import Client` needs neither libsndfile nor what only the service uses."""
    heavy = ("torch", "soundfile", "soxr", "celery", "fastapi", "redis", "typer")
    code = f"import sys; from otoscope import Client; sys.exit([m for m in {heavy} if m in sys.modules] or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
