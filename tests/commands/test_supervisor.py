"""Children are kept alive, end in order, and never outlive their parent."""

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

pytestmark = pytest.mark.stack

Lines = list[tuple[str, str]]


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Fail unless the condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
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
    """It is run by the test's own thread; whatever is left is ended."""
    made = Supervisor(lambda name, line: lines.append((name, line)), Backoff(first=0.1, longest=0.4, steady=60.0))
    yield made
    made.stop()


def after(supervisor: Supervisor, lines: Lines, reached: Callable[[], object]) -> threading.Thread:
    """Ask for the end once something is reached."""

    def wait() -> None:
        eventually(reached)
        supervisor.request_stop()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_dying_child_is_started_again_with_backoff(supervisor: Supervisor, lines: Lines) -> None:
    """Each death waits twice as long as the one before, up to a limit, and the log says why and when."""
    supervisor.settled = True
    supervisor.start(program("worker", "import os; print('started'); os.kill(os.getpid(), 9)"))
    thread = after(supervisor, lines, lambda: lines.count(("worker", "started")) >= 5)
    supervisor.run()
    thread.join()
    said = [line for name, line in lines if name == "otoscope"]
    assert [line.rpartition("again in ")[2] for line in said[:4]] == ["0.1 s", "0.2 s", "0.4 s", "0.4 s"]
    assert said[0].startswith("the worker died (killed by SIGKILL)")


def test_an_end_at_the_start_ends_everything(supervisor: Supervisor, lines: Lines) -> None:
    """What cannot start says why once, instead of failing for ever."""
    supervisor.start(program("server", POLITE))
    eventually(lambda: lines)
    supervisor.start(program("worker", "import sys; print('no models'); sys.exit(3)"))
    with pytest.raises(StackFailed, match=r"worker ended at the start \(exit status 3\); it said: no models"):
        supervisor.run()
    supervisor.stop()
    assert ("server", "drained") in lines


def test_a_program_that_is_not_there(supervisor: Supervisor) -> None:
    """A missing program is told by its name."""
    supervisor.start(Program("server", ["/no/such/program"], {}, 1.0))
    with pytest.raises(StackFailed, match="/no/such/program: No such file"):
        supervisor.run()


def test_the_end_is_in_order(supervisor: Supervisor, lines: Lines) -> None:
    """The last one started ends first, each one drained before the next is told."""
    for name in ("server", "worker", "gateway"):
        supervisor.start(program(name, POLITE))
    thread = after(supervisor, lines, lambda: sum(line == "here" for _, line in lines) == 3)
    supervisor.run()
    thread.join()
    supervisor.stop()
    assert [entry for entry in lines if entry[1] != "here"] == [
        ("otoscope", "ending the gateway"), ("gateway", "drained"),
        ("otoscope", "ending the worker"), ("worker", "drained"),
        ("otoscope", "ending the server"), ("server", "drained"),
    ]  # fmt: skip


def test_what_does_not_end_is_killed_with_its_children(supervisor: Supervisor, lines: Lines) -> None:
    """A child that ignores SIGTERM is killed when its grace is over, and so is what it started."""
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
    """kill -9 on the parent leaves no child behind: the kernel ends them."""
    if sys.platform != "linux":
        pytest.skip("only Linux can tie a child's life to its parent's")
    script = f"""
        import os, sys
        from commands.stack.supervisor import Program, Supervisor
        supervisor = Supervisor(lambda name, line: print(line, flush=True), settled=True)
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
