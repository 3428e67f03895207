"""`otoscope up` as a person types it: from nothing to an answer to nothing left behind."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from otoscope import Client
from tests.conftest import PYTHON, ROOT, free_port
from tests.sounds import chirp, encode

pytestmark = pytest.mark.stack

SOUND = encode(chirp(60.0, 16_000), 16_000, "FLAC", "PCM_16")


def processes_of(home: Path) -> dict[int, str]:
    """Everything that was started with that home in its environment: command lines by process."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"OTOSCOPE_HOME={home}".encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return found


def started(home: Path, models: Path, port: int) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "OTOSCOPE_HOME": str(home),
        "OTOSCOPE_PORT": str(port),
        "OTOSCOPE_MODELS_DIR": str(models),
        "OTOSCOPE_METRICS_PORT": "0",
    }
    return subprocess.Popen(
        [PYTHON, "-m", "otoscope", "up"], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def read_until(process: subprocess.Popen[str], pattern: str, seconds: float = 60) -> str:
    assert process.stdout is not None
    seen, deadline = "", time.monotonic() + seconds
    for line in process.stdout:
        seen += line
        if re.search(pattern, seen):
            return seen
        assert time.monotonic() < deadline, seen
    raise AssertionError(f"it ended before it said {pattern!r}:\n{seen}")


def test_up_answers_and_leaves_nothing_behind(tmp_path: Path, tiny_models: Path) -> None:
    """It shows a first answer and the address, serves, survives the death of its worker, and ends clean."""
    port = free_port()
    process = started(tmp_path / "home", tiny_models, port)
    try:
        said = read_until(process, rf"Otoscope is up after .*http://127\.0\.0\.1:{port}")
        assert re.search(r"dog|rain|bell|engine|speech", said), said
        with Client(f"http://127.0.0.1:{port}") as client:
            assert client.ready().workers == 1
            found = processes_of(tmp_path / "home")
            worker = next(pid for pid, command in found.items() if " -m worker " in command)
            os.kill(worker, signal.SIGKILL)
            read_until(process, r"worker died \(killed by SIGKILL\).*again in")
            read_until(process, r"serving model tiny")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, rest
        assert processes_of(tmp_path / "home") == {}
        assert not list((tmp_path / "home").glob("*.sock"))
    finally:
        process.kill()
        process.wait()


def test_what_was_accepted_is_there_after_a_restart(tmp_path: Path, tiny_models: Path) -> None:
    """Stopped with sounds in hand and in the queue, and started again in the same home: every one has its answer."""
    port, jobs = free_port(), []
    for start in range(2):
        process = started(tmp_path / "home", tiny_models, port)
        try:
            read_until(process, "Otoscope is up")
            with Client(f"http://127.0.0.1:{port}") as client:
                if start:
                    assert {client.wait(job, timeout=60).status for job in jobs} == {"succeeded"}
                else:
                    jobs = [client.submit(SOUND).id for _ in range(30)]
                    assert client.job(jobs[-1]).finished_at is None
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=90)
            assert process.returncode == 0, rest
        finally:
            process.kill()
            process.wait()


def test_killed_up_takes_everything_with_it(tmp_path: Path, tiny_models: Path) -> None:
    """After kill -9 of the parent no server, worker, gateway or decode process runs on."""
    process = started(tmp_path / "home", tiny_models, free_port())
    try:
        read_until(process, "Otoscope is up")
        assert len(processes_of(tmp_path / "home")) >= 4
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    deadline = time.monotonic() + 20
    while left := processes_of(tmp_path / "home"):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
