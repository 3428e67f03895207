"""Client and AsyncClient against a fake service over real HTTP; most tests run with both."""

import asyncio
import gzip
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from importlib.util import find_spec
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import SimpleNamespace
from typing import Any

import httpx2
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
    ModelNotFound,
    OtoscopeError,
    PartNotFound,
    QueueFull,
)
from otoscope.live import LiveCall
from tests.support.fake_service import (
    LIMITS,
    RESULT,
    CannedResponse,
    FakeService,
    answer,
    job_document,
    problem,
    sse,
)
from tests.support.tls import Authority

Call = Callable[..., Any]


def _sync(fake: FakeService, method: str, *args: Any, seconds: float = 5.0, **options: Any) -> Any:
    with Client(fake.url, timeout=seconds) as client:
        answer = getattr(client, method)(*args, **options)
        return list(answer) if method == "stream" else answer


def _async(fake: FakeService, method: str, *args: Any, seconds: float = 5.0, **options: Any) -> Any:
    async def call() -> Any:
        async with AsyncClient(fake.url, timeout=seconds) as client:
            answer = getattr(client, method)(*args, **options)
            return [event async for event in answer] if method == "stream" else await answer

    return asyncio.run(call())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest, service: FakeService) -> Call:
    """`call(method, ...)` on a new client of either kind."""
    return lambda method, *args, **options: request.param(service, method, *args, **options)


def test_classify_returns_the_finished_job(call: Call, service: FakeService, tmp_path: Path) -> None:
    """A file is uploaded with its name and options; one request is enough for a quick result."""
    path = tmp_path / "dög.wav"
    path.write_bytes(b"RIFF")
    job = call("classify", path, model="tiny", top_k=2, include=["maps", "cam"], window=0, layer="layer1")
    assert job.result.predictions[0].class_ == "dog"
    (seen,) = service.requests
    assert (seen.filename, seen.file) == ("dög.wav", b"RIFF")
    assert seen.fields == {"model": "tiny", "top_k": "2", "include": "maps,cam", "window": "0", "layer": "layer1"}
    assert float(seen.headers["Prefer"].removeprefix("wait=")) > 4


def test_classify_keeps_waiting_after_202(call: Call, service: FakeService) -> None:
    """A job that is unfinished after the first request is waited for with a long poll."""
    service.delay = 0.3
    service.first.append(answer(job_document("job0", "queued"), 202))
    service._jobs["job0"] = (time.monotonic() + 0.3, None)  # type: ignore[assignment]
    service.outcome = lambda _, job_id: job_document(job_id, "succeeded")
    assert call("classify", b"RIFF").status == "succeeded"
    assert [seen.method for seen in service.requests] == ["POST", "GET"]
    assert float(service.requests[1].query["wait"]) > 4


def test_failed_job_raises_its_error(call: Call, service: FakeService) -> None:
    """A job that fails in the decoder raises the same exception as a file that the gateway refuses."""
    error = {"code": "audio_rate", "title": "t", "detail": "1 Hz"}
    service.outcome = lambda _, job_id: job_document(job_id, "failed", error=error)
    with pytest.raises(AudioRate, match="1 Hz"):
        call("classify", b"RIFF")


def test_cancelled_job_raises(call: Call, service: FakeService) -> None:
    """A cancelled job is an error, not a result."""
    service.outcome = lambda _, job_id: job_document(job_id, "cancelled")
    with pytest.raises(JobCancelled):
        call("classify", b"RIFF")


def test_submit_returns_at_once(call: Call, service: FakeService) -> None:
    """Submitting does not wait; the job has its queue position."""
    service.delay = 5.0
    job = call("submit", b"RIFF")
    assert (job.status, job.queue_position) == ("queued", 1)
    assert "Prefer" not in service.requests[0].headers


def test_job_and_cancel(call: Call, service: FakeService) -> None:
    """A job can be read and cancelled by its id; an unknown id is JobNotFound."""
    job = call("submit", b"RIFF")
    assert call("job", job.id).status == "succeeded"
    assert call("cancel", job.id) is None
    with pytest.raises(JobNotFound):
        call("cancel", "no/such?job")
    assert service.requests[-1].path == "/v1/jobs/no%2Fsuch%3Fjob"


def test_wait_gives_up_in_time(call: Call, service: FakeService) -> None:
    """The caller's timeout ends the wait with a TimeoutError, without a burst of requests."""
    service.delay = 30.0
    job = call("submit", b"RIFF")
    sent, started = len(service.requests), time.monotonic()
    with pytest.raises(WaitTimeout) as caught:
        call("wait", job.id, timeout=0.4)
    assert isinstance(caught.value, TimeoutError)
    assert time.monotonic() - started < 10
    assert len(service.requests) - sent <= 2


@pytest.mark.slow
def test_wait_does_not_spin(call: Call, service: FakeService) -> None:
    """If long polls return at once, as through some proxies, the client limits its request rate."""
    service.first.extend([answer(job_document("job0", "running"))] * 100)
    with pytest.raises(WaitTimeout):
        call("wait", "job0", timeout=1.5)
    assert len(service.requests) < 6


@pytest.mark.slow
def test_wait_survives_a_restart(call: Call, service: FakeService) -> None:
    """A connection that breaks during a wait is retried."""
    service.first.extend([answer(job_document("job0", "queued")), CannedResponse(None), CannedResponse(None)])
    service.first.append(answer(job_document("job0", "succeeded")))
    assert call("wait", "job0", timeout=10.0).status == "succeeded"


def test_busy_service_is_retried(call: Call, service: FakeService) -> None:
    """Retry-After of 429 and 503 is obeyed within the caller's timeout."""
    service.first.extend([problem(429, "queue_full", 0), problem(503, "not_ready", 0)])
    assert call("classify", b"RIFF").status == "succeeded"
    assert len(service.requests) == 3


def test_busy_longer_than_the_timeout(call: Call, service: FakeService) -> None:
    """Retry-After past the timeout raises at once."""
    service.first.append(problem(429, "queue_full", 30))
    started = time.monotonic()
    with pytest.raises(QueueFull) as caught:
        call("classify", b"RIFF", timeout=20.0)
    assert caught.value.retry_after == 30
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("key", [None, "k"])
def test_lost_submission_is_repeated_under_one_key(call: Call, service: FakeService, key: str | None) -> None:
    """A submission that may have arrived is repeated with its idempotency key, so it stays one job."""
    service.first.append(CannedResponse(None))
    assert call("classify", b"RIFF", idempotency_key=key).status == "succeeded"
    first, again = (seen.headers["Idempotency-Key"] for seen in service.requests)
    assert first == again == (key or first)
    assert first
    assert call("classify", b"RIFF", idempotency_key=key).status == "succeeded"
    assert (service.requests[2].headers["Idempotency-Key"] == first) == (key is not None)


@pytest.mark.parametrize(
    ("canned", "kind"),
    [
        (problem(413, "audio_too_long"), AudioTooLong),
        (problem(418, "teapot"), OtoscopeError),
        (CannedResponse(502, b"<html>bad gateway</html>"), OtoscopeError),
        (CannedResponse(200, b'{"hello": "world"}'), OtoscopeError),
        (CannedResponse(308, b"", (("Location", "https://sounds.example/v1/jobs/job0"),)), OtoscopeError),
    ],
)
def test_errors_become_exceptions(
    call: Call, service: FakeService, canned: CannedResponse, kind: type[OtoscopeError]
) -> None:
    """Problem documents become exceptions by code; any other failure is an OtoscopeError."""
    service.first.append(canned)
    with pytest.raises(kind) as caught:
        call("job", "job0")
    assert type(caught.value) is kind
    assert (canned.status != 308) or "leads to https://sounds.example/v1/jobs/job0" in caught.value.detail


def test_a_connection_that_breaks_is_one_sentence() -> None:
    """The words of the HTTP library have a full stop of their own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.recv(65_536)

        threading.Thread(target=hang_up, daemon=True).start()
        with (
            Client(f"http://127.0.0.1:{server.getsockname()[1]}") as client,
            pytest.raises(ServiceUnreachable, match=r" broke: Server disconnected [^.]+\.$"),
        ):
            client.ready()
        server.shutdown(socket.SHUT_RDWR)


def test_unreachable_service_names_the_remedy() -> None:
    """A refused connection names `otoscope up`, and is not retried if the service never answered."""
    started = time.monotonic()
    for method in ("ready", "models"):
        with (
            Client("http://127.0.0.1:9", timeout=30.0) as client,
            pytest.raises(ServiceUnreachable, match="otoscope up"),
        ):
            getattr(client, method)()
    for method in ("wait", "wait_batch"):
        with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceUnreachable):
            getattr(client, method)("id", timeout=30.0)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("call", [_sync, _async], ids=["sync", "async"])
def test_messages_have_no_password(call: Call, service: FakeService) -> None:
    """Addresses with credentials are for a proxy in front of the service; messages end up in logs."""
    with pytest.raises(ServiceUnreachable, match=re.escape("service at http://127.0.0.1:9/")):
        call(SimpleNamespace(url="http://me:secret@127.0.0.1:9"), "models")
    service.first.append(CannedResponse(502, b"<html>bad gateway</html>"))
    with pytest.raises(OtoscopeError, match=f"{service.url}/v1/models answered 502"):
        call(SimpleNamespace(url=service.url.replace("//", "//me:secret@")), "models")


def test_a_service_without_tls_is_told_from_none(service: FakeService) -> None:
    """`https` where the service expects `http`; also for a stream."""
    address = service.url.replace("http", "https")
    for stream in (False, True):
        with Client(address) as client, pytest.raises(ServiceUnreachable, match="no TLS") as caught:
            list(client.stream_audio([bytes(3_200)], 16_000)) if stream else client.models()
        assert "otoscope up" not in caught.value.detail


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server that expects TLS and answers 404, with `http`, and the file of its authority."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    authority = Authority(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("localhost"))

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), context.wrap_socket(self.request, server_side=True) as connection:
                connection.recv(10_000)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://localhost:{server.server_address[1]}", authority.ca
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("call", [_sync, _async], ids=["sync", "async"])
def test_a_service_with_tls_is_told_from_a_broken_one(call: Call, tls: tuple[str, Path]) -> None:
    """`http` where the service expects `https`: it ends the connection without an answer, and is not tried again."""
    address, authority = tls
    began = time.monotonic()
    for arguments in (("models",), ("submit", bytes(3_000_000))):
        with pytest.raises(ServiceUnreachable, match=re.escape(f"{address}/ expects TLS; the address of such a")):
            call(SimpleNamespace(url=address), *arguments, seconds=60.0)
    trusting = httpx2.HTTPTransport(verify=ssl.create_default_context(cafile=authority))
    with Client(address, transport=trusting) as client, pytest.raises(ServiceUnreachable, match="expects TLS"):
        client.models()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "text",
    [
        "Client sent an HTTP request to an HTTPS server.\n",  # Go: Caddy, Traefik
        "<center>The plain HTTP request was sent to HTTPS port</center>",  # nginx
        "<p>Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",  # Apache
    ],
)
def test_a_proxy_that_answers_that_it_expects_tls(call: Call, service: FakeService, text: str) -> None:
    service.first.append(CannedResponse(400, text.encode()))
    with pytest.raises(ServiceUnreachable, match="expects TLS"):
        call("models")


@pytest.mark.parametrize("call", [_sync, _async], ids=["sync", "async"])
def test_a_proxy_of_the_environment_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is often the reason why a service in the same network is not reached."""
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ServiceUnreachable, match=re.escape("proxy http://127.0.0.1:9 ")) as caught:
        call(SimpleNamespace(url="http://sounds.example"), "models")
    assert "secret" not in caught.value.detail
    with pytest.raises(ServiceUnreachable) as caught:
        call(SimpleNamespace(url="http://127.0.0.1:9"), "models")
    assert "proxy" not in caught.value.detail


@pytest.mark.parametrize("call", [_sync, _async], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("socks5://me:secret@127.0.0.1:9", "pip install socksio"),
        ("SOCKS5H://127.0.0.1:9", "pip install socksio"),
        ("socks4://me:secret@127.0.0.1:9", "Unknown scheme for proxy URL"),
    ],
)
def test_a_proxy_that_cannot_be_used(call: Call, monkeypatch: pytest.MonkeyPatch, proxy: str, words: str) -> None:
    """The error of the client says what to install; a service on this machine needs no proxy."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(InvalidRequest, match=words) as caught:
        call(SimpleNamespace(url="http://sounds.example"), "models")
    assert "secret" not in caught.value.detail
    with pytest.raises(ServiceUnreachable):
        call(SimpleNamespace(url="http://127.0.0.1:9"), "models")


@pytest.mark.skipif(find_spec("python_socks") is not None, reason="python-socks is installed")
def test_a_live_stream_through_a_socks_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs another package than the requests do."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")

    async def hear() -> None:
        async for _ in LiveCall("http://sounds.example", {}, [bytes(3_200)], 16_000, {}).answers():
            pass

    with pytest.raises(OtoscopeError, match=re.escape("pip install 'python-socks[asyncio]'")):
        asyncio.run(hear())


@pytest.mark.slow
@pytest.mark.parametrize("call", [_sync, _async], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("arguments", "limit"), [(("models",), 0.5), (("job", "job0"), 0.5), (("classify", b"RIFF"), 2.5)]
)
def test_a_silent_server_times_out(call: Call, arguments: tuple[Any, ...], limit: float) -> None:
    """A server that accepts the connection and sends nothing; a long poll has a short grace period."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = SimpleNamespace(url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(ServiceUnreachable):
            call(target, *arguments, seconds=0.5)
        assert time.monotonic() - started < limit + 2


def test_result_has_numpy_arrays(call: Call) -> None:
    """The MessagePack form has the arrays in binary."""
    result = call("result", "job0")
    np.testing.assert_array_equal(result.embedding, np.arange(4, dtype=np.float16))
    assert result.full_spectrogram.shape == (2, 3)
    assert {name: values.shape for name, values in result.channels.items()} == {"layer1": (4, 2, 1)}


def test_models_and_ready(call: Call, service: FakeService) -> None:
    """Not being ready is an answer, not an error."""
    assert call("models").models[0].name == "tiny"
    assert call("ready").status == "ready"
    service.ready = False
    assert call("ready").status == "not_ready"


def test_fields_of_a_newer_service_are_ignored(call: Call, service: FakeService) -> None:
    """Unknown fields are not an error."""
    service.first.append(answer(job_document("job0", "succeeded", mood="good")))
    assert call("job", "job0").status == "succeeded"


def test_answers_of_a_newer_and_of_an_older_service(call: Call, service: FakeService) -> None:
    """Unknown fields at any depth and unknown warnings are no error; an older service sends no verdict."""
    detection = {"class": "dog", "start": 0.1, "end": 0.9, "confidence": 0.8, "peak": 0.5, "loudness": 3}
    newer = RESULT | {
        "verdict": "unsure", "known": 0.4, "level": {"peak_dbfs": None, "rms_dbfs": None, "lufs": -23},
        "warnings": [{"code": "echo", "detail": "It echoes.", "severity": 2}], "detections": [detection], "mood": "x",
    }  # fmt: skip
    service.first.append(answer(job_document("job0", "succeeded", result=newer)))
    result = call("job", "job0").result
    assert (result.verdict, result.warnings[0].code, result.detections[0].class_) == ("unsure", "echo", "dog")
    service.first.append(answer(job_document("job0", "succeeded")))
    older = call("job", "job0").result
    assert (older.verdict, older.warnings, older.detections, older.level) == ("named", [], None, None)


def test_options_of_the_answer(call: Call, service: FakeService) -> None:
    """Each is a form field under its own name; zero is a value."""
    options = {
        "cam_class": "cat", "combine": "mean", "unknown_threshold": 0.0, "min_confidence": 0.5, "overlap": 0.75,
        "merge_gap": 2.0, "min_duration": 0.2, "channel": 2,
    }  # fmt: skip
    call("classify", b"RIFF", **options)
    assert service.requests[0].fields == {name: str(value) for name, value in options.items()}


def test_an_unknown_option_reaches_the_service(call: Call, service: FakeService) -> None:
    """It is not dropped: the service refuses what it does not know, as it does for every other caller."""
    call("submit", b"RIFF", topk=3)
    assert service.requests[0].fields == {"topk": "3"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"idempotency_key": "a\nb"}, "Illegal header value"),
        ({"idempotency_key": "\xfc"}, "can't encode character"),
        ({"model": "\ud800"}, "surrogates not allowed"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once(
    call: Call, service: FakeService, options: dict[str, str], words: str
) -> None:
    """It is no broken connection, which would be tried again."""
    with pytest.raises(InvalidRequest, match=words):
        call("submit", b"RIFF", seconds=60.0, **options)
    assert service.requests == []


@pytest.mark.parametrize("call", [_sync, _async], ids=["sync", "async"])
def test_a_host_that_no_name_can_have(call: Call) -> None:
    """Whether the library encodes it or the system does."""
    with pytest.raises((InvalidRequest, ServiceUnreachable), match=r"label empty or too long|sounds\.\.example"):
        call(SimpleNamespace(url="http://sounds..example"), "models")


def test_a_job_in_place_of_its_id(call: Call) -> None:
    """The message says what was meant."""
    job = call("submit", b"RIFF")
    for method in ("job", "wait", "result", "cancel", "wait_batch"):
        with pytest.raises(TypeError, match=r"an id is text, as in job.id and batch.id; this is of the type Job"):
            call(method, job)


@pytest.mark.parametrize("sounds", ["dog.wav", Path("dog.wav"), b"RIFF"])
def test_one_sound_is_not_many(call: Call, service: FakeService, sounds: Any) -> None:
    """Its characters are no paths, and its bytes no sounds."""
    with pytest.raises(TypeError, match="several sounds"):
        call("classify_many", sounds)
    assert service.requests == []


def test_no_sounds_are_no_batch(call: Call) -> None:
    """The message does not mention media types."""
    with pytest.raises(InvalidRequest, match="no sounds"):
        call("submit_batch", [])


def test_results_of_a_batch_whose_repetition_fails(call: Call, service: FakeService) -> None:
    """They are returned; the sounds for which the queue had no place have the error of the repeated request."""
    finished = {"name": "sound", "id": "job0", "status": "succeeded", "error": None}
    missing = {"name": "sound", "id": "job1", "status": "missing", "error": None}
    batch = {
        "id": "batch0", "created_at": "2026-01-01T00:00:00Z", "total": 2, "counts": {"succeeded": 1, "missing": 1},
        "finished": True, "members": [finished, missing], "links": {},
    }  # fmt: skip
    lines = "\n".join([json.dumps(finished | {"result": RESULT}), json.dumps(missing | {"result": None})])
    service.first.extend([answer(LIMITS), answer(batch, 202), problem(404, "model_not_found")])
    service.first.append(CannedResponse(200, lines.encode()))
    first, second = call("classify_many", [b"RIFF", b"RIFX"])
    assert first.error is None
    assert first.member.result.predictions[0].confidence == 0.9
    assert isinstance(second.error, ModelNotFound), second


def test_the_sound_of_a_job(call: Call, service: FakeService) -> None:
    """Byte for byte; one that was not kept raises the error of the service."""
    job = call("classify", b"RIFF and so on", keep_sound=True)
    assert service.requests[0].fields == {"keep_sound": "true"}
    assert call("audio", job.id) == b"RIFF and so on"
    service.first.append(problem(404, "part_not_found"))
    with pytest.raises(PartNotFound):
        call("audio", job.id)


def test_detections(call: Call, service: FakeService) -> None:
    """Of a job or its id, as a list or as a file."""
    job = call("classify", b"RIFF", include=["detections"])
    (detection,) = call("detections", job)
    assert (detection.class_, detection.start, detection.end) == ("dog", 0.25, 0.75)
    assert call("detections", job.id, format="audacity") == "0.250000\t0.750000\tdog 0.90\n"
    service.first.append(problem(404, "part_not_found"))
    with pytest.raises(PartNotFound):
        call("detections", job.id, format="csv")


def test_limits(call: Call) -> None:
    assert call("limits").max_seconds == 60.0


@pytest.mark.slow
def test_stream_resumes_after_a_broken_connection(call: Call, service: FakeService) -> None:
    """A stream that breaks inside an event resumes after the last complete one, without duplicates."""
    queued, running = (
        sse("status", 1, job_document("job0", "queued")),
        sse("status", 2, job_document("job0", "running")),
    )
    succeeded = sse("status", 3, job_document("job0", "succeeded"))
    result = sse("result", 4, job_document("job0", "succeeded"))
    service.streams.append(([b": hello\n\n", queued, running[:30]], True))
    service.streams.append(([running], False))  # a clean end without the result: a restarting gateway
    service.streams.append(([succeeded[:9], succeeded[9:] + result], False))
    events = call("stream", "job0", timeout=20.0)
    assert [(event.kind, event.job.status) for event in events] == [
        ("status", "queued"),
        ("status", "running"),
        ("status", "succeeded"),
        ("result", "succeeded"),
    ]
    assert events[-1].job.result.predictions[0].class_ == "dog"
    assert [seen.headers["Last-Event-ID"] for seen in service.requests] == [None, "1-0", "2-0"]


def test_stream_of_unknown_job(call: Call, service: FakeService) -> None:
    """The error is raised, not an empty stream."""
    service.first.append(problem(404, "job_not_found"))
    with pytest.raises(JobNotFound):
        call("stream", "job0")


@pytest.mark.slow
def test_stream_gives_up_in_time(call: Call, service: FakeService) -> None:
    """A stream that never ends respects the caller's timeout."""
    with pytest.raises(WaitTimeout):
        call("stream", "job0", timeout=1.0)
    assert len(service.requests) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["stream", "wait_batch"])
def test_a_stream_that_keeps_ending_early_is_given_up(
    call: Call, service: FakeService, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """After as long as an outage may take."""
    monkeypatch.setattr("otoscope.events.OUTAGE", 0.2)
    with pytest.raises(ServiceUnreachable, match=r"The event stream of (job job0|batch job0) keeps ending early"):
        call(method, "job0")
    assert len(service.requests) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["stream", "wait_batch"])
def test_a_deadline_during_an_outage(call: Call, service: FakeService, method: str) -> None:
    """The job goes on: it can be waited for again."""
    closing = threading.Timer(0.3, service.close)
    closing.start()
    with pytest.raises(WaitTimeout, match="it continues"):
        call(method, "job0", timeout=1.5)
    closing.join()


@pytest.mark.slow
def test_a_deadline_of_wait_during_an_outage(call: Call, service: FakeService) -> None:
    """The same; a service that has never answered is unreachable."""
    service.first.append(answer(job_document("job0", "queued")))
    service.first.extend([CannedResponse(None)] * 10)
    with pytest.raises(WaitTimeout, match="it continues"):
        call("wait", "job0", timeout=1.5)
    service.first.extend([CannedResponse(None)] * 10)
    with pytest.raises(ServiceUnreachable):
        call("wait", "job0", timeout=1.0)


def test_leaving_a_stream_closes_its_connection(service: FakeService) -> None:
    """Leaving the loop early closes the connection."""
    events = [sse("status", number, job_document("job0", "queued")) for number in range(3)]
    service.streams.append((events, False))
    with Client(service.url) as client:
        for event in client.stream("job0"):
            assert event.job.status == "queued"
            break
    service.streams.append((events, False))

    async def leave() -> None:
        async with AsyncClient(service.url) as client, aclosing(client.stream("job0")) as stream:
            assert (await anext(stream)).job.status == "queued"

    asyncio.run(leave())


def test_samples_need_their_rate(service: FakeService) -> None:
    """A missing rate is an error before anything is sent."""
    with Client(service.url) as client, pytest.raises(TypeError, match="rate"):
        client.classify(np.zeros(16_000, np.float32))
    assert service.requests == []


def test_service_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL is the argument, else from the environment, else the default; an invalid one is an error."""
    assert service_url() == "http://127.0.0.1:8000"
    monkeypatch.setenv("OTOSCOPE_PORT", "8123")
    assert service_url() == "http://127.0.0.1:8123"
    monkeypatch.setenv("OTOSCOPE_URL", "https://sounds.example")
    assert service_url() == "https://sounds.example"
    assert service_url("localhost:9000") == "http://localhost:9000"
    with pytest.raises(InvalidRequest):
        service_url("ftp://sounds.example")


def test_client_is_light() -> None:
    """`from otoscope import Client` imports neither libsndfile nor packages of the service."""
    heavy = ("torch", "soundfile", "soxr", "celery", "fastapi", "redis", "typer")
    code = f"import sys; from otoscope import Client; sys.exit([m for m in {heavy} if m in sys.modules] or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("method", ["job", "result", "limits"])
def test_answers_are_bounded(call: Call, service: FakeService, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large or a compressed answer, which could become any size, is a clear error."""
    monkeypatch.setattr("otoscope.responses.MAX_ANSWER_BYTES", 10_000)
    arguments = [] if method == "limits" else ["job0"]
    service.first.append(CannedResponse(200, bytes(10_001)))
    with pytest.raises(OtoscopeError, match="more than 10,000 bytes"):
        call(method, *arguments)
    bomb = gzip.compress(bytes(10**6))
    service.first.append(CannedResponse(200, bomb, (("Content-Encoding", "gzip"),)))
    with pytest.raises(OtoscopeError, match="Content-Encoding 'gzip'"):
        call(method, *arguments)
    assert all(seen.headers["Accept-Encoding"] == "identity" for seen in service.requests)


def test_an_event_is_bounded(call: Call, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without an end does not fill the memory."""
    monkeypatch.setattr("otoscope.sse.MAX_ANSWER_BYTES", 10_000)
    service.streams.append(([b"data: " + bytes(11_000)], False))
    with pytest.raises(OtoscopeError, match="more than 10,000 bytes"):
        call("stream", "job0")


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x80", b"\x81\xa8contract\x01", b"\x81\xa8contract\xa1x", b"[]", bytes(100)]
)
def test_malformed_results_are_documented_errors(call: Call, service: FakeService, body: bytes) -> None:
    """Whatever the bytes are."""
    service.first.append(CannedResponse(200, body))
    with pytest.raises(OtoscopeError):
        call("result", "job0")


@pytest.mark.parametrize("value", ["\u00b2", "9" * 5_000, "-1", "1e9", "soon"])
def test_odd_pauses_are_ignored(call: Call, service: FakeService, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Retry-After is a number of seconds in ASCII digits, or the usual second is waited."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("otoscope.client.time", SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr("otoscope.client.anyio.sleep", pause)
    refused = problem(503, "not_ready")
    service.first.append(CannedResponse(503, refused.body, (*refused.headers, ("Retry-After", value))))
    assert call("limits").max_channels == 8
    (waited,) = pauses
    assert 1.0 <= waited <= 1.2


@pytest.mark.slow
def test_an_answer_that_drips_ends_with_the_timeout() -> None:
    """Every read is quick, and the whole would take hours."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.recv(10_000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.02)

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        with (
            Client(f"http://127.0.0.1:{server.getsockname()[1]}", timeout=0.3) as client,
            pytest.raises((ServiceUnreachable, WaitTimeout)),
        ):
            client.limits()
        assert time.monotonic() - began < 30
        thread.join()
