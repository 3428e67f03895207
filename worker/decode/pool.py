"""The pool of decode processes: bytes in, waveform out, and a file that kills its process costs one job."""

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

import numpy as np

from otoscope.errors import BY_CODE, AudioError, DeadlineExceeded, DecoderDied
from shared.audio.decode import AudioLimits, Decoded, decode, is_plain
from worker.decode.framing import FramedSocket

_MEMORY = 2 * 2**30  # bytes of address space a process; ten minutes at 192 kHz need about 1 GiB with their libraries
_HEADER = 2**16  # bytes of JSON that an answer may begin with
_COMMAND = (sys.executable, "-m", "worker.decode.child")
_KEPT = {"OTOSCOPE_HOME"}  # tells people which installation a process belongs to
_AUDIO_ERRORS = {code: kind for code, kind in BY_CODE.items() if issubclass(kind, AudioError)}


class DecoderStopped(Exception):
    """The pool was closed before it came to this file, or in the middle of it."""


class DecoderPool:
    """`processes` children that run `worker.decode.child`; `decode` may be called from any thread."""

    def __init__(
        self, processes: int, seconds: float, max_seconds: float, on_death: Callable[[], None] = lambda: None
    ) -> None:
        """`seconds` is the most that one file may take, `max_seconds` the length of sound that is accepted."""
        self._seconds, self._max_seconds, self._on_death = seconds, max_seconds, on_death
        self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()  # the warmest first
        self._lock = threading.Lock()
        self._children: set[_Child] = set()
        self._closed = False
        for _ in range(processes):
            self._idle.put(self._spawn())

    def decode(self, data: bytes, rate: int, timeout: float | None = None) -> Decoded:
        """As `shared.audio.decode.decode`, whose errors it raises. What is plain is decoded here and now.

        Raises DecoderDied when the process died or took too long over the file, DeadlineExceeded when `timeout`
        seconds were over, the wait for a free process included, and DecoderStopped when the pool was closed.
        """
        if is_plain(data, rate):  # handing it over would cost several times as much as decoding it
            return decode(data, rate, AudioLimits(max_seconds=self._max_seconds))
        until = math.inf if timeout is None else time.monotonic() + timeout
        with self._borrow(until) as place:
            deadline = min(until, time.monotonic() + self._seconds)
            try:
                return place.child.decode(data, rate, self._max_seconds, deadline)
            except _ChildLost as lost:
                why = place.child.end()
                if self._closed:
                    raise DecoderStopped from lost
                self._on_death()
                self._replace(place)
                if lost.late and deadline == until:
                    raise DeadlineExceeded("The job's deadline passed while its sound was decoded.") from lost
                raise DecoderDied(f"{lost} ({why}); the file is probably damaged or hostile.") from lost

    def close(self) -> None:
        """End the children. A `decode` that is under way or comes later raises DecoderStopped."""
        with self._lock:
            self._closed = True
            children = list(self._children)
        for child in children:
            child.end()

    @property
    def pids(self) -> list[int]:
        with self._lock:
            return [child.process.pid for child in self._children]

    @contextmanager
    def _borrow(self, until: float) -> Iterator["_Place"]:
        """A place with a living process in it, put back in the end whatever becomes of the process."""
        patience = None if until == math.inf else max(until - time.monotonic(), 0)
        try:
            place = _Place(self._idle.get(timeout=patience))
        except queue.Empty:
            raise DeadlineExceeded("The job's deadline passed while it waited for a decode process.") from None
        try:
            if self._closed:
                raise DecoderStopped
            if place.child.process.poll() is not None:
                # It died with nothing to do (killed for memory, say): no reason to blame the next file.
                place.child.end()
                self._on_death()
                self._replace(place)
            yield place
        finally:
            self._idle.put(place.child)

    def _replace(self, place: "_Place") -> None:
        with self._lock:
            self._children.discard(place.child)
        place.child = self._spawn()

    def _spawn(self) -> "_Child":
        child = _Child(self._seconds)
        with self._lock:
            self._children.add(child)
            closed = self._closed
        if closed:  # `close` has not seen it
            child.end()
        return child


class _ChildLost(Exception):
    """The process ended, was late or answered nonsense: it is of no more use."""

    def __init__(self, what: str, *, late: bool = False) -> None:
        super().__init__(what)
        self.late = late


class _Place:
    """One of the pool's processes, whichever it is now."""

    def __init__(self, child: "_Child") -> None:
        self.child = child


class _Child:
    def __init__(self, cpu_seconds: float) -> None:
        ours, theirs = socket.socketpair()
        # Files from anywhere are parsed in there: it need not know the queue's address and password.
        environment = {name: value for name, value in os.environ.items() if name in _KEPT or "OTOSCOPE_" not in name}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._wire = FramedSocket(ours)
        with theirs:
            self.process = subprocess.Popen(  # nosec B603  # our own program, no shell
                [*_COMMAND, str(theirs.fileno()), str(_MEMORY), str(cpu_seconds), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                # Ctrl-C in a terminal goes to the whole group; the worker wants its decoders while it drains.
                start_new_session=True,
            )

    def decode(self, data: bytes, rate: int, max_seconds: float, deadline: float) -> Decoded:
        """Raises an AudioError or _ChildLost. What comes back is not trusted: the file may have taken over."""
        began = time.monotonic()
        try:
            self._wire.send(json.dumps({"rate": rate, "max_seconds": max_seconds}).encode(), deadline)
            self._wire.send(data, deadline)
            about = json.loads(self._wire.receive(_HEADER, deadline))
            if "code" not in about:
                origin = int(about["source_rate"]), int(about["channels"]), str(about["container"])
                size = int((max_seconds + 1) * rate) * np.dtype(np.float32).itemsize
                waveform = np.frombuffer(self._wire.receive(size, deadline), np.float32)
                return Decoded(waveform, rate, *origin)
            error = _AUDIO_ERRORS[about["code"]](str(about["detail"]))
        except TimeoutError as late:
            raise _ChildLost(f"Decoding took more than {deadline - began:.3g} s", late=True) from late
        except (EOFError, OSError) as gone:
            raise _ChildLost("The decode process died") from gone
        except Exception as nonsense:
            raise _ChildLost("The decode process gave an answer that makes no sense") from nonsense
        raise error

    def end(self) -> str:
        """Kill the process and say how it went."""
        self._wire.close()
        gone = time.monotonic() + 0.2  # a process that is dying of its own is left to say why
        while self.process.poll() is None and time.monotonic() < gone:
            time.sleep(0.01)
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
