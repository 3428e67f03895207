"""The embedded server of `otoscope up`: its files, its socket and its limits."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
import redis

from commands.stack.embedded_redis import Home, memory_limit
from commands.stack.supervisor import Supervisor
from tests.commands.test_supervisor import eventually


def _serve(home: Home, supervisor: Supervisor) -> redis.Redis:
    supervisor.start(home.program())
    assert supervisor.wait_for(home.answers, "the server", 20.0)
    return redis.Redis(unix_socket_path=str(home.socket))


def test_the_server_keeps_its_data(tmp_path: Path) -> None:
    """Data survives a restart, and a full server refuses writes instead of evicting."""
    home = Home(tmp_path / "home")
    for expected in (None, b"1"):
        supervisor = Supervisor(lambda *_: None)
        with home.locked():
            client = _serve(home, supervisor)
            assert client.get("job") == expected
            client.set("job", 1)
            limits = client.config_get("maxmemory*")
            client.close()
            supervisor.stop()
    assert limits["maxmemory-policy"] == "noeviction"
    assert int(str(limits["maxmemory"])) == memory_limit() >= 2**28
    assert not home.socket.exists()


def _files(home: Home) -> list[Path]:
    return [path for path in home.directory.rglob("*") if path.is_file()]


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    """They hold sounds and results; also where the directory was open before."""
    home, supervisor = Home(tmp_path / "home"), Supervisor(lambda *_: None)
    home.directory.mkdir(mode=0o755)
    with home.locked():
        with _serve(home, supervisor) as client:
            client.set("job", 1)
        modes = {path.name: path.stat().st_mode & 0o077 for path in _files(home) if path.name != "lock"}
        supervisor.stop()
    assert home.directory.stat().st_mode & 0o777 == 0o700
    assert len(modes) >= 2
    assert set(modes.values()) == {0}, modes


def test_a_deleted_sound_is_not_in_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The append-only file, which keeps what was deleted, is rewritten at regular intervals."""
    monkeypatch.setattr("commands.stack.embedded_redis.REWRITE_SECONDS", 0.2)
    home, supervisor, sound = Home(tmp_path / "home"), Supervisor(lambda *_: None), os.urandom(4_096)

    def stored() -> bool:
        return any(sound in path.read_bytes() for path in _files(home))

    with home.locked():
        with _serve(home, supervisor) as client:
            client.set("otoscope:audio:1", sound)
            eventually(stored)
            client.delete("otoscope:audio:1")
        eventually(lambda: not stored())
        supervisor.stop()


def test_an_orphaned_server_is_stopped_first(tmp_path: Path) -> None:
    """A server that outlived its parent is stopped; two never write the same file."""
    home = Home(tmp_path / "home")
    home.directory.mkdir()
    orphan = subprocess.Popen(home.program().argv, cwd=home.directory, stdout=subprocess.DEVNULL)
    eventually(home.answers)
    with home.locked():
        assert orphan.wait(10) == 0
        assert not home.socket.exists()


def test_a_stale_socket_is_removed(tmp_path: Path) -> None:
    """The socket of a server that is gone does not prevent a new one from starting."""
    home = Home(tmp_path / "home")
    home.directory.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home.socket))
    with home.locked():
        assert not home.socket.exists()


def test_the_end_of_a_stack_takes_no_socket_from_another(tmp_path: Path) -> None:
    """One that starts meanwhile, and whose socket is beside it."""
    starting, ending = Home(tmp_path / "with space"), Home(tmp_path / "another space")
    supervisor = Supervisor(lambda *_: None)
    with starting.locked():
        with ending.locked():
            pass
        _serve(starting, supervisor).close()
        supervisor.stop()
    assert not starting.socket.parent.exists()


@pytest.mark.parametrize("name", ["x" * 120, "with space", "ünï"])
def test_unusual_folders_get_a_short_socket_path(tmp_path: Path, name: str) -> None:
    """A path that is too long or unusual for a socket address works too, and is cleaned up."""
    home = Home(tmp_path / name)
    assert len(os.fsencode(home.socket)) < 100
    assert home.socket.parent != home.directory
    assert home.socket == Home(tmp_path / name).socket
    supervisor = Supervisor(lambda *_: None)
    with home.locked():
        client = _serve(home, supervisor)
        client.set("job", 1)
        client.close()
        supervisor.stop()
    assert (home.directory / "appendonlydir").is_dir()
    assert not home.socket.exists()
