"""`otoscope listen` as a program, and the client: a source that is silent holds up no end."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer

import httpx2
import pytest

from otoscope import Client
from otoscope.errors import ModelNotFound
from tests.api.conftest import FakeWorker
from tests.support.streams import RATE, tone


@pytest.fixture
def program(http: httpx2.Client, busy_worker: FakeWorker) -> Iterator["subprocess.Popen[bytes]"]:
    """`otoscope listen -`, which has printed an answer and waits for more sound."""
    command = [sys.executable, "-m", "otoscope", "listen", "-", "--url", str(http.base_url)]
    environment = dict(os.environ, PYTHONPATH=os.getcwd())
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as started:
        assert started.stdin
        assert started.stdout
        started.stdin.write(tone(2.0))
        started.stdin.flush()
        assert started.stdout.readline()
        yield started
        started.kill()


def test_a_silent_pipe_is_interrupted(program: "subprocess.Popen[bytes]") -> None:
    """By Ctrl-C, at once."""
    program.send_signal(signal.SIGINT)
    status = program.wait(10)
    assert program.stderr
    assert (status, program.stderr.read()) == (130, b"")


def test_a_source_that_waits_does_not_hold_up_an_error(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """The next block may never come."""
    ended = threading.Event()

    def blocks() -> Iterator[bytes]:
        yield tone(0.5)
        ended.wait(20)

    began = time.monotonic()
    with Client(str(http.base_url)) as client, pytest.raises(ModelNotFound):
        list(client.stream_audio(blocks(), RATE, model="nothing"))
    assert time.monotonic() - began < 10
    ended.set()


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_a_stream_takes_the_proxy_of_the_requests(
    start_gateway: Callable[..., httpx2.Client],
    busy_worker: FakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    """Behind a firewall, there is no other way to the service."""
    gateway = start_gateway(allowed_hosts="sounds.example").base_url
    asked = []

    class Proxy(StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().split(b" HTTP")[0])
            while self.rfile.readline() != b"\r\n":
                pass
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            with socket.create_connection((gateway.host, gateway.port or 80)) as there:
                back = threading.Thread(target=copy, args=(there, self.connection))
                back.start()
                copy(self.connection, there)
                back.join()

    with ThreadingTCPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv(variable, f"http://127.0.0.1:{server.server_address[1]}")
        with Client("http://sounds.example") as client:
            assert list(client.stream_audio([tone(1.0)], RATE))[-1].last
        server.shutdown()
        thread.join()
    assert asked == [b"CONNECT sounds.example:80"]


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy what comes until it ends, and end the target with it."""
    with suppress(OSError):
        while block := source.recv(65_536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
