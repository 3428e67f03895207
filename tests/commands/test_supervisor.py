"""Children are restarted, stopped in order, and never outlive their parent."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from commands.stack.supervisor import Backoff, Program, StackFailed, Supervisor

Lines = list[tuple[str, str]]


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Fail unless the condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def program(name: str, code: str, grace: float = 5.0) -> Program:
    return Program(name, [sys.executable, "-u", "-c", textwrap.dedent(code)], dict(os.environ), grace)


POLITE = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: (print("drained"), sys.exit(0)))
    print("here")
    time.sleep(60)
"""


@pytest.fixture
def lines() -> Lines:
    return []


@pytest.fixture
def supervisor(lines: Lines) -> Iterator[Supervisor]:
    """Run by the test's thread; remaining children are stopped."""
    made = Supervisor(lambda name, line: lines.append((name, line)), Backoff(first=0.1, longest=0.4, reset_after=60.0))
    yield made
    made.stop()


def after(supervisor: Supervisor, lines: Lines, reached: Callable[[], object]) -> threading.Thread:
    """Request the stop once a condition holds."""

    def wait() -> None:
        eventually(reached)
        supervisor.request_stop()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_child_that_exits_is_restarted_with_backoff(supervisor: Supervisor, lines: Lines) -> None:
    """Each restart waits twice as long as the one before, up to a limit; the log has the reason and the time."""
    supervisor.started = True
    supervisor.start(program("worker", "import os; print('started'); os.kill(os.getpid(), 9)"))
    thread = after(supervisor, lines, lambda: lines.count(("worker", "started")) >= 5)
    supervisor.run()
    thread.join()
    logged = [line for name, line in lines if name == "otoscope"]
    assert [line.rpartition("restart in ")[2] for line in logged[:4]] == ["0.1 s", "0.2 s", "0.4 s", "0.4 s"]
    assert logged[0].startswith("the worker exited (killed by SIGKILL)")


def test_an_exit_during_startup_stops_everything(supervisor: Supervisor, lines: Lines) -> None:
    """A program that cannot start is reported once, instead of being restarted without end."""
    supervisor.start(program("server", POLITE))
    eventually(lambda: lines)
    supervisor.start(program("worker", "import sys; print('no models'); sys.exit(3)"))
    with pytest.raises(
        StackFailed, match=r"worker exited during startup \(exit status 3\); its last output: no models"
    ):
        supervisor.run()
    supervisor.stop()
    assert ("server", "drained") in lines


def test_a_missing_program(supervisor: Supervisor) -> None:
    """It is named in the error."""
    supervisor.start(Program("server", ["/no/such/program"], {}, 1.0))
    with pytest.raises(StackFailed, match="/no/such/program: No such file"):
        supervisor.run()


def test_children_are_stopped_in_order(supervisor: Supervisor, lines: Lines) -> None:
    """The last one started first, each one drained before the next is signalled."""
    for name in ("server", "worker", "gateway"):
        supervisor.start(program(name, POLITE))
    thread = after(supervisor, lines, lambda: sum(line == "here" for _, line in lines) == 3)
    supervisor.run()
    thread.join()
    supervisor.stop()
    assert [entry for entry in lines if entry[1] != "here"] == [
        ("otoscope", "stopping the gateway"), ("gateway", "drained"),
        ("otoscope", "stopping the worker"), ("worker", "drained"),
        ("otoscope", "stopping the server"), ("server", "drained"),
    ]  # fmt: skip


def test_a_child_that_does_not_exit_is_killed_with_its_children(supervisor: Supervisor, lines: Lines) -> None:
    """A child that ignores SIGTERM is killed after its grace period, and so are its own children."""
    code = """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
        time.sleep(60)
    """
    supervisor.start(program("worker", code, grace=0.5))
    eventually(lambda: lines)
    grandchild = int(lines[0][1])
    started = time.monotonic()
    supervisor.stop()
    assert 0.4 < time.monotonic() - started < 5
    eventually(lambda: not alive(grandchild))


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    """kill -9 on the parent leaves no child behind: the kernel kills them."""
    if sys.platform != "linux":
        pytest.skip("only Linux has a parent-death signal")
    script = f"""
        import os, sys
        from commands.stack.supervisor import Program, Supervisor
        # Lines come from two threads: print() would write the end of a line by itself.
        supervisor = Supervisor(lambda name, line: os.write(1, (line + chr(10)).encode()), started=True)
        code = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid()); time.sleep(60)"
        for name in ("worker", "gateway"):
            supervisor.start(Program(name, [{sys.executable!r}, "-u", "-c", code], dict(os.environ), 1.0))
        supervisor.run()
    """
    environment = dict(os.environ, PYTHONPATH=os.getcwd())
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(alive, pids))
        parent.send_signal(signal.SIGKILL)
    eventually(lambda: not any(map(alive, pids)))
