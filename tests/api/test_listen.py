"""`otoscope listen` as a program, and the client: a source that is silent holds up no end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

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
