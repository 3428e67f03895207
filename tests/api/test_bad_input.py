"""Requests that must be refused: a clear problem document, and nothing stored in Redis."""

import asyncio
import base64
import json
import socket
import struct
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest

from otoscope.types import Problem
from tests.api.conftest import FakeWorker, wav
from tests.support.sounds import flac_of_silence

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def header_of(frames: int, rate: int = 8_000, channels: int = 1, *, tag: int = 1, bits: int = 16) -> bytes:
    """A WAV header that claims that many frames, followed by 100 bytes of samples."""
    block = max(channels * bits // 8, 1)
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, tag, channels, rate, rate * block, block, bits)
    size = min(frames * block, 0xFFFFFFFF)
    return b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + fmt + b"data" + struct.pack("<I", size) + bytes(100)


def flac_claiming(frames: int) -> bytes:
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + ((8_000 << 44) | (15 << 36) | frames).to_bytes(8, "big")
    return b"fLaC" + b"\x80" + (34).to_bytes(3, "big") + info + bytes(16)


BODIES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "audio_empty"),
    "text": (b"hello, world", 415, "not_audio"),
    "image": (PNG, 415, "not_audio"),
    "truncated WAV": (wav()[:4_000], 422, "audio_truncated"),
    "WAV that claims 4 GB, as one from a pipe": (header_of(2**31), 422, "audio_too_short"),
    "FLAC that expands to hours": (flac_claiming(8_000 * 3_600 * 10), 422, "audio_too_long"),
    "FLAC of 2^36 frames": (flac_claiming(2**36 - 1), 422, "audio_too_long"),
    "no channels": (header_of(10, channels=0), 422, "audio_channels"),
    "sixty-five channels": (wav(0.1, channels=65), 422, "audio_channels"),
    "one sample": (wav(1 / 8_000), 422, "audio_too_short"),
    "no samples": (wav(0), 400, "audio_empty"),
    "two hours and a minute": (flac_of_silence(7_260, 4_000, 1), 422, "audio_too_long"),
    "1 Hz": (header_of(40, rate=1), 422, "audio_rate"),
    "ATRAC3 in WAV": (header_of(40, tag=0x0270), 415, "audio_unsupported"),
    "header cut short": (wav()[:30], 422, "audio_truncated"),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("form", ["raw", "multipart", "base64"])
def test_bad_sound_is_refused_at_once(
    http: httpx2.Client, worker: FakeWorker, redis_keys: Callable[[], set[bytes]], name: str, form: str
) -> None:
    """In every form of a submission: the same code, and nothing in Redis. A cut sound is refused with `strict`."""
    body, status, code = BODIES[name]
    before = redis_keys()
    if form == "raw":
        answer = http.post("/v1/jobs?strict=true", content=body, headers={"content-type": "audio/wav"})
    elif form == "multipart":
        answer = http.post("/v1/jobs", files={"file": ("x.wav", body)}, data={"strict": "true"})
    else:
        answer = http.post("/v1/jobs", json={"audio_data": base64.b64encode(body).decode(), "strict": True})
    refused(answer, status, code)
    assert redis_keys() == before


def refused(answer: httpx2.Response, status: int, code: str) -> Problem:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = Problem.model_validate(answer.json())
    assert (answer.status_code, problem.code) == (status, code), problem.detail
    assert problem.status == status
    assert 10 < len(problem.detail) < 1_000
    return problem


def test_line_breaks_in_base64_do_not_count_towards_the_limit(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker
) -> None:
    """Base64 with line breaks, as MIME encoders make it, takes a sixteenth more in JSON and is still accepted."""
    sound = wav(125.0)
    http = start_gateway(max_upload_bytes=len(sound))
    lines = base64.encodebytes(sound).decode().replace("\n", "\r\n")
    assert http.post("/v1/jobs", json={"audio_data": lines}).status_code == 202
    longer = base64.encodebytes(sound + b"\0").decode()
    refused(http.post("/v1/jobs", json={"audio_data": longer}), 413, "payload_too_large")


REQUESTS: dict[str, tuple[dict[str, object], int, str]] = {
    "broken base64": ({"json": {"audio_data": "UklGR*=="}}, 400, "invalid_base64"),
    "base64 with one character too many": ({"json": {"audio_data": "UklGRA=A"}}, 400, "invalid_base64"),
    "not base64 but non-latin text": ({"json": {"audio_data": "звук"}}, 400, "invalid_base64"),
    "audio_data is a number": ({"json": {"audio_data": 7}}, 422, "invalid_request"),
    "audio_data is missing": ({"json": {}}, 422, "invalid_request"),
    "a list": ({"json": []}, 422, "invalid_request"),
    "broken JSON": (
        {"content": b"{", "headers": {"content-type": "application/json"}}, 422, "invalid_request",
    ),
    "JSON a hundred thousand deep": (
        {"content": b'{"a":' * 100_000, "headers": {"content-type": "application/json"}}, 422, "invalid_request",
    ),
    "two files": ({"files": [("file", wav()), ("file", wav())]}, 422, "invalid_request"),
    "three files": ({"files": [("file", wav())] * 3}, 422, "invalid_request"),
    "file under another name": ({"files": {"sound": wav()}}, 422, "invalid_request"),
    "no file": ({"files": {"file": (None, "text")}}, 422, "invalid_request"),
    "multipart without boundary": (
        {"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 422, "invalid_request",
    ),
    "multipart cut off": (
        {"content": b"--x\r\nContent-Disp", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        422, "invalid_request",
    ),
    "a form": ({"data": {"file": "x"}}, 415, "unsupported_media_type"),
    "no content type, and text": ({"content": b"hello"}, 415, "not_audio"),
    "content type of another file": (
        {"content": PNG, "headers": {"content-type": "image/png"}}, 415, "unsupported_media_type",
    ),
    "unknown model": ({"files": {"file": wav()}, "data": {"model": "nope"}}, 404, "model_not_found"),
    "unknown option": ({"files": {"file": wav()}, "data": {"colour": "red"}}, 422, "invalid_request"),
    "unknown part": ({"files": {"file": wav()}, "data": {"include": "none"}}, 422, "invalid_request"),
    "top_k of nothing": ({"files": {"file": wav()}, "data": {"top_k": "0"}}, 422, "invalid_request"),
    "top_k of words": ({"files": {"file": wav()}, "data": {"top_k": "many"}}, 422, "invalid_request"),
    "ten thousand options": (
        {"json": {"audio_data": base64.b64encode(wav()).decode(), **{f"option{n}": n for n in range(10_000)}}},
        422, "invalid_request",
    ),
    "ten thousand parts": (
        {"json": {"audio_data": base64.b64encode(wav()).decode(), "include": ["maps"] * 10_000}},
        422, "invalid_request",
    ),
    "endless idempotency key": (
        {"files": {"file": wav()}, "headers": {"Idempotency-Key": "k" * 300}}, 422, "invalid_request",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_bad_request_is_refused_at_once(
    http: httpx2.Client, worker: FakeWorker, redis_keys: Callable[[], set[bytes]], name: str
) -> None:
    """A fault of the request around the sound: a stable code, and nothing in Redis."""
    arguments, status, code = REQUESTS[name]
    before = redis_keys()
    refused(http.post("/v1/jobs", **arguments), status, code)  # type: ignore[arg-type]
    assert redis_keys() == before


def test_message_says_what_was_found_and_what_is_accepted(http: httpx2.Client, worker: FakeWorker) -> None:
    """An image is recognised as one, and the message lists the accepted formats."""
    answer = http.post("/v1/jobs", files={"file": ("cat.wav", PNG)})
    detail = refused(answer, 415, "not_audio").detail
    assert "PNG image" in detail
    assert "FLAC" in detail


def test_not_finite_samples_are_left_to_the_decoder(http: httpx2.Client, worker: FakeWorker) -> None:
    """NaN is found by decoding only: accepted here, failed by the worker with its code (tests/e2e)."""
    samples = np.full(8_000, np.nan, "<f4").tobytes()
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, 8_000, 32_000, 4, 32)
    body = b"RIFF" + struct.pack("<I", 36 + len(samples)) + b"WAVE" + fmt + b"data"
    answer = http.post("/v1/jobs", files={"file": body + struct.pack("<I", len(samples)) + samples})
    assert answer.status_code == 202


@pytest.mark.parametrize("form", ["raw", "multipart", "base64"])
def test_upload_over_the_limit_is_413(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker, form: str
) -> None:
    """The limit applies to the sound, in every form of a submission, and not to the encoded body."""
    http = start_gateway(max_upload_bytes=50_000)
    fits, over, far = wav(3.1), wav(3.2), wav(20.0)
    assert len(fits) < 50_000 < len(over)
    for body, status in ((fits, 202), (over, 413), (far, 413)):
        if form == "raw":
            answer = http.post("/v1/jobs", content=body, headers={"content-type": "audio/wav"})
        elif form == "multipart":
            answer = http.post("/v1/jobs", files={"file": body})
        else:
            answer = http.post("/v1/jobs", json={"audio_data": base64.b64encode(body).decode()})
        assert answer.status_code == status, answer.text
        if status == 413:
            assert "50,000 bytes" in refused(answer, 413, "payload_too_large").detail


def raw_request(http: httpx2.Client, head: str) -> socket.socket:
    connection = socket.create_connection((urlsplit(str(http.base_url)).hostname, http.base_url.port), timeout=20)
    lines = ("POST /v1/jobs HTTP/1.1", "Host: localhost", "Content-Type: audio/wav", head, "", "")
    connection.sendall("\r\n".join(lines).encode())
    return connection


def test_declared_length_over_the_limit_is_refused_before_the_body(http: httpx2.Client, worker: FakeWorker) -> None:
    """A declared gigabyte is refused without reading it."""
    with raw_request(http, "Content-Length: 1000000000") as connection:
        assert b" 413 " in connection.recv(65_536)


def test_chunked_body_is_cut_off_at_the_limit(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> None:
    """A body without a declared length is counted while it is received."""
    http = start_gateway(max_upload_bytes=50_000)
    with raw_request(http, "Transfer-Encoding: chunked") as connection:
        chunk = b"2710\r\n" + bytes(10_000) + b"\r\n"
        for _ in range(6):
            connection.sendall(chunk)
        assert b" 413 " in connection.recv(65_536)


def test_slow_body_is_cut_off(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> None:
    """A client that never completes its body gets 408 after the timeout."""
    http = start_gateway(upload_seconds=0.3)
    with raw_request(http, "Content-Length: 1000") as connection:
        connection.sendall(b"RIFF")
        answer = b""
        while b"}" not in answer:
            answer += connection.recv(65_536)
        assert b" 408 " in answer
        assert b"request_timeout" in answer


def test_unknown_paths_methods_and_values_are_problem_documents(http: httpx2.Client) -> None:
    """404, 405, 422 and 503."""
    refused(http.get("/nothing/here"), 404, "not_found")
    refused(http.put("/v1/jobs"), 405, "method_not_allowed")
    for wait in ("-1", "soon", "nan", "1,5"):
        refused(http.get(f"/v1/jobs/abc?wait={wait}"), 422, "invalid_request")
    refused(http.get("/v1/models/nope"), 503, "not_ready")


def test_an_unexpected_exception_is_a_500_problem_without_traceback(
    settings: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response has the code `internal_error`; the exception is in the log only."""
    from api.main import create_app
    from api.service import Gateway
    from shared.config.settings import Settings

    assert isinstance(settings, Settings)

    async def broken(self: Gateway) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Gateway, "readiness", broken)

    async def ask() -> httpx2.Response:
        app = create_app(settings)
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://x") as http,
        ):
            return await http.get("/health/ready")

    answer = asyncio.run(ask())
    refused(answer, 500, "internal_error")
    assert "secret" not in json.dumps(answer.json())
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_the_spectrogram_of_a_long_sound_is_refused(http: httpx2.Client, worker: FakeWorker) -> None:
    """Before it is queued where the header has a duration: the spectrogram of the whole, and of nothing else."""
    eleven_minutes = wav(660, 4_000)
    refused = http.post(
        "/v1/jobs?include=full_spectrogram", content=eleven_minutes, headers={"Content-Type": "audio/wav"}
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert "up to 600 s" in refused.json()["detail"]
    accepted = http.post("/v1/jobs?include=spectrogram", content=eleven_minutes, headers={"Content-Type": "audio/wav"})
    assert accepted.status_code == 202
    assert accepted.json()["audio"]["duration"] == 660
