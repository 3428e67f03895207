"""Submissions in the forms that clients send, and the errors of forms that cannot be read."""

import base64
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.http.base64_text import decode_base64
from otoscope.errors import InvalidBase64
from tests.api.conftest import FakeWorker, wav

SOUND = wav(0.3)
TEXT = base64.b64encode(SOUND).decode()
BYTES = bytes(range(256)) * 3 + b"\xfb\xff"  # its base64 has every character, and padding


def part(headers: str, body: bytes, more: str = "") -> dict[str, Any]:
    """A multipart request whose only part has these headers."""
    content = f"--x\r\n{headers}\r\n\r\n".encode() + body + f"\r\n{more}--x--\r\n".encode()
    return {"content": content, "headers": {"content-type": "multipart/form-data; boundary=x"}}


def typed(media_type: str | None, body: bytes | str = SOUND) -> dict[str, Any]:
    return {"content": body, "headers": {"content-type": media_type} if media_type else {}}


ACCEPTED: dict[str, dict[str, Any]] = {
    "file without a file name": part("Content-Disposition: form-data; name=file", SOUND),
    "extended file name": part("Content-Disposition: form-data; name=file; filename*=utf-8''na%C3%AFve.wav", SOUND),
    "base64 as a form field": part('Content-Disposition: form-data; name="audio_data"', TEXT.encode()),
    "data URL in the field of the file": part(
        'Content-Disposition: form-data; name="file"', f"data:audio/wav;base64,{TEXT}".encode()
    ),
    "part in base64": part(
        'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Transfer-Encoding: base64',
        TEXT.encode(),
    ),
    "JSON with a byte order mark": typed("application/json", b"\xef\xbb\xbf" + b'{"audio_data": "%s"}' % TEXT.encode()),
    "JSON as a form, as curl -d sends it": typed("application/x-www-form-urlencoded", f'{{"audio_data": "{TEXT}"}}'),
    "urlencoded base64": {"data": {"audio_data": TEXT, "top_k": "2"}},
    "urlencoded base64, not escaped": typed("application/x-www-form-urlencoded", f"audio_data={TEXT}&top_k=2"),
    "file as a form, as curl --data-binary sends it": typed("application/x-www-form-urlencoded"),
    "no content type": typed(None),
    "unset options in JSON": {
        "json": {
            "audio_data": TEXT, "model": None, "layer": "undefined", "top_k": "null", "include": ["", None, "null"],
            "strict": "",
        },
    },
    "unset options in a form": {
        "files": {"file": SOUND}, "data": {"model": "", "top_k": "undefined", "layer": "null", "include": ""},
    },
    "unset options in the query": {
        "params": {"model": "null", "top_k": "", "include": ""}, **typed("audio/wav"),
    },
    "parts as an array": {"params": {"include[]": ["maps", "cam"]}, **typed("audio/wav")},
    **{
        media_type: typed(media_type)
        for media_type in (
            "application/ogg", "video/mp4", "video/webm;codecs=opus", "binary/octet-stream", "Audio/WAV", "text/plain",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_sound_is_read_as_it_was_sent(http: httpx2.Client, worker: FakeWorker, name: str) -> None:
    """In every form the same bytes reach the worker."""
    answer = http.post("/v1/jobs", **ACCEPTED[name])
    assert answer.status_code == 202, answer.text
    job = answer.json()
    work = worker.start(job["id"])
    assert work.audio == SOUND
    if name == "extended file name":
        assert job["audio"]["name"] == "naïve.wav"
    if name == "parts as an array":
        assert work.options.include == ("maps", "cam")
    if name.startswith("urlencoded"):
        assert work.options.top_k == 2
    if name.startswith("unset"):
        assert (work.options.top_k, work.options.layer, work.options.include) == (5, None, ())


REFUSED: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "forgotten @": ({"files": {"file": (None, "dog.wav")}}, 422, "invalid_request", "-F file=@dog.wav"),
    "@ inside the name": ({"files": {"file": (None, "@/tmp/dog")}}, 422, "invalid_request", "'@/tmp/dog'"),
    "a stringified object": ({"files": {"file": (None, "[object Object]")}}, 422, "invalid_request", "[object Object]"),
    "a path as the body": (typed("audio/wav", "sounds/dog bark.wav"), 422, "invalid_request", "'sounds/dog bark.wav'"),
    "a path in JSON": ({"json": {"audio_data": "C:\\dog.wav"}}, 422, "invalid_request", "dog.wav"),
    "an address in JSON": ({"json": {"audio_data": "https://x.org/a"}}, 422, "invalid_request", "audio_url"),
    "boundary missing": (typed("multipart/form-data", "--x"), 422, "invalid_request", "no boundary"),
    "curl -d @file": (
        typed("application/x-www-form-urlencoded", wav(0.9).translate(None, b"\r\n\0")), 422, "invalid_request",
        "--data-binary",
    ),
    "plus as space": (
        {"json": {"audio_data": base64.b64encode(BYTES).decode().replace("+", " ")}}, 400, "invalid_base64", "%2B",
    ),
    "data URL without base64": ({"json": {"audio_data": "data:audio/wav,RIFF"}}, 400, "invalid_base64", ";base64,"),
    "text": (typed("text/plain", "hello, world"), 415, "unsupported_media_type", "text/plain"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_refusal_names_what_was_sent(
    http: httpx2.Client, worker: FakeWorker, redis_keys: Callable[[], set[bytes]], name: str
) -> None:
    """A 4xx whose detail says what the request has instead of a sound; nothing is stored."""
    arguments, status, code, text = REFUSED[name]
    before = redis_keys()
    answer = http.post("/v1/jobs", **arguments)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert text in answer.json()["detail"]
    assert redis_keys() == before


STANDARD = base64.b64encode(BYTES).decode()
FORMS = {
    "standard": STANDARD,
    "URL-safe": base64.urlsafe_b64encode(BYTES).decode(),
    "without padding": STANDARD.rstrip("="),
    "URL-safe without padding": base64.urlsafe_b64encode(BYTES).decode().rstrip("="),
    "percent-encoded": STANDARD.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
    "lines": base64.encodebytes(BYTES).decode(),
    "lines joined by spaces": base64.encodebytes(BYTES).decode().replace("\n", " "),
    "data URL": f"data:audio/wav;base64,{STANDARD}",
    "DATA URL": f"DATA:audio/webm;codecs=\"opus, mp4a\";BASE64,{STANDARD}",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_base64(form: str) -> None:
    """Every form that encoders produce is decoded to the same bytes."""
    assert decode_base64(FORMS[form], 10_000) == BYTES


def test_lost_plus_is_not_taken_for_whitespace() -> None:
    """Without its `+` the text would be shorter base64 of something else."""
    for body in (b"\xfb\xef" * 5, b"abc\xfb\xef" * 9, b"abcdefghi\xfb\xe0"):
        encoded = base64.b64encode(body).decode()
        assert "+" in encoded
        with pytest.raises(InvalidBase64, match="%2B"):
            decode_base64(encoded.replace("+", " "), 10_000)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("unset", [None, "", "null"])
def test_an_unset_option_of_the_body_leaves_that_of_the_query(http: httpx2.Client, unset: str | None) -> None:
    """It is absent there, and not set to the server's choice."""
    sent = {"audio_data": TEXT, "model": unset}
    answer = http.post("/v1/jobs?model=missing", json=sent)
    assert answer.status_code == 404, answer.text


@pytest.mark.parametrize("path", ["result", "detections", "spectrogram.png", ""])
def test_unset_query_parameters_of_every_route(http: httpx2.Client, worker: FakeWorker, path: str) -> None:
    """An empty value or `null` counts as an absent parameter."""
    job_id = http.post("/v1/jobs?include=detections,spectrogram", **typed("audio/wav")).json()["id"]
    worker.finish(job_id)
    for value in ("", "null", "undefined"):
        answer = http.get(
            f"/v1/jobs/{job_id}/{path}".rstrip("/"), params=dict.fromkeys(("wait", "width", "format"), value)
        )
        assert answer.status_code == 200, answer.text


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(http: httpx2.Client, worker: FakeWorker, tmp_path: Path) -> None:
    """The four ways to send a file with curl, and the two that damage or omit it."""
    (tmp_path / "dog.wav").write_bytes(SOUND)
    for arguments, status in (
        (["-F", "file=@dog.wav"], "202"), (["--data-binary", "@dog.wav"], "202"), (["-F", "file=<dog.wav"], "202"),
        (["--json", f'{{"audio_data": "{TEXT}", "top_k": null}}'], "202"), (["-d", "@dog.wav"], "422"),
        (["-F", "file=dog.wav"], "422"), (["-d", "dog.wav"], "422"),
    ):  # fmt: skip
        done = subprocess.run(
            ["curl", "-s", "-o", "answer", "-w", "%{http_code}", *arguments, f"{http.base_url}/v1/jobs"],
            cwd=tmp_path, capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
        assert done.stdout == status, (arguments, (tmp_path / "answer").read_text())
