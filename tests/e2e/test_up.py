"""`otoscope up` as a user runs it: from nothing to a result, and nothing left behind."""

import os
import re
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from otoscope import Client
from tests.conftest import PYTHON, ROOT, free_port
from tests.support.process_tree import until
from tests.support.sounds import chirp, encode

SOUND = encode(chirp(60.0, 16_000), 16_000, "FLAC", "PCM_16")


def processes_of(home: Path) -> dict[int, str]:
    """All processes with that home in their environment: command lines by process id."""
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
    raise AssertionError(f"it ended before it printed {pattern!r}:\n{seen}")


def test_up_answers_and_leaves_nothing_behind(tmp_path: Path, tiny_models: Path) -> None:
    """It prints a first result and the address, serves, restarts a killed worker, and leaves nothing behind."""
    port = free_port()
    process = started(tmp_path / "home", tiny_models, port)
    try:
        printed = read_until(process, rf"Otoscope is up after .*http://127\.0\.0\.1:{port}")
        assert re.search(r"dog|rain|bell|engine|speech", printed), printed
        with Client(f"http://127.0.0.1:{port}") as client:
            assert client.ready().workers == 1
            found = processes_of(tmp_path / "home")
            worker = next(pid for pid, command in found.items() if " -m worker " in command)
            os.kill(worker, signal.SIGKILL)
            read_until(process, r"worker exited \(killed by SIGKILL\).*restart in")
            read_until(process, r"serving model tiny")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, rest
        assert processes_of(tmp_path / "home") == {}
        assert not list((tmp_path / "home").glob("*.sock"))
    finally:
        process.kill()
        process.wait()


def test_accepted_jobs_survive_a_restart(tmp_path: Path, tiny_models: Path) -> None:
    """After kill -9 of the parent no server, worker, gateway or decode process is left; and every job that was in
    flight or queued succeeds after a start in the same home."""
    home, port = tmp_path / "home", free_port()
    process = started(home, tiny_models, port)
    try:
        read_until(process, "Otoscope is up")
        assert len(processes_of(home)) >= 4
        with Client(f"http://127.0.0.1:{port}") as client:
            jobs = [client.submit(SOUND).id for _ in range(30)]
    finally:
        end(process, home)
    killed = datetime.now(UTC)
    process = started(home, tiny_models, port)
    try:
        read_until(process, "Otoscope is up")
        with Client(f"http://127.0.0.1:{port}") as client:
            ends = [client.wait(job, timeout=60) for job in jobs]
    finally:
        end(process, home)
    assert {job.status for job in ends} == {"succeeded"}
    assert any(job.finished_at and job.finished_at > killed for job in ends), "no job was left to run"


def end(process: subprocess.Popen[str], home: Path) -> None:
    """Kill it, and wait until its children have ended by themselves."""
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()
    until(lambda: not processes_of(home))
