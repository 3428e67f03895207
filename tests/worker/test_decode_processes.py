"""What a decode process inherits from its parent, and how it ends with it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shared.audio.decode import BLOCK_SAMPLES
from tests.conftest import PYTHON, ROOT
from tests.support.process_tree import gone, until
from tests.support.sounds import chirp, encode
from worker.decode import shared_samples
from worker.decode.pool import DecoderPool


def test_a_process_inherits_nothing_from_its_parent() -> None:
    """No torch, no settings with passwords, no sockets but its own."""
    with socket.socket() as secret, pytest.MonkeyPatch.context() as patch:
        secret.bind(("127.0.0.1", 0))
        patch.setenv("OTOSCOPE_REDIS_URL", "redis://:secret@host/0")
        pool = DecoderPool(1, 30.0, 60.0)
        pool.decode(encode(chirp(0.5, 22_050), 22_050, "WAV", "PCM_16"), 16_000)
        process = Path(f"/proc/{pool.pids[0]}")
        assert "torch" not in (process / "maps").read_text()
        assert b"secret" not in (process / "environ").read_bytes()
        inodes = [os.readlink(fd) for fd in (process / "fd").iterdir()]
        assert sum(name.startswith("socket:") for name in inodes) == 1
        pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no seals")
def test_the_shared_memory_cannot_be_shrunk() -> None:
    """A process that a malicious file controls cannot end the worker with an access beyond the end of a file."""
    descriptor = shared_samples.create()
    with pytest.raises(PermissionError):
        os.truncate(descriptor, 0)
    assert len(shared_samples.attach(descriptor)) == BLOCK_SAMPLES


def test_processes_end_with_a_parent_that_is_killed() -> None:
    """SIGKILL of a worker leaves no decode process running."""
    source = (
        "import time; from worker.decode.pool import DecoderPool; pool = DecoderPool(2, 10, 10)\n"
        "print(*pool.pids, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([PYTHON, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(gone(pid) for pid in pids)
        parent.kill()
    until(lambda: all(gone(pid) for pid in pids))


def test_a_process_ends_with_its_parent_in_the_middle_of_a_file() -> None:
    """It polls its parent, since it does not read from its socket then."""
    ours, theirs = socket.socketpair()
    not_the_parent = "1"
    shared = shared_samples.create()
    arguments = [theirs.fileno(), 2**31, 10, not_the_parent, shared]
    with ours, theirs, os.fdopen(shared):
        process = subprocess.Popen(
            [PYTHON, "-m", "worker.decode.child", *map(str, arguments)], cwd=ROOT, pass_fds=[theirs.fileno(), shared]
        )
        assert process.wait(20) == 0
