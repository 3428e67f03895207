"""The load generator against a small server over real HTTP: counts, and the start of latencies."""

import json
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from otoscope.errors import InvalidRequest
from otoscope.loadgen import LoadResult, Target, closed_loop, open_loop, run
from tests.support.tls import Authority, needs_tls

SLACK = 10  # factor on expected times, for a busy machine


class Server(socketserver.ThreadingTCPServer):
    """Answers every request with the next of `answers`, the last one repeatedly, after `delay` seconds."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]
        self.delay = 0.0
        self.lines: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.lock = threading.Lock()

    def next(self) -> bytes:
        with self.lock:
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        self.server.connections += 1
        while line := self.rfile.readline():
            self.server.lines.append(line)
            size = 0
            while (line := self.rfile.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    size = int(line.split(b":")[1])
            self.server.bodies.append(self.rfile.read(size))
            time.sleep(self.server.delay)
            answer = self.server.next()
            self.wfile.write(answer)
            if not answer:
                return


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def target(server: Server) -> Target:
    return Target("127.0.0.1", server.server_address[1], timeout=5)


def test_callers_keep_their_connections(server: Server, target: Target) -> None:
    """Three callers use three connections; the requests are sent in rotation with their whole bodies."""
    server.delay = 0.02
    requests = [target.request("POST", "/x", {"A": "b"}, bytes([n]) * 100_000) for n in range(4)]
    found = run(closed_loop(target, requests, callers=3, seconds=0.5, warm_up=0.1))
    assert server.connections == 3
    assert {body[:1] for body in server.bodies} == {bytes([n]) for n in range(4)}
    assert {len(body) for body in server.bodies} == {100_000}
    assert found.errors == 0
    assert found.throughput == len(found.latencies) / 0.5
    assert 0.02 <= found.percentile(50) < 0.02 * SLACK
    assert found.bytes == 2 * len(found.latencies)


@pytest.mark.slow
def test_errors_are_counted_by_kind(server: Server, target: Target) -> None:
    """Statuses, a broken connection, a response that is not HTTP; the loop continues with a new connection."""
    server.answers = [
        b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ]
    server.delay = 0.01
    found = run(closed_loop(target, [target.request("GET", "/")], callers=1, seconds=1.0, warm_up=0.0))
    assert found.outcomes["429"] == 1
    assert found.outcomes["IncompleteReadError"] == 1
    assert found.outcomes["ValueError"] == 1
    assert found.errors == 3
    assert len(found.latencies) > 3
    assert json.loads(json.dumps(found.summary()))["outcomes"]["200"] == len(found.latencies)


def test_an_absent_service_is_counted_as_errors() -> None:
    """At a limited rate."""
    found = run(closed_loop(Target("127.0.0.1", 9), [b"GET / HTTP/1.1\r\n\r\n"], callers=2, seconds=0.3, warm_up=0.0))
    assert found.throughput == 0
    assert 2 <= found.errors < 30
    assert str(found.percentile(50)) == "nan"


@needs_tls
def test_https_is_encrypted(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is verified before anything is sent; port and path are those of the URL."""
    authority = Authority(tmp_path, "ours")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("localhost"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_address[1]}/sounds/"

    def send() -> LoadResult:
        target = Target.of(url)
        return run(closed_loop(target, [target.request("GET", "/v1/models")], callers=1, seconds=1.0, warm_up=0.0))

    untrusted = send()
    assert untrusted.outcomes.keys() == {"SSLCertVerificationError"}
    assert server.lines == []
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    trusted = send()
    assert trusted.outcomes.keys() == {"200"}
    assert set(server.lines) == {b"GET /sounds/v1/models HTTP/1.1\r\n"}


def test_target_of_a_url() -> None:
    """The default port is that of the scheme; other schemes are refused."""
    assert [Target.of(url).port for url in ("http://a", "https://a", "https://a:8443")] == [80, 443, 8443]
    with pytest.raises(InvalidRequest):
        Target.of("ftp://a")


def test_a_stall_counts_at_a_fixed_rate(server: Server, target: Target) -> None:
    """Latency counts from the time at which a request was due; one without a free connection counts as unsent."""
    server.delay = 0.3
    found = run(open_loop(target, [target.request("GET", "/")], rate=20, seconds=0.5, max_connections=2))
    assert found.outcomes["200"] == len(found.latencies) >= 2
    assert found.outcomes["unsent"] == 10 - len(found.latencies)
    assert min(found.latencies) >= 0.29


def test_a_summary_is_in_milliseconds() -> None:
    """With three quantiles, as in reports."""
    summary = LoadResult(2.0, [0.01] * 99 + [0.5], Counter({"200": 100})).summary()
    assert summary == {"per_second": 50.0, "p50_ms": 10.0, "p95_ms": 10.0, "p99_ms": 14.9, "answers": 100, "errors": 0}


def test_the_command_reports_an_unreachable_service() -> None:
    """In one line, before any load."""
    command = [sys.executable, "-m", "otoscope", "bench", "--url", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "otoscope up" in done.stderr
    assert len(done.stderr.splitlines()) == 1
