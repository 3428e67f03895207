"""API keys in the client: sent as a bearer token, never printed, and refusals explained."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from otoscope import AsyncClient, Client
from otoscope.cli.bench import _requests
from otoscope.errors import InvalidRequest, KeyRefused, KeyRequired
from otoscope.loadgen import Target
from tests.support.fake_service import FakeService, problem

KEY = f"oto_12345678_{'5ec4e7' * 10}0000"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(service: FakeService, tmp_path: Path) -> Run:
    """`run(*arguments)` with OTOSCOPE_URL at the fake service."""

    def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = dict(os.environ, PYTHONPATH=os.getcwd(), OTOSCOPE_URL=service.url, COLUMNS="100") | environment
        command = [sys.executable, "-m", "otoscope", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, timeout=60)

    return start


def test_clients_send_their_key(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, else the environment, else none; in both clients and in `otoscope bench`."""

    def sent() -> str | None:
        return service.requests[-1].headers["Authorization"]

    with Client(service.url) as client:
        client.models()
    assert sent() is None
    with Client(service.url, key=KEY) as client:
        client.models()
    assert sent() == f"Bearer {KEY}"
    monkeypatch.setenv("OTOSCOPE_KEY", f"{KEY}\n")

    async def models() -> None:
        async with AsyncClient(service.url) as client:
            await client.models()

    asyncio.run(models())
    assert sent() == f"Bearer {KEY}"
    assert f"Authorization: Bearer {KEY}\r\n".encode() in _requests(Target.of(service.url), (), None, None)[0]


def test_a_malformed_key_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines, or characters that an editor changed: the error does not quote the key."""
    with pytest.raises(InvalidRequest, match="characters") as caught:
        Client(key=f"{KEY}\n{KEY}")
    assert KEY not in str(caught.value)


def test_a_refusal_without_a_key_names_the_setting(service: FakeService) -> None:
    """Without a key the error names OTOSCOPE_KEY; with one it has the detail of the service."""
    service.first.extend([problem(401, "key_required"), problem(401, "key_required"), problem(403, "key_refused")])
    with Client(service.url) as client, pytest.raises(KeyRequired, match="Set OTOSCOPE_KEY"):
        client.models()
    with Client(service.url, key=KEY) as client:
        with pytest.raises(KeyRequired, match="that is key_required"):
            client.models()
        with pytest.raises(KeyRefused):
            client.models()


def test_a_refused_stream(service: FakeService) -> None:
    """The handshake is answered with the error of any other request."""
    for key, kind in ((None, KeyRequired), (KEY, KeyRefused)):
        service.first.append(problem(401, kind.code))
        with Client(service.url, key=key) as client, pytest.raises(kind):
            list(client.stream_audio([bytes(3_200)], 16_000))


def test_many_files_are_refused_once(run: Run, service: FakeService, tmp_path: Path) -> None:
    """One line, not one a file; the key is in no output, tracebacks included."""
    names = [f"{number}.wav" for number in range(5)]
    for name in names:
        (tmp_path / name).write_bytes(b"sound")
    for environment in ({}, {"OTOSCOPE_KEY": KEY}, {"OTOSCOPE_KEY": KEY, "OTOSCOPE_DEBUG": "1"}):
        service.first.extend([problem(401, "key_required")] * 5)
        done = run("classify", *names, **environment)
        assert done.returncode == 1
        assert KEY not in done.stdout + done.stderr
        assert "KeyRequired" in done.stderr if "OTOSCOPE_DEBUG" in environment else done.stderr.count("\n") == 1
        service.first.clear()
