"""The pool of decode processes: bytes in, waveform out; a file that kills its process costs one job."""

import json
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from otoscope.errors import BY_CODE, AudioError, DeadlineExceeded, DecoderDied
from otoscope.results import WARNINGS, Level, SoundWarning
from shared.audio.decode import Decoded, decode, is_plain
from shared.audio.limits import AudioLimits
from worker.decode.framing import FramedSocket

_MEMORY = 2 * 2**30  # bytes of address space per process; ten minutes at 192 kHz need about 1 GiB with the libraries
_HEADER = 2**16  # bytes: longest JSON header of a reply
_DETAIL = 300  # characters of a warning
_COMMAND = (sys.executable, "-m", "worker.decode.child")
_INHERITED = {"OTOSCOPE_HOME"}  # identifies the installation that a process belongs to, in process lists
_AUDIO_ERRORS = {code: kind for code, kind in BY_CODE.items() if issubclass(kind, AudioError)}


class DecoderStopped(Exception):
    """The pool was closed before this file was decoded."""


class DecoderPool:
    """`processes` children that run `worker.decode.child`; `decode` may be called from any thread."""

    def __init__(
        self, processes: int, seconds: float, max_seconds: float, on_crash: Callable[[], None] = lambda: None
    ) -> None:
        """`seconds`: time limit per file; `max_seconds`: longest accepted sound; `on_crash` is called for each process
        that crashed or exceeded its limit."""
        self._seconds, self._max_seconds, self._on_crash = seconds, max_seconds, on_crash
        self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()  # most recently used first: its caches are warm
        self._lock = threading.Lock()
        self._children: set[_Child] = set()
        self._closed = False
        for _ in range(processes):
            self._idle.put(self._spawn())

    def decode(self, data: bytes, rate: int, timeout: float | None = None) -> Decoded:
        """As `shared.audio.decode.decode`, whose errors it raises. An uncompressed file is decoded in this thread.

        Raises DecoderDied if the process crashed or exceeded its time limit, DeadlineExceeded if `timeout` seconds have
        passed, including the wait for a free process, and DecoderStopped if the pool was closed.
        """
        if is_plain(data, rate):  # sending it to a process would cost several times as much as decoding it
            return decode(data, rate, AudioLimits(max_seconds=self._max_seconds))
        until = math.inf if timeout is None else time.monotonic() + timeout
        with self._checkout(until) as slot:
            deadline = min(until, time.monotonic() + self._seconds)
            try:
                return slot.child.decode(data, rate, self._max_seconds, deadline)
            except _ChildFailed as failed:
                how = slot.child.end()
                if self._closed:
                    raise DecoderStopped from failed
                self._on_crash()
                self._replace(slot)
                if failed.timed_out and deadline == until:
                    raise DeadlineExceeded("The job's deadline passed while its sound was decoded.") from failed
                raise DecoderDied(f"{failed} ({how}); the file is probably damaged or malicious.") from failed

    def close(self) -> None:
        """Kill the children. Calls of `decode` now and later raise DecoderStopped."""
        with self._lock:
            self._closed = True
            children = list(self._children)
        for child in children:
            child.end()

    @property
    def pids(self) -> list[int]:
        """Process ids of the children."""
        with self._lock:
            return [child.process.pid for child in self._children]

    @contextmanager
    def _checkout(self, until: float) -> Iterator["_Slot"]:
        """A slot with a running process, returned to the pool at the end whatever happened to the process."""
        timeout = None if until == math.inf else max(until - time.monotonic(), 0)
        try:
            slot = _Slot(self._idle.get(timeout=timeout))
        except queue.Empty:
            raise DeadlineExceeded("The job's deadline passed while it waited for a decode process.") from None
        try:
            if self._closed:
                raise DecoderStopped
            if slot.child.process.poll() is not None:
                # It ended while idle (killed to free memory, for example): not the fault of the next file.
                slot.child.end()
                self._on_crash()
                self._replace(slot)
            yield slot
        finally:
            self._idle.put(slot.child)

    def _replace(self, slot: "_Slot") -> None:
        with self._lock:
            self._children.discard(slot.child)
        slot.child = self._spawn()

    def _spawn(self) -> "_Child":
        child = _Child(self._seconds)
        with self._lock:
            self._children.add(child)
            closed = self._closed
        if closed:  # `close` did not see this one
            child.end()
        return child


def _level(tree: dict[str, Any]) -> Level:
    """A level from a reply, every value checked."""

    def level(name: str) -> float | None:
        return None if tree[name] is None else float(tree[name])

    return Level(
        level("peak_dbfs"), level("rms_dbfs"), float(tree["clipped"]), float(tree["dc_offset"]), level("bandwidth")
    )


def _warnings(trees: list[list[str]]) -> tuple[SoundWarning, ...]:
    """The warnings of a reply whose codes are known."""
    return tuple(
        SoundWarning(code, str(detail)[:_DETAIL]) for code, detail in trees[: len(WARNINGS)] if code in WARNINGS
    )


class _ChildFailed(Exception):
    """The process ended, timed out or sent an invalid reply: it cannot be used any more."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class _Slot:
    """One of the pool's places; its process may be replaced."""

    def __init__(self, child: "_Child") -> None:
        self.child = child


class _Child:
    def __init__(self, cpu_seconds: float) -> None:
        ours, theirs = socket.socketpair()
        # This process parses untrusted files: it does not get the queue's address and password.
        environment = {
            name: value for name, value in os.environ.items() if name in _INHERITED or "OTOSCOPE_" not in name
        }
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._connection = FramedSocket(ours)
        with theirs:
            self.process = subprocess.Popen(  # nosec B603  # our own program, no shell
                [*_COMMAND, str(theirs.fileno()), str(_MEMORY), str(cpu_seconds), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                # Ctrl-C in a terminal signals the whole process group, but a draining worker still needs its decoders.
                start_new_session=True,
            )

    def decode(self, data: bytes, rate: int, max_seconds: float, deadline: float) -> Decoded:
        """Raises an AudioError or _ChildFailed. The reply is validated: a malicious file may control the process."""
        began = time.monotonic()
        try:
            self._connection.send(json.dumps({"rate": rate, "max_seconds": max_seconds}).encode(), deadline)
            self._connection.send(data, deadline)
            header = json.loads(self._connection.receive(_HEADER, deadline))
            if "code" not in header:
                origin = int(header["source_rate"]), int(header["channels"]), str(header["container"])
                level, warnings = _level(header["level"]), _warnings(header["warnings"])
                size = int((max_seconds + 1) * rate) * np.dtype(np.float32).itemsize
                waveform = np.frombuffer(self._connection.receive(size, deadline), np.float32)  # (samples,)
                return Decoded(waveform, rate, *origin, level, warnings)
            error = _AUDIO_ERRORS[header["code"]](str(header["detail"]))
        except TimeoutError as late:
            raise _ChildFailed(f"Decoding took more than {deadline - began:.3g} s", timed_out=True) from late
        except (EOFError, OSError) as gone:
            raise _ChildFailed("The decode process died") from gone
        except Exception as invalid:
            raise _ChildFailed("The decode process sent an invalid reply") from invalid
        raise error

    def end(self) -> str:
        """Kill the process; returns how it ended."""
        self._connection.close()
        until = time.monotonic() + 0.2  # a process that is already ending gets time to leave its own exit status
        while self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
