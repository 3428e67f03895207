"""One decode process: started, sent a file, its blocks received and validated, ended. Used by `worker.decode.pool`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from otoscope.errors import BY_CODE, AudioError, OtoscopeError
from otoscope.results import WARNINGS, Level, SoundWarning
from shared.audio.decode import BLOCK_SAMPLES, Channel, FileInfo, Waveform
from shared.audio.limits import HEAD_SECONDS
from worker.decode import shared_samples
from worker.decode.framing import FramedSocket

_MEMORY = 2 * 2**30  # bytes of address space per process; ten minutes at 192 kHz need about 1 GiB with the libraries
_START_SECONDS = 60.0  # that a process may take to load its libraries
_HEADER = 2**16  # bytes: longest JSON header of a reply
_BLOCK = BLOCK_SAMPLES * np.dtype(np.float32).itemsize  # bytes
_DETAIL = 300  # characters of a warning
_COMMAND = (sys.executable, "-m", "worker.decode.child")
_INHERITED = {"OTOSCOPE_HOME"}  # identifies the installation that a process belongs to, in process lists
_AUDIO_ERRORS = {code: kind for code, kind in BY_CODE.items() if issubclass(kind, AudioError)}


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


@dataclass(frozen=True)
class Request:
    """How a file is to be decoded: the keywords of `worker.decode.child`'s requests."""

    rate: int  # Hz, of the waveform
    max_seconds: float
    channel: Channel = "mean"
    strict: bool = False


class ChildFailed(Exception):
    """The process ended, timed out or sent an invalid reply: it cannot be used any more."""

    def __init__(self, message: str, *, deadline: bool = False, ended: bool = False) -> None:
        """`deadline`: that of the job has passed, which is not the fault of the file. `ended`: the process is gone."""
        super().__init__(message)
        self.deadline, self.ended = deadline, ended


class Clock:
    """The time limit of a file: `seconds` of waiting for its process for every ten minutes of sound, and `until`."""

    def __init__(self, seconds: float, until: float, rate: int) -> None:
        self._seconds, self._rate, self.until = seconds, rate, until
        self._waited = 0.0
        self.samples = 0  # received so far

    @property
    def limit(self) -> float:
        """Seconds that the sound so far may take, and the next ten minutes of it."""
        return self._seconds * (1 + self.samples // (HEAD_SECONDS * self._rate))

    @contextmanager
    def wait(self) -> Iterator[float]:
        """The deadline of a wait, which is counted."""
        began = time.monotonic()
        try:
            yield min(self.until, began + self.limit - self._waited)
        finally:
            self._waited += time.monotonic() - began


class Child:
    def __init__(self, cpu_seconds: float) -> None:
        ours, theirs = socket.socketpair()
        # This process parses untrusted files: it does not get the queue's address and password.
        environment = {
            name: value for name, value in os.environ.items() if name in _INHERITED or "OTOSCOPE_" not in name
        }
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._connection = FramedSocket(ours)
        self._ready = False
        shared = shared_samples.create()
        with theirs:
            self.process = subprocess.Popen(  # nosec B603  # our own program, no shell
                [*_COMMAND, *map(str, (theirs.fileno(), _MEMORY, cpu_seconds, os.getpid(), shared))],
                pass_fds=[theirs.fileno(), shared],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                # Ctrl-C in a terminal signals the whole process group, but a draining worker still needs its decoders.
                start_new_session=True,
            )
        self._samples = shared_samples.attach(shared)

    def wait_until_ready(self, until: float, check: Callable[[], None]) -> None:
        """Wait for the end of the process's start, which is not the fault of its first file. Raises TimeoutError."""
        if not self._ready:
            self._connection.receive(0, min(until, time.monotonic() + _START_SECONDS), check)
            self._ready = True

    def send(self, request: Request, data: bytes, deadline: float, check: Callable[[], None]) -> None:
        header = json.dumps(vars(request)).encode()
        self._connection.send(header, data, deadline=deadline, check=check)

    def receive(self, limit: int, deadline: float, check: Callable[[], None]) -> bytearray:
        return self._connection.receive(limit, deadline, check)

    def shared_block(self, count: int) -> Waveform:
        """(count,): a copy of the samples in the shared memory. Raises ValueError if there is no room for so many."""
        if not 0 < count <= len(self._samples):
            raise ValueError(f"{count} samples in memory for {len(self._samples)}")
        return self._samples[:count].copy()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def was_killed(self) -> bool:
        """Whether it ended by a signal that no fault of a decoder causes."""
        return self.process.returncode in (-signal.SIGKILL, -signal.SIGTERM)

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


class ChildStream:
    """The sound of a file, decoded by a child. Every reply is validated: a malicious file may control the process."""

    def __init__(self, child: Child, data: bytes, request: Request, clock: Clock, check: Callable[[], None]) -> None:
        self._child, self._data, self._request = child, data, request
        self._clock, self._check = clock, check
        self._info: FileInfo | None = None
        self.idle = True  # the process waits for a file

    @property
    def info(self) -> FileInfo:
        """Known after the last block; RuntimeError before."""
        if self._info is None:
            raise RuntimeError("the file has not been decoded to its end")
        return self._info

    def __iter__(self) -> Iterator[Waveform]:
        """Raises an AudioError, ChildFailed, or what `check` raises."""
        self.idle = False
        with self._failures():
            self._child.wait_until_ready(self._clock.until, self._check)
        with self._failures(), self._clock.wait() as deadline:
            self._child.send(self._request, self._data, deadline, self._check)
        while (block := self._next_block()) is not None:
            yield block
        with self._failures():
            with self._clock.wait() as deadline:
                last = json.loads(self._child.receive(_HEADER, deadline, self._check))
            error = _AUDIO_ERRORS[last["code"]](str(last["detail"])) if "code" in last else None
            if error is None:
                block = self._child.shared_block(int(last["samples"]))
                self._count(block)
                self._info = _file_info(last, self._request.rate)
        self.idle = True
        if error is not None:
            raise error
        if block is not None:
            yield block

    def _next_block(self) -> Waveform | None:
        """(samples,); None where the last one is in the shared memory."""
        with self._failures():
            with self._clock.wait() as deadline:
                block = self._child.receive(_BLOCK, deadline, self._check)
            samples = np.frombuffer(block, np.float32)
            self._count(samples)
            return samples if len(samples) else None

    def _count(self, block: Waveform) -> None:
        """Raises ValueError if there are more samples than the request allows."""
        self._clock.samples += len(block)
        if self._clock.samples > (self._request.max_seconds + 1) * self._request.rate:
            raise ValueError("more samples than were requested")

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Every exception but that of `check` becomes ChildFailed."""
        try:
            yield
        except OtoscopeError:
            raise
        except TimeoutError as late:
            deadline = time.monotonic() >= self._clock.until
            raise ChildFailed(f"Decoding took more than {self._clock.limit:.3g} s", deadline=deadline) from late
        except (EOFError, OSError) as gone:
            raise ChildFailed("The decode process died", ended=True) from gone
        except Exception as invalid:
            raise ChildFailed("The decode process sent an invalid reply") from invalid


def _file_info(tree: dict[str, Any], rate: int) -> FileInfo:
    """From a reply, every value checked."""
    return FileInfo(
        rate=rate,
        source_rate=int(tree["source_rate"]),
        channels=int(tree["channels"]),
        container=str(tree["container"]),
        level=_level(tree["level"]),
        warnings=_warnings(tree["warnings"]),
    )
