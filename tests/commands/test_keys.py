"""Keys from Python and the shell: made, sent, revoked, and never printed again."""

import asyncio
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from otoscope import AsyncClient, Client
from otoscope.cli.bench import _requests
from otoscope.errors import InvalidRequest, KeyRefused, KeyRequired
from otoscope.loadgen import Target
from shared.api_keys import read_keys, split_key
from tests.support.fake_service import FakeService, problem

KEY = f"oto_12345678_{'5ec4e7' * 10}0000"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(service: FakeService, tmp_path: Path) -> Run:
    """`run(*arguments)` with a keys file and OTOSCOPE_URL at the fake service."""

    def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = dict(os.environ, PYTHONPATH=os.getcwd(), OTOSCOPE_URL=service.url, COLUMNS="100")
        known |= {"OTOSCOPE_KEYS_FILE": str(tmp_path / "keys")} | environment
        command = [sys.executable, "-m", "otoscope", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, timeout=60)

    return start


def test_keys_are_made_listed_and_revoked(run: Run, tmp_path: Path) -> None:
    """The secret is printed once and is in neither the list nor the file; a revoked key is gone, the others stay."""
    made = run("keys", "create", "phone", "--scope", "submit", "--scope", "read", "--rate", "60")
    text = made.stdout.strip()
    assert (made.returncode, made.stderr) == (0, "")
    parts = split_key(text)
    assert parts is not None
    key_id, secret = parts
    run("keys", "create", "me", "--scope", "admin")
    listed = run("keys", "list").stdout
    assert re.search(rf"^{key_id} +phone +submit, read +60 +\d{{4}}-", listed, re.MULTILINE)
    assert "admin" in listed
    path = tmp_path / "keys"
    assert secret not in listed + path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_keys(path)[key_id].verify(secret)
    assert run("keys", "revoke", key_id).returncode == 0
    assert [key.name for key in read_keys(path).values()] == ["me"]
    again = run("keys", "revoke", key_id)
    assert (again.returncode, again.stdout) == (1, "")
    assert key_id in again.stderr


def test_a_broken_file_is_not_written_over(run: Run, tmp_path: Path) -> None:
    """One line that says where; what is there stays for somebody to mend."""
    (tmp_path / "keys").write_text("nonsense")
    done = run("keys", "create", "a", "--scope", "read")
    assert (done.returncode, done.stdout) == (1, "")
    assert "line 1" in done.stderr
    assert (tmp_path / "keys").read_text() == "nonsense"


def test_clients_send_their_key(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """As given, else of the environment, else none; both clients; and what `otoscope bench` sends."""

    def sent() -> str | None:
        return service.seen[-1].headers["Authorization"]

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


def test_a_key_that_is_none_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines, or what an editor made of it: an error that says so and not what it was."""
    with pytest.raises(InvalidRequest, match="characters") as caught:
        Client(key=f"{KEY}\n{KEY}")
    assert KEY not in str(caught.value)


def test_what_to_do_without_a_key(service: FakeService) -> None:
    """Who sent none is told of OTOSCOPE_KEY; who sent one hears what the service says of it."""
    service.first.extend([problem(401, "key_required"), problem(401, "key_required"), problem(403, "key_refused")])
    with Client(service.url) as client, pytest.raises(KeyRequired, match="Set OTOSCOPE_KEY"):
        client.models()
    with Client(service.url, key=KEY) as client:
        with pytest.raises(KeyRequired, match="that is key_required"):
            client.models()
        with pytest.raises(KeyRefused):
            client.models()


def test_many_files_are_refused_once(run: Run, service: FakeService, tmp_path: Path) -> None:
    """One line, not one a file; the key is in none of it, the way to the error included."""
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
