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
