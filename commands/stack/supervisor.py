"""Child processes kept alive in the order in which they were started, and ended in the reverse order.

One thread, the main one, starts and ends children (the kernel ties a child's life to the thread that started it); it
sleeps on a queue into which the others and the signal handlers put what happened.
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

Say = Callable[[str, str], None]
"""Prints a line: who says it, and what."""


class StackFailed(Exception):
    """The stack cannot be started; the message says why."""


@dataclass(frozen=True)
class Program:
    """What is run, and how it wants to be ended."""

    name: str
    argv: list[str]
    env: dict[str, str]
    grace: float  # seconds between SIGTERM and SIGKILL
    farewell: signal.Signals = signal.SIGKILL  # what it gets when this process is killed
    tidy: Callable[[str], str | None] = str  # its log lines made readable; None drops one


@dataclass(frozen=True)
class Backoff:
    """How long a dead child stays dead, in seconds."""

    first: float = 0.5
    longest: float = 30.0
    steady: float = 60.0  # after so long a life the count begins anew

    def delay(self, deaths: int) -> float:
        return min(self.first * 2.0 ** (deaths - 1), self.longest)


@dataclass
class _Child:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    due: float | None = None  # when it is started again
    last_line: str = ""
    reader: threading.Thread | None = None


@dataclass(frozen=True)
class _Ended:
    child: _Child
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class _Told:
    """To stop."""

    at: float


@dataclass
class Supervisor:
    """`start` in order, `run` until told to stop, then always `stop`."""

    say: Say
    backoff: Backoff = field(default_factory=Backoff)
    settled: bool = False
    """Until the stack has worked once, a child that ends of its own ends everything: it said why, and would again."""

    def __post_init__(self) -> None:
        self._children: list[_Child] = []
        self._events: queue.SimpleQueue[_Ended | _Told] = queue.SimpleQueue()
        self._told: float | None = None  # when it was told to stop
        self._hurry = False

    def request_stop(self) -> None:
        """From any thread or signal handler."""
        self._events.put(_Told(time.monotonic()))

    def start(self, program: Program) -> None:
        child = _Child(program)
        self._children.append(child)
        self._spawn(child)

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float) -> bool:
        """Until the condition holds; False where it was told to stop first. Raises StackFailed."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise StackFailed(f"{what} did not answer within {seconds:g} s")
            with suppress(queue.Empty):
                self._handle(self._events.get(timeout=0.02))
            if self._told is not None:
                return False
        return True

    def run(self) -> None:
        """Start again what dies, until told to stop. Raises StackFailed where something dies at the start."""
        while self._told is None:
            due = min((child.due for child in self._children if child.due is not None), default=None)
            try:
                timeout = None if due is None else max(0.0, due - time.monotonic())
                self._handle(self._events.get(timeout=timeout))
            except queue.Empty:
                for child in self._children:
                    if child.due is not None and child.due <= time.monotonic():
                        self._spawn(child)

    def stop(self) -> None:
        """End every child, the last one started first, each within its grace. A second request to stop kills."""
        for child in reversed(self._children):
            process, child.due = child.process, None
            if process is None:
                continue
            if process.poll() is None:
                self.say("otoscope", f"ending the {child.program.name}")
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                self._wait_end(process, child.program)
            _sweep(process)
            if child.reader is not None:
                child.reader.join(timeout=1.0)  # its last words
        self._children.clear()

    def _wait_end(self, process: subprocess.Popen[bytes], program: Program) -> None:
        deadline = time.monotonic() + program.grace
        while process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0 or self._hurry:
                why = f"has not ended within {program.grace:g} s" if left <= 0 else "is not waited for"
                self.say("otoscope", f"the {program.name} {why}: killed")
                process.kill()
                process.wait()
                return
            with suppress(queue.Empty):
                event = self._events.get(timeout=left)
                if isinstance(event, _Told):
                    self._note(event)

    def _note(self, told: _Told) -> None:
        if self._told is None:
            self._told = told.at
        elif told.at - self._told > 1.0:  # one wish may come twice: from the terminal and through `make`
            self._hurry = True

    def _handle(self, event: _Ended | _Told) -> None:
        if isinstance(event, _Told):
            self._note(event)
            return
        child = event.child
        _sweep(event.process)
        child.process = None
        if child.reader is not None:
            child.reader.join(timeout=1.0)
        how = _how_it_ended(event.process.returncode)
        if not self.settled:
            words = f"; it said: {child.last_line}" if child.last_line else ""
            raise StackFailed(f"the {child.program.name} ended at the start ({how}){words}")
        lived = time.monotonic() - child.started
        child.deaths = 1 if lived > self.backoff.steady else child.deaths + 1
        delay = self.backoff.delay(child.deaths)
        child.due = time.monotonic() + delay
        self.say("otoscope", f"the {child.program.name} died ({how}) after {lived:.0f} s; again in {delay:g} s")

    def _spawn(self, child: _Child) -> None:
        program = child.program
        pdeathsig = [sys.executable, "-I", "-S", str(_PDEATHSIG), str(os.getpid()), str(int(program.farewell))]
        child.due, child.started, child.last_line = None, time.monotonic(), ""
        process = subprocess.Popen(  # nosec B603  # our own programs, no shell
            pdeathsig + program.argv,
            env=program.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal reaches this process alone, which then ends the others in order.
            start_new_session=True,
        )
        child.process = process
        child.reader = threading.Thread(target=self._listen, args=(child, process.stdout), daemon=True)
        child.reader.start()
        threading.Thread(target=self._await, args=(child, process), daemon=True).start()

    def _await(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._events.put(_Ended(child, process))

    def _listen(self, child: _Child, output: IO[bytes]) -> None:
        with output:
            for line in output:
                text = child.program.tidy(line.decode(errors="replace").rstrip())
                if text:
                    child.last_line = text
                    self.say(child.program.name, text)


def _sweep(process: subprocess.Popen[bytes]) -> None:
    """Kill what an ended child has left behind in its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"
