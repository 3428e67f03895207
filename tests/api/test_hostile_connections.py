"""Requests whose bytes no client would send, at a gateway that runs as it does in earnest: as a process."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from api.http.protocol import MAX_HEAD_BYTES, MIN_READ_BYTES
from tests.api.conftest import listening, wav
from tests.support.hostile_requests import Address, ask, refused, request

UPLOAD_SECONDS = 2.0  # which some tests wait for
WAV = wav()
RAW = ["Content-Type: audio/wav"]


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with listening(UPLOAD_SECONDS) as address:
        yield address


def post(head: str, body: bytes = b"") -> bytes:
    return f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n{head}\r\n\r\n".encode() + body


SIZE = f"Content-Length: {len(WAV)}"
CHUNKED = "Transfer-Encoding: chunked"
SMUGGLED = b"0\r\n\r\nGET /v1/limits HTTP/1.1\r\n\r\n"

AMBIGUOUS: dict[str, bytes] = {
    "a length and chunks": post(f"{SIZE}\r\n{CHUNKED}", SMUGGLED),
    "chunks and a length": post(f"{CHUNKED}\r\nContent-Length: 5", SMUGGLED),
    "two lengths": post(f"{SIZE}\r\nContent-Length: 4", WAV),
    "the same length twice": post(f"{SIZE}\r\n{SIZE}", WAV),
    "a list of lengths": post(f"{SIZE}, {len(WAV)}", WAV),
    "a length with a sign": post(f"Content-Length: +{len(WAV)}", WAV),
    "a length below nothing": post("Content-Length: -1", WAV),
    "a length beyond numbers": post(f"Content-Length: {10**30}", WAV),
    "an encoding nobody knows": post("Transfer-Encoding: xchunked", SMUGGLED),
    "chunks inside of something": post("Transfer-Encoding: chunked, identity", SMUGGLED),
    "a space before the colon": post("Transfer-Encoding : chunked", SMUGGLED),
    "a folded header": post(f"X-A: b\r\n  {CHUNKED}\r\n{SIZE}", WAV),
    "bare line feeds": post(SIZE).replace(b"\r\n", b"\n") + WAV,
    "a bare carriage return": post(f"X-A: a\rContent-Length: 4\r\n{SIZE}", WAV),
    "a zero byte": post(f"X-A: a\0b\r\n{SIZE}", WAV),
    "a chunk beyond numbers": post(CHUNKED, b"FFFFFFFFFFFFFFFFFF\r\n" + WAV),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "an address of 100 KB": request("GET", "/v1/models/" + "a" * 100_000),
    "an address of other bytes": request("GET", "/\x80\xff"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_could_be_read_in_two_ways_is_not_read(address: Address, name: str) -> None:
    """400, nothing behind it is taken for a second request, and the connection is closed."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(AMBIGUOUS[name])
        answer = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(65_536):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("what", ["many headers", "one header", "an address"])
def test_a_head_without_an_end_is_cut_off(address: Address, what: str) -> None:
    """However it goes on: long before it could fill the memory."""
    piece = {"many headers": b"X-A: b\r\n", "one header": b"a" * 8, "an address": b"/" * 8}[what] * 2_048
    begin = b"GET /" if what == "an address" else b"GET / HTTP/1.1\r\nX-A: "
    sent = 0
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(begin)
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 64 * 2**20:
                connection.sendall(piece)
                sent += len(piece)
    assert sent < 16 * 2**20  # what the sockets hold is sent before the end is seen


def test_a_head_that_takes_its_time_is_cut_off(address: Address) -> None:
    """A connection that says nothing, or a byte now and then, is held no longer than a slow upload is."""
    began = time.monotonic()
    with socket.create_connection(address, timeout=10) as silent, socket.create_connection(address) as slow:
        for piece in b"GET / HT":
            with suppress(BrokenPipeError, ConnectionResetError):
                slow.sendall(bytes([piece]))
            time.sleep(UPLOAD_SECONDS / 5)
        assert b" 408 " in silent.recv(4_096)
        slow.settimeout(10)
        assert b" 408 " in slow.recv(4_096)
    assert time.monotonic() - began < 3 * UPLOAD_SECONDS


def test_who_never_reads_is_cut_off(address: Address) -> None:
    """Answers that nobody takes are held no longer than an upload may take; who reads slowly gets all of it."""
    many = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 300
    with socket.socket() as idle, socket.socket() as slow:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        for connection in (idle, slow):
            connection.connect(address)
            connection.settimeout(5)
            connection.sendall(many)
        began, taken = time.monotonic(), 0
        while time.monotonic() - began < 3 * UPLOAD_SECONDS:
            taken += len(slow.recv(2 * MIN_READ_BYTES))
            time.sleep(0.1)
        assert taken > 3 * MIN_READ_BYTES
        slow.sendall(b"G")
        with pytest.raises(ConnectionError):
            trickle(idle, seconds=5)


def trickle(connection: socket.socket, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        connection.sendall(b"G")
        time.sleep(0.1)


def test_a_connection_is_kept_for_several_requests(address: Address) -> None:
    """The limits are a head's, not a connection's: heads that are larger together are all answered."""
    head = f"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A: {'a' * (MAX_HEAD_BYTES // 2)}\r\n\r\n".encode()
    with socket.create_connection(address, timeout=10) as connection:
        for _ in range(5):
            connection.sendall(b"\r\n" + head)
            answer = b""
            while not answer.endswith(b'{"status":"live"}'):
                answer += connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_links_lead_to_where_they_were_asked_for(address: Address) -> None:
    """Whatever host the request or a proxy names: nothing that is answered repeats it."""
    evil = [
        "X-Forwarded-Host: evil.example", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: evil",
        "Forwarded: host=evil.example;proto=evil", "X-Original-URL: /evil", "X-HTTP-Method-Override: DELETE",
    ]  # fmt: skip
    submitted = ask(address, request("POST", "/v1/jobs", [*RAW, *evil], WAV).replace(b"localhost", b"evil.example"))
    assert submitted.headers["location"].startswith("/v1/jobs/")
    paths = (submitted.headers["location"], "/v1/limits/", "/v1/jobs/", "/static", "/docs/", "/openapi.json", "/")
    for path in paths:
        answer = ask(address, request("GET", path, evil).replace(b"localhost", b"evil.example"))
        assert answer.status in (200, 404), path
        assert b"evil" not in answer.body + repr(answer.headers).encode(), path
    absolute = ask(address, b"GET http://evil.example/v1/limits HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert absolute.status == 200


def test_an_upgrade_is_not_made(address: Address) -> None:
    """Nothing here speaks WebSocket: the request is answered as if it had not asked for it."""
    upgrade = ["Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    asked = request("GET", "/v1/limits", upgrade).replace(b"Connection: close", b"Connection: upgrade, close")
    assert ask(address, asked).status == 200


@pytest.mark.parametrize("version", ["HTTP/1.0", ""])
def test_clients_of_another_age_are_answered(address: Address, version: str) -> None:
    """Without a version, a host or a header."""
    answer = ask(address, f"GET /v1/limits {version}".strip().encode() + b"\r\n\r\n")
    assert json.loads(answer.body)["max_channels"] == 8
    assert answer.headers["connection"] == "close"


RANGES = (
    "bytes=0-3", "bytes=5-2", "bytes=-1,0-0,99999999999999999999-", "bytes=" + ",".join(["0-"] * 2_000),
    "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 4_000, 2)), "bytes=99999999-", "lines=1-2", "",
)  # fmt: skip


@pytest.mark.parametrize("ranges", RANGES, ids=lambda ranges: ranges[:30])
def test_everything_is_sent_whole(address: Address, ranges: str) -> None:
    """Who asks for a part of a file gets all of it, once, and is told so; what is no part is no failure."""
    for path in ("/static/js/main.js", "/static/sounds/siren.flac", "/v1/limits"):
        whole = ask(address, request("GET", path))
        answer = ask(address, request("GET", path, [f"Range: {ranges}"]))
        assert (answer.status, answer.body) == (200, whole.body)
        assert answer.headers.get("accept-ranges", "none") == "none"


@pytest.mark.parametrize("last", ["0", "$", "18446744073709551616-0", "9" * 30 + "-0", "\xb2-\xb3", "0-0\xff", "-1-0"])
def test_absurd_event_ids_are_refused(address: Address, last: str) -> None:
    """They would go to Redis."""
    job = json.loads(ask(address, request("POST", "/v1/jobs", RAW, WAV)).body)["id"]
    answer = ask(address, request("GET", f"/v1/jobs/{job}/events", [f"Last-Event-ID: {last}"]))
    refused(answer, 422, "invalid_request")


NOWHERE = (
    "/static/%00", "/static/%ff%fe", "/static/" + "a" * 5_000, "/static/" + "a/" * 5_000, "//health/live", "/v1/jobs/*",
    "/v1/jobs/%00", "/v1/jobs/%0d%0aX-Evil:%201", "/v1/jobs/..%2f..%2fhealth%2flive", "/v1/models/%00",
)  # fmt: skip


@pytest.mark.parametrize("path", NOWHERE, ids=lambda path: path[:30])
def test_paths_that_lead_nowhere(address: Address, path: str) -> None:
    """404, and no header can be put into the answer; those that lead out of a directory are in test_page.py."""
    answer = ask(address, request("GET", path))
    assert answer.status == 404
    assert json.loads(answer.body)["code"] in ("not_found", "job_not_found", "model_not_found")
    assert "x-evil" not in answer.headers
