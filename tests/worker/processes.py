"""Other processes, as tests look at them: stopped, ended, waited for."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def stop(pid: int) -> None:
    """Stop a process and wait until it stands still."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "T":
        time.sleep(0.005)


def gone(pid: int) -> bool:
    """Ended, and reaped by whoever had to."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except FileNotFoundError:
        return True


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The processes that a process has started, in whichever thread, and that are still there."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in lists for child in thread.read_text().split()]
