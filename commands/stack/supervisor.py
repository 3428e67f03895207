"""A supervisor: starts child processes in order, restarts those that exit, and stops them in reverse order.

The main thread alone starts and stops children, since the kernel delivers the parent-death signal when the thread that
started the child exits (prctl(2), PR_SET_PDEATHSIG). It blocks on a queue of events from the other threads and from the
signal handlers.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_PDEATHSIG = Path(__file__).with_name("pdeathsig.py")

Log = Callable[[str, str], None]
"""Prints a line: the name of the program, and the text."""


class StackFailed(Exception):
    """The stack cannot be started; the message is the reason."""


@dataclass(frozen=True)
class Program:
    """A program to run, and how to stop it."""

    name: str
    argv: list[str]
    env: dict[str, str]
    grace: float  # seconds between SIGTERM and SIGKILL
    parent_death_signal: signal.Signals = signal.SIGKILL  # sent by the kernel when this process is killed
    format_line: Callable[[str], str | None] = str  # its log lines made readable; None drops the line
    umask: int = -1  # of the files that it writes; -1: as this process


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff of restarts, in seconds."""

    first: float = 0.5
    longest: float = 30.0
    reset_after: float = 60.0  # uptime after which the count of exits starts again

    def delay(self, exits: int) -> float:
        return min(self.first * 2.0 ** (exits - 1), self.longest)


@dataclass
class _Child:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    exits: int = 0
    due: float | None = None  # time of the restart
    last_line: str = ""
    reader: threading.Thread | None = None


@dataclass(frozen=True)
class _Exited:
    child: _Child
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class _StopRequested:
    """From a signal handler or another thread."""

    at: float


@dataclass
class Supervisor:
    """`start` programs in order, `run` until a stop is requested, then always `stop`."""

    log: Log
    backoff: Backoff = field(default_factory=Backoff)
    started: bool = False
    """Until the stack has worked once, a child that exits stops everything: a restart would fail in the same way."""

    def __post_init__(self) -> None:
        self._children: list[_Child] = []
        self._events: queue.SimpleQueue[_Exited | _StopRequested] = queue.SimpleQueue()
        self._stop_at: float | None = None  # time of the first stop request
        self._kill_now = False

    def request_stop(self) -> None:
        """May be called from any thread or signal handler."""
        self._events.put(_StopRequested(time.monotonic()))

    def start(self, program: Program) -> None:
        child = _Child(program)
        self._children.append(child)
        self._spawn(child)

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float) -> bool:
        """Wait until the condition holds; False if a stop was requested first. Raises StackFailed."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise StackFailed(f"{what} did not answer within {seconds:g} s")
            with suppress(queue.Empty):
                self._handle(self._events.get(timeout=0.02))
            if self._stop_at is not None:
                return False
        return True

    def run(self) -> None:
        """Restart children that exit, until a stop is requested. Raises StackFailed if one exits before `started`."""
        while self._stop_at is None:
            due = min((child.due for child in self._children if child.due is not None), default=None)
            try:
                timeout = None if due is None else max(0.0, due - time.monotonic())
                self._handle(self._events.get(timeout=timeout))
            except queue.Empty:
                for child in self._children:
                    if child.due is not None and child.due <= time.monotonic():
                        self._spawn(child)

    def stop(self) -> None:
        """Stop every child, the last one started first, each within its grace. A second stop request kills."""
        for child in reversed(self._children):
            process, child.due = child.process, None
            if process is None:
                continue
            if process.poll() is None:
                self.log("otoscope", f"stopping the {child.program.name}")
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                self._wait_exit(process, child.program)
            _kill_group(process)
            if child.reader is not None:
                child.reader.join(timeout=1.0)  # its last lines
        self._children.clear()

    def _wait_exit(self, process: subprocess.Popen[bytes], program: Program) -> None:
        deadline = time.monotonic() + program.grace
        while process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0 or self._kill_now:
                why = f"has not exited within {program.grace:g} s" if left <= 0 else "is stopped at once"
                self.log("otoscope", f"the {program.name} {why}: killed")
                process.kill()
                process.wait()
                return
            with suppress(queue.Empty):
                event = self._events.get(timeout=left)
                if isinstance(event, _StopRequested):
                    self._stop_requested(event)

    def _stop_requested(self, request: _StopRequested) -> None:
        if self._stop_at is None:
            self._stop_at = request.at
        elif request.at - self._stop_at > 1.0:  # one Ctrl-C may arrive twice: from the terminal and through `make`
            self._kill_now = True

    def _handle(self, event: _Exited | _StopRequested) -> None:
        if isinstance(event, _StopRequested):
            self._stop_requested(event)
            return
        child = event.child
        _kill_group(event.process)
        child.process = None
        if child.reader is not None:
            child.reader.join(timeout=1.0)
        how = _exit_reason(event.process.returncode)
        if not self.started:
            output = f"; its last output: {child.last_line}" if child.last_line else ""
            raise StackFailed(f"the {child.program.name} exited during startup ({how}){output}")
        uptime = time.monotonic() - child.started
        child.exits = 1 if uptime > self.backoff.reset_after else child.exits + 1
        delay = self.backoff.delay(child.exits)
        child.due = time.monotonic() + delay
        self.log("otoscope", f"the {child.program.name} exited ({how}) after {uptime:.0f} s; restart in {delay:g} s")

    def _spawn(self, child: _Child) -> None:
        program = child.program
        pdeathsig = [
            sys.executable,
            "-I",
            "-S",
            str(_PDEATHSIG),
            str(os.getpid()),
            str(int(program.parent_death_signal)),
        ]
        child.due, child.started, child.last_line = None, time.monotonic(), ""
        process = subprocess.Popen(  # nosec B603  # our own programs, no shell
            pdeathsig + program.argv,
            env=program.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal reaches this process only, which then stops the others in order.
            start_new_session=True,
            umask=program.umask,
        )
        child.process = process
        child.reader = threading.Thread(target=self._listen, args=(child, process.stdout), daemon=True)
        child.reader.start()
        threading.Thread(target=self._await, args=(child, process), daemon=True).start()

    def _await(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._events.put(_Exited(child, process))

    def _listen(self, child: _Child, output: IO[bytes]) -> None:
        with output:
            for line in output:
                text = child.program.format_line(line.decode(errors="replace").rstrip())
                if text:
                    child.last_line = text
                    self.log(child.program.name, text)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the remaining processes of an exited child's process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _exit_reason(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"
