"""Requests with bytes that no normal client sends, to a gateway process."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from resource import RLIMIT_NOFILE, setrlimit

import pytest

from api.http.protocol import MAX_HEAD_BYTES, MIN_READ_BYTES
from tests.api.conftest import gateway_process, running_gateway, wav
from tests.support.http_requests import Address, refused, request, send_request
from tests.support.process_tree import until

UPLOAD_SECONDS = 2.0  # some tests wait for this timeout
WAV = wav()
RAW = ["Content-Type: audio/wav"]


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with gateway_process(UPLOAD_SECONDS) as address:
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
    "an unknown encoding": post("Transfer-Encoding: xchunked", SMUGGLED),
    "chunked inside another encoding": post("Transfer-Encoding: chunked, identity", SMUGGLED),
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
def test_ambiguous_requests_are_refused(address: Address, name: str) -> None:
    """400, the rest is not parsed as a second request (request smuggling), and the connection is closed."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(AMBIGUOUS[name])
        answer = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(65_536):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("what", ["many headers", "one header", "an address"])
def test_an_endless_head_is_cut_off(address: Address, what: str) -> None:
    """Long before it could fill the memory."""
    piece = {"many headers": b"X-A: b\r\n", "one header": b"a" * 8, "an address": b"/" * 8}[what] * 2_048
    begin = b"GET /" if what == "an address" else b"GET / HTTP/1.1\r\nX-A: "
    sent = 0
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(begin)
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 64 * 2**20:
                connection.sendall(piece)
                sent += len(piece)
    assert sent < 16 * 2**20  # the buffers of the sockets are filled before the client sees the end


@pytest.mark.parametrize("piece", [b"X-A: b\r\n", b"a" * 8], ids=["many trailers", "one trailer"])
def test_endless_trailers_are_cut_off(address: Address, piece: bytes) -> None:
    """The fields behind a chunked body, which nothing reads, take no memory and no time."""
    sent = 0
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(b"4\r\nRIFF\r\n0\r\nX-A: ")
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 64 * 2**20:
                connection.sendall(piece * 2_048)
                sent += len(piece) * 2_048
    assert sent < 16 * 2**20


def test_a_slow_head_is_cut_off(address: Address) -> None:
    """A connection that sends nothing, or a byte now and then, is closed after the upload timeout (Slowloris)."""
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


def test_a_client_that_never_reads_is_cut_off(address: Address) -> None:
    """Unread responses are buffered no longer than the upload timeout; a client that reads slowly gets everything."""
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


@pytest.mark.slow
def test_connections_beyond_the_descriptors_get_503() -> None:
    """The open ones are served as before, and a place that becomes free is given to the next one."""
    with (
        running_gateway(60, preexec=partial(setrlimit, RLIMIT_NOFILE, (256, 256))) as (address, _),
        ExitStack() as stack,
    ):
        idle = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(300)]
        statuses = []
        for connection in reversed(idle[-100:]):  # one that was refused has its answer already
            statuses.append(connection.recv(100).partition(b"\r\n")[0])
        assert set(statuses) == {b"HTTP/1.1 503 Service Unavailable"}
        idle[0].sendall(request("GET", "/health/live"))
        assert idle[0].recv(100).startswith(b"HTTP/1.1 200 ")
        idle[1].close()
        until(lambda: send_request(address, request("GET", "/health/live")).status == 200)


def trickle(connection: socket.socket, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        connection.sendall(b"G")
        time.sleep(0.1)


def test_a_connection_is_reused_for_several_requests(address: Address) -> None:
    """The limits are per request head, not per connection."""
    head = f"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A: {'a' * (MAX_HEAD_BYTES // 2)}\r\n\r\n".encode()
    with socket.create_connection(address, timeout=10) as connection:
        for _ in range(5):
            connection.sendall(b"\r\n" + head)
            answer = b""
            while not answer.endswith(b'{"status":"live"}'):
                answer += connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_links_never_contain_a_host_of_the_request(address: Address) -> None:
    """Neither from `Host` nor from the headers of a proxy."""
    evil = [
        "X-Forwarded-Host: evil.example", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: evil",
        "Forwarded: host=evil.example;proto=evil", "X-Original-URL: /evil", "X-HTTP-Method-Override: DELETE",
    ]  # fmt: skip
    submitted = send_request(
        address, request("POST", "/v1/jobs", [*RAW, *evil], WAV).replace(b"localhost", b"evil.example")
    )
    assert submitted.headers["location"].startswith("/v1/jobs/")
    paths = (submitted.headers["location"], "/v1/limits/", "/v1/jobs/", "/static", "/docs/", "/openapi.json", "/")
    for path in paths:
        answer = send_request(address, request("GET", path, evil).replace(b"localhost", b"evil.example"))
        assert answer.status in (200, 404), path
        assert b"evil" not in answer.body + repr(answer.headers).encode(), path
    absolute = send_request(
        address, b"GET http://evil.example/v1/limits HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert absolute.status == 200


def test_an_upgrade_is_ignored(address: Address) -> None:
    """Only a stream becomes a WebSocket: any other request is answered as plain HTTP."""
    upgrade = ["Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    upgrading = request("GET", "/v1/limits", upgrade).replace(b"Connection: close", b"Connection: upgrade, close")
    assert send_request(address, upgrading).status == 200


@pytest.mark.parametrize("version", ["HTTP/1.0", ""])
def test_http_1_0_and_0_9_are_answered(address: Address, version: str) -> None:
    """Without a version, a host or a header."""
    answer = send_request(address, f"GET /v1/limits {version}".strip().encode() + b"\r\n\r\n")
    assert json.loads(answer.body)["max_channels"] == 64
    assert answer.headers["connection"] == "close"


RANGES = (
    "bytes=0-3", "bytes=5-2", "bytes=-1,0-0,99999999999999999999-", "bytes=" + ",".join(["0-"] * 2_000),
    "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 4_000, 2)), "bytes=99999999-", "lines=1-2", "",
)  # fmt: skip


@pytest.mark.parametrize("ranges", RANGES, ids=lambda ranges: ranges[:30])
def test_range_requests_get_the_whole_file(address: Address, ranges: str) -> None:
    """200 with everything, and no `Accept-Ranges`; an invalid range is no error."""
    for path in ("/static/js/main.js", "/static/sounds/siren.flac", "/v1/limits"):
        whole = send_request(address, request("GET", path))
        answer = send_request(address, request("GET", path, [f"Range: {ranges}"]))
        assert (answer.status, answer.body) == (200, whole.body)
        assert answer.headers.get("accept-ranges", "none") == "none"


@pytest.mark.parametrize("last", ["0", "$", "18446744073709551616-0", "9" * 30 + "-0", "\xb2-\xb3", "0-0\xff", "-1-0"])
def test_hostile_event_ids_are_refused(address: Address, last: str) -> None:
    """They are not passed to Redis."""
    job = json.loads(send_request(address, request("POST", "/v1/jobs", RAW, WAV)).body)["id"]
    answer = send_request(address, request("GET", f"/v1/jobs/{job}/events", [f"Last-Event-ID: {last}"]))
    refused(answer, 422, "invalid_request")


NOWHERE = (
    "/static/%00", "/static/%ff%fe", "/static/" + "a" * 5_000, "/static/" + "a/" * 5_000, "//health/live", "/v1/jobs/*",
    "/v1/jobs/%00", "/v1/jobs/%0d%0aX-Evil:%201", "/v1/jobs/..%2f..%2fhealth%2flive", "/v1/models/%00",
)  # fmt: skip


@pytest.mark.parametrize("path", NOWHERE, ids=lambda path: path[:30])
def test_hostile_paths_are_404(address: Address, path: str) -> None:
    """No header can be injected; paths that traverse directories are in test_static_files.py."""
    answer = send_request(address, request("GET", path))
    assert answer.status == 404
    assert json.loads(answer.body)["code"] in ("not_found", "job_not_found", "model_not_found")
    assert "x-evil" not in answer.headers
