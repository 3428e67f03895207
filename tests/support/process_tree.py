"""Helpers for other processes: stop one, check whether it has ended, wait for a condition, list its children."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def stop(pid: int) -> None:
    """Send SIGSTOP and wait until the process is stopped."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: _state(pid) == "T")


def gone(pid: int) -> bool:
    """Whether it has ended; it may not be reaped yet."""
    return _state(pid) in ("Z", "")


def _state(pid: int) -> str:
    """The kernel's letter for the state of the process; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):  # reaped before or after the file was opened
        return ""


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Poll until the condition holds; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The running children of a process, started by any of its threads."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            found += map(int, thread.read_text().split())
    return found
