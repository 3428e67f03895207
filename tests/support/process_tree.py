"""Other processes, as tests look at them: stopped, ended, waited for."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def stop(pid: int) -> None:
    """Stop a process and wait until it stands still."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: _state(pid) == "T")


def gone(pid: int) -> bool:
    """Ended, if not yet reaped by whoever has to."""
    return _state(pid) in ("Z", "")


def _state(pid: int) -> str:
    """The letter that the kernel has for it; empty where it is no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):  # reaped before or after the file was opened
        return ""


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The processes that a process has started, in whichever thread, and that are still there."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found += map(int, thread.read_text().split())
    return found
