"""`otoscope classify` and `otoscope listen` of pipes, devices and closed files, as a program."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_service import FakeService

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(service: FakeService, tmp_path: Path) -> Start:
    """`start(*arguments)` in a directory of its own, which has the named pipe `pipe.wav`."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "tmp").mkdir()

    def run(*arguments: str, **options: object) -> "subprocess.Popen[str]":
        known = dict(os.environ, PYTHONPATH=os.getcwd(), OTOSCOPE_URL=service.url, TMPDIR=str(tmp_path / "tmp"))
        return subprocess.Popen(
            [sys.executable, "-m", "otoscope", *arguments], cwd=tmp_path, env=known, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # type: ignore[call-overload, no-any-return]  # fmt: skip

    return run


def output(program: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a program that ends."""
    try:
        out, err = program.communicate(timeout=30)
    finally:
        program.kill()
    return program.returncode, out, err


def test_a_named_pipe_is_waited_for(start: Start, service: FakeService, tmp_path: Path) -> None:
    """Its writer may come later, and pause."""
    program = start("classify", "--json", "pipe.wav")

    def write() -> None:
        time.sleep(0.5)
        with (tmp_path / "pipe.wav").open("wb") as pipe:
            pipe.write(b"RIFF")
            pipe.flush()
            time.sleep(0.5)
            pipe.write(bytes(300_000))

    writer = threading.Thread(target=write)
    writer.start()
    assert output(program)[0] == 0
    writer.join()
    (seen,) = service.requests
    assert (seen.filename, seen.file) == ("pipe.wav", b"RIFF" + bytes(300_000))


def test_process_substitution(start: Start, service: FakeService) -> None:
    """Bash passes `<(cat x.wav)` as the path of an open pipe, whose writer may have ended."""
    reader, writer = os.pipe()
    os.write(writer, b"RIFF of a process")
    os.close(writer)
    status, _, _ = output(start("classify", f"/dev/fd/{reader}", pass_fds=[reader]))
    os.close(reader)
    assert (status, service.requests[0].file) == (0, b"RIFF of a process")


def test_a_pipe_without_a_writer_fails_alone(start: Start, tmp_path: Path) -> None:
    """After the time that each file has; the others are classified."""
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    status, out, err = output(start("classify", "--timeout", "2", "pipe.wav", "a.wav"))
    assert (status, err) == (1, "pipe.wav: nothing was written into the pipe for 2 s\n")
    assert "a.wav" in out


def test_waiting_for_a_pipe_is_interrupted(start: Start, tmp_path: Path) -> None:
    """By Ctrl-C, at once."""
    program = start("classify", "pipe.wav")
    with (tmp_path / "pipe.wav").open("wb"):  # waits until the program reads
        program.send_signal(signal.SIGINT)
        assert output(program)[0] == 130
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("name", ["-", "pipe.wav"])
def test_what_has_no_end_ends_at_the_limit_of_the_service(
    start: Start, service: FakeService, tmp_path: Path, name: str
) -> None:
    """It is no recording, which could be cut."""
    service.limits["max_upload_bytes"] = 3_000_000
    command = "exec yes" if name == "-" else f"exec yes >{name}"
    with subprocess.Popen(["sh", "-c", command], cwd=tmp_path, stdout=subprocess.PIPE) as endless:
        assert endless.stdout is not None
        program = start("classify", name, stdin=endless.stdout)
        endless.stdout.close()
        status, _, err = output(program)
    assert endless.returncode == -signal.SIGPIPE
    assert status == 1
    assert err.startswith(f"{name}: It is longer or larger than the service accepts, and cannot be cut: ")
    assert not [seen for seen in service.requests if seen.method == "POST"]
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_a_device_is_no_sound(start: Start, service: FakeService, device: str) -> None:
    """It is refused before it is read."""
    few = 4 * 2**30  # bytes of addresses: reading has no end
    program = start("classify", device, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (few, few)))
    assert output(program) == (1, "", f"{device}: a device or a socket; sounds are files and pipes\n")
    assert service.requests == []


@pytest.mark.parametrize("command", ["classify", "listen"])
def test_standard_input_may_be_closed(start: Start, command: str) -> None:
    """As some service managers do."""
    status, _, err = output(start(command, "-", preexec_fn=lambda: os.close(0)))
    assert (status, err) == (1, "otoscope: standard input is closed\n")


@pytest.mark.parametrize("format", [(), ("--json",), ("--format", "csv")], ids=str)
def test_standard_output_may_be_closed(start: Start, tmp_path: Path, format: tuple[str, ...]) -> None:
    """Then nothing is printed."""
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    program = start("classify", "a.wav", *format, preexec_fn=lambda: os.close(1))
    assert output(program) == (0, "", "")


def test_a_named_pipe_is_heard(start: Start, tmp_path: Path) -> None:
    """`otoscope listen <(arecord …)`, as with `-`: what comes out is PCM, and no file of another format."""
    program = start("listen", "pipe.wav")
    with (tmp_path / "pipe.wav").open("wb") as pipe:
        pipe.write(b"OggS" + bytes(100))
    status, _, err = output(program)
    assert status == 1
    assert err.startswith("otoscope: The pipe has neither WAV nor 16-bit PCM")
