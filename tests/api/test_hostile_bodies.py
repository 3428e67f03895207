"""Submissions that are hostile in what they carry: JSON, base64, forms, encodings and options, sent to a process."""

import base64
import gzip
from collections.abc import Iterator

import pytest

from tests.api.conftest import listening, wav
from tests.support.hostile_requests import FILE, Address, ask, multipart, refused, request

WAV = wav()
TEXT = base64.b64encode(WAV).decode()
RAW, JSON = ["Content-Type: audio/wav"], ["Content-Type: application/json"]
FORM = ["Content-Type: multipart/form-data; boundary=x"]


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with listening(upload_seconds=30) as address:
        yield address


def sound_and(more: str) -> bytes:
    return f'{{"audio_data": "{TEXT}", {more}}}'.encode()


JSONS: dict[str, tuple[bytes, int, str]] = {
    "parts a thousand deep": (sound_and(f'"include": {"[" * 1_000}{"]" * 1_000}'), 422, "invalid_request"),
    "a part a thousand deep": (sound_and(f'"include": ["maps", {"[" * 900}{"]" * 900}]'), 422, "invalid_request"),
    "a model a thousand deep": (sound_and(f'"model": {"[" * 1_000}{"]" * 1_000}'), 422, "invalid_request"),
    "a number a thousand deep": (sound_and(f'"top_k": {"[" * 1_000}{"]" * 1_000}'), 422, "invalid_request"),
    "objects a thousand deep": (sound_and('"x": ' + '{"x": ' * 900 + "1" + "}" * 900), 422, "invalid_request"),
    "a million deep": (b"[" * 1_000_000, 422, "invalid_request"),
    "the sound twice": (sound_and('"audio_data": ""'), 400, "audio_empty"),
    "an option twice": (sound_and('"top_k": 1, "top_k": 0'), 422, "invalid_request"),
    "not a number": (sound_and('"top_k": NaN'), 422, "invalid_request"),
    "infinity": (sound_and('"top_k": 1e999'), 422, "invalid_request"),
    "a number of thirty digits": (sound_and(f'"top_k": {"9" * 30}'), 422, "invalid_request"),
    "a number of 5,000 digits": (sound_and(f'"top_k": {"9" * 5_000}'), 422, "invalid_request"),
    "half a character": (sound_and('"model": "\\ud800"'), 422, "invalid_request"),
    "half a character for a name": (sound_and('"\\ud800": 1'), 422, "invalid_request"),
    "a zero byte": (sound_and('"model": "\\u0000"'), 404, "model_not_found"),
    "a model of 50 KB": (sound_and(f'"model": "{"a" * 50_000}"'), 404, "model_not_found"),
    "a layer of 50 KB": (sound_and(f'"layer": "{"a" * 50_000}"'), 422, "invalid_request"),
    "an option of 50 KB": (sound_and(f'"{"a" * 50_000}": 1'), 422, "invalid_request"),
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
def test_json_that_is_no_submission_is_refused(address: Address, name: str) -> None:
    """With a problem document of sensible size, whatever was sent."""
    body, status, code = JSONS[name]
    refused(ask(address, request("POST", "/v1/jobs", JSON, body)), status, code)


def test_text_may_hold_what_json_is_made_of(address: Address) -> None:
    """Commas and brackets in a name are no structure, as long as they are not hundreds."""
    body = sound_and(f'"model": "{",[{" * 80}"')
    refused(ask(address, request("POST", "/v1/jobs", JSON, body)), 404, "model_not_found")


@pytest.mark.parametrize("path", ["/v1/jobs", "/evaluate"])
@pytest.mark.parametrize("kind", ["audio/wav", "application/json", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])
def test_compressed_bodies_are_not_inflated(address: Address, path: str, kind: str, encoding: str) -> None:
    """A kilobyte could become a gigabyte: 415 says so before anybody looks into the body."""
    headers = [f"Content-Type: {kind}", f"Content-Encoding: {encoding}"]
    answer = ask(address, request("POST", path, headers, gzip.compress(WAV)))
    assert "Content-Encoding" in refused(answer, 415, "unsupported_media_type")


def test_identity_is_no_encoding(address: Address) -> None:
    """Who says that nothing was done to the body is believed."""
    assert ask(address, request("POST", "/v1/jobs", [*RAW, "Content-Encoding: identity"], WAV)).status == 202


EMPTY_PART = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
NESTED = FILE + "\r\nContent-Type: multipart/mixed; boundary=y"
FORMS: dict[str, tuple[bytes, int, str]] = {
    "half a million parts": (EMPTY_PART * 500_000 + b"--x--\r\n", 422, "invalid_request"),
    "a million headers of a part": (multipart((FILE + "\r\nX-A: b" * 1_000_000, WAV)), 422, "invalid_request"),
    "a header of 5 MB": (multipart((FILE + "\r\nX-A: " + "b" * 5_000_000, WAV)), 422, "invalid_request"),
    "line ends without end": (b"\r\n" * 5_000_000, 422, "invalid_request"),
    "something before the first part": (b"z" * 5_000_000 + multipart((FILE, WAV)), 422, "invalid_request"),
    "a form in the form": (multipart((NESTED, multipart((FILE, WAV)).replace(b"--x", b"--y"))), 415, "not_audio"),
    "boundaries that are none": (multipart((FILE, b"\r\n-\r\n--" * 1_000_000)), 415, "not_audio"),
    "a file name of 50 KB": (multipart((FILE.replace("a.wav", "a" * 50_000), WAV)), 422, "invalid_request"),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_that_are_no_submission_are_refused(address: Address, name: str) -> None:
    """In about the time that it takes to send them."""
    body, status, code = FORMS[name]
    refused(ask(address, request("POST", "/v1/jobs", FORM, body)), status, code)


HEADERS: dict[str, tuple[int, str]] = {
    "Prefer: wait=1e9": (202, ""),
    "Prefer: wait=" + "9" * 4_000: (202, ""),
    "Prefer: wait=\xff": (202, ""),
    "Prefer: wait=\xd9\xa1": (202, ""),  # a digit of another script
    "Prefer: " + "respond-async," * 4_000: (202, ""),
    "Accept: " + "*/*;q=0.1," * 6_000: (202, ""),
    "Accept: application/json;q=nan": (406, "not_acceptable"),
    "Accept: application/json;q=-1": (406, "not_acceptable"),
    "Accept: " + "a/b," * 10_000: (406, "not_acceptable"),
    "Accept: \xff": (406, "not_acceptable"),
    "Accept: ,": (202, ""),  # a list of nothing asks for nothing
    "Idempotency-Key: \xff\xfe": (202, ""),
    "Idempotency-Key: " + "k" * 257: (422, "invalid_request"),
    "Content-Type: audio/" + "x" * 50_000: (202, ""),
}


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header[:30])
def test_absurd_headers_of_a_submission(address: Address, header: str) -> None:
    """Each is ignored or refused, as it would be if it were sensible."""
    status, code = HEADERS[header]
    headers = [header] if header.startswith("Content-Type") else [*RAW, header]
    answer = ask(address, request("POST", "/v1/jobs", headers, WAV))
    if code:
        refused(answer, status, code)
    assert answer.status == status
