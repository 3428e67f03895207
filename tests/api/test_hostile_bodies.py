"""Submissions with hostile bodies: JSON, base64, forms, encodings and options, sent to a gateway process."""

import base64
import gzip
from collections.abc import Iterator

import pytest

from tests.api.conftest import gateway_process, wav
from tests.support.http_requests import FILE, Address, multipart, refused, request, send_request

WAV = wav()
TEXT = base64.b64encode(WAV).decode()
RAW, JSON = ["Content-Type: audio/wav"], ["Content-Type: application/json"]
FORM = ["Content-Type: multipart/form-data; boundary=x"]


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with gateway_process(upload_seconds=30) as address:
        yield address


def sound_with(more: str) -> bytes:
    return f'{{"audio_data": "{TEXT}", {more}}}'.encode()


JSONS: dict[str, tuple[bytes, int, str]] = {
    "parts a thousand deep": (sound_with(f'"include": {"[" * 1_000}{"]" * 1_000}'), 422, "invalid_request"),
    "a part a thousand deep": (sound_with(f'"include": ["maps", {"[" * 900}{"]" * 900}]'), 422, "invalid_request"),
    "a model a thousand deep": (sound_with(f'"model": {"[" * 1_000}{"]" * 1_000}'), 422, "invalid_request"),
    "a number a thousand deep": (sound_with(f'"top_k": {"[" * 1_000}{"]" * 1_000}'), 422, "invalid_request"),
    "objects a thousand deep": (sound_with('"x": ' + '{"x": ' * 900 + "1" + "}" * 900), 422, "invalid_request"),
    "a million deep": (b"[" * 1_000_000, 422, "invalid_request"),
    "the sound twice": (sound_with('"audio_data": ""'), 400, "audio_empty"),
    "an option twice": (sound_with('"top_k": 1, "top_k": 0'), 422, "invalid_request"),
    "not a number": (sound_with('"top_k": NaN'), 422, "invalid_request"),
    "infinity": (sound_with('"top_k": 1e999'), 422, "invalid_request"),
    "a number of thirty digits": (sound_with(f'"top_k": {"9" * 30}'), 422, "invalid_request"),
    "a number of 5,000 digits": (sound_with(f'"top_k": {"9" * 5_000}'), 422, "invalid_request"),
    "half a character": (sound_with('"model": "\\ud800"'), 422, "invalid_request"),
    "half a character for a name": (sound_with('"\\ud800": 1'), 422, "invalid_request"),
    "a zero byte": (sound_with('"model": "\\u0000"'), 404, "model_not_found"),
    "a model of 50 KB": (sound_with(f'"model": "{"a" * 50_000}"'), 404, "model_not_found"),
    "a layer of 50 KB": (sound_with(f'"layer": "{"a" * 50_000}"'), 422, "invalid_request"),
    "an option of 50 KB": (sound_with(f'"{"a" * 50_000}": 1'), 422, "invalid_request"),
    "a megabyte of padding": (f'{{"audio_data": "{TEXT}{"=" * 10**6}"}}'.encode(), 400, "invalid_base64"),
    "padding alone": (f'{{"audio_data": "{"=" * 10**6}"}}'.encode(), 400, "invalid_base64"),
    "blanks alone": (f'{{"audio_data": "{" " * 10**6}"}}'.encode(), 400, "audio_empty"),
    "more than a sound may be": (f'{{"audio_data": "{"A" * 45_000_000}"}}'.encode(), 413, "payload_too_large"),
    "blanks beyond the limit": (f'{{"audio_data": "{" " * 48_000_000}"}}'.encode(), 413, "payload_too_large"),
    "fourteen million objects": (b'{"audio_data": "", "x": [{}' + b",{}" * 14_000_000 + b"]}", 422, "invalid_request"),
    "twenty million lists": (b'{"audio_data": "", "x": ' + b"[" * 20_000_000, 422, "invalid_request"),
    "ten million words": (f'{{"audio_data": "{"AAA " * 10_000_000}"}}'.encode(), 415, "not_audio"),
    "UTF-16": ('{"audio_data": ""}'.encode("utf-16"), 422, "invalid_request"),
}


@pytest.mark.parametrize("name", JSONS)
def test_hostile_json_is_refused(address: Address, name: str) -> None:
    """With a problem document of limited size."""
    body, status, code = JSONS[name]
    refused(send_request(address, request("POST", "/v1/jobs", JSON, body)), status, code)


def test_strings_may_contain_json_syntax(address: Address) -> None:
    """Commas and brackets in a string are no structure, up to some hundreds of them."""
    body = sound_with(f'"model": "{",[{" * 80}"')
    refused(send_request(address, request("POST", "/v1/jobs", JSON, body)), 404, "model_not_found")


@pytest.mark.parametrize("path", ["/v1/jobs", "/evaluate"])
@pytest.mark.parametrize("kind", ["audio/wav", "application/json", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])
def test_compressed_bodies_are_not_decompressed(address: Address, path: str, kind: str, encoding: str) -> None:
    """A kilobyte could become a gigabyte: 415 before the body is read."""
    headers = [f"Content-Type: {kind}", f"Content-Encoding: {encoding}"]
    answer = send_request(address, request("POST", path, headers, gzip.compress(WAV)))
    assert "Content-Encoding" in refused(answer, 415, "unsupported_media_type")


def test_content_encoding_identity_is_accepted(address: Address) -> None:
    """It means that the body is not encoded."""
    assert send_request(address, request("POST", "/v1/jobs", [*RAW, "Content-Encoding: identity"], WAV)).status == 202


EMPTY_PART = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
NESTED = FILE + "\r\nContent-Type: multipart/mixed; boundary=y"
FORMS: dict[str, tuple[bytes, int, str]] = {
    "half a million parts": (EMPTY_PART * 500_000 + b"--x--\r\n", 422, "invalid_request"),
    "a million headers of a part": (multipart((FILE + "\r\nX-A: b" * 1_000_000, WAV)), 422, "invalid_request"),
    "a header of 5 MB": (multipart((FILE + "\r\nX-A: " + "b" * 5_000_000, WAV)), 422, "invalid_request"),
    "line ends without end": (b"\r\n" * 5_000_000, 422, "invalid_request"),
    "something before the first part": (b"z" * 5_000_000 + multipart((FILE, WAV)), 422, "invalid_request"),
    "a form in the form": (
        multipart((NESTED, multipart((f"{FILE}\r\nX-A: {'b' * 5_000}", WAV)).replace(b"--x", b"--y"))),
        415,
        "not_audio",
    ),
    "boundaries that are none": (multipart((FILE, b"\r\n-\r\n--" * 1_000_000)), 415, "not_audio"),
    "a file name of 50 KB": (multipart((FILE.replace("a.wav", "a" * 50_000), WAV)), 422, "invalid_request"),
}


@pytest.mark.parametrize("name", FORMS)
def test_hostile_forms_are_refused(address: Address, name: str) -> None:
    """In about the time that it takes to send them."""
    body, status, code = FORMS[name]
    refused(send_request(address, request("POST", "/v1/jobs", FORM, body)), status, code)


HEADERS: dict[str, tuple[int, str]] = {
    "Prefer: wait=1e9": (202, ""),
    "Prefer: wait=" + "9" * 4_000: (202, ""),
    "Prefer: wait=\xff": (202, ""),
    "Prefer: wait=\xd9\xa1": (202, ""),  # a digit that is not ASCII
    "Prefer: " + "respond-async," * 4_000: (202, ""),
    "Accept: " + "*/*;q=0.1," * 6_000: (202, ""),
    "Accept: application/json;q=nan": (406, "not_acceptable"),
    "Accept: application/json;q=-1": (406, "not_acceptable"),
    "Accept: " + "a/b," * 10_000: (406, "not_acceptable"),
    "Accept: \xff": (406, "not_acceptable"),
    "Accept: ,": (202, ""),  # an empty list
    "Idempotency-Key: \xff\xfe": (202, ""),
    "Idempotency-Key: " + "k" * 257: (422, "invalid_request"),
    "Content-Type: audio/" + "x" * 50_000: (202, ""),
}


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header[:30])
def test_hostile_headers_of_a_submission(address: Address, header: str) -> None:
    """Each is ignored or refused, like a normal invalid value."""
    status, code = HEADERS[header]
    headers = [header] if header.startswith("Content-Type") else [*RAW, header]
    answer = send_request(address, request("POST", "/v1/jobs", headers, WAV))
    if code:
        refused(answer, status, code)
    assert answer.status == status
