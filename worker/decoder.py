"""The pool of decode processes: bytes in, waveform out, and a file that kills its process costs one job."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection

import numpy as np

from shared.audio import Decoded
from shared.errors import BY_CODE, DecoderDied, OtoscopeError

_MEMORY = 2 * 2**30  # bytes of address space a process; ten minutes at 192 kHz need about 1 GiB with their libraries


class DecoderPool:
    """`processes` children that run `worker.decode_child`; `decode` may be called from any thread."""

    def __init__(self, processes: int, seconds: float, max_seconds: float) -> None:
        self._seconds, self._max_seconds = seconds, max_seconds
        self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()  # the warmest first
        self._lock = threading.Lock()
        self._children: set[_Child] = set()
        self._closed = False
        self.deaths = 0
        for _ in range(processes):
            self._idle.put(self._spawn())

    def decode(self, data: bytes, rate: int, timeout: float | None = None) -> Decoded:
        """As `shared.audio.decode`; raises its errors, or DecoderDied when the process died or took too long."""
        limit = min(self._seconds, timeout) if timeout is not None else self._seconds
        child = self._idle.get()
        try:
            return child.decode(data, rate, self._max_seconds, limit)
        except _ChildLost as lost:
            self.deaths += 1
            with self._lock:
                self._children.discard(child)
            why = child.end()
            if not self._closed:
                child = self._spawn()
            raise DecoderDied(f"{lost} ({why}); the file is probably damaged or hostile.") from lost
        finally:
            self._idle.put(child)

    def close(self) -> None:
        """End the children; `decode` must not be called any more."""
        self._closed = True
        with self._lock:
            children = list(self._children)
        for child in children:
            child.end()

    @property
    def pids(self) -> list[int]:
        with self._lock:
            return [child.process.pid for child in self._children]

    def _spawn(self) -> "_Child":
        child = _Child(self._seconds)
        with self._lock:
            self._children.add(child)
        return child


class _ChildLost(Exception):
    """The process ended or did not answer."""


class _Child:
    def __init__(self, cpu_seconds: float) -> None:
        ours, theirs = socket.socketpair()
        environment = dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "worker.decode_child",
                    str(theirs.fileno()),
                    str(_MEMORY),
                    str(cpu_seconds),
                    str(os.getpid()),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                # Ctrl-C in a terminal goes to the whole group; the worker wants its decoders while it drains.
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())

    def decode(self, data: bytes, rate: int, max_seconds: float, timeout: float) -> Decoded:
        try:
            self._connection.send_bytes(json.dumps({"rate": rate, "max_seconds": max_seconds}).encode())
            self._connection.send_bytes(data)
            if not self._connection.poll(timeout):
                raise _ChildLost(f"Decoding took more than {timeout:.3g} s")
            about = json.loads(self._connection.recv_bytes())
            if "code" in about:
                raise BY_CODE.get(about["code"], OtoscopeError)(about["detail"])
            waveform = np.frombuffer(self._connection.recv_bytes(), np.float32)
        except (EOFError, OSError) as error:
            raise _ChildLost("The decode process died") from error
        return Decoded(waveform, about["rate"], about["source_rate"], about["channels"], about["container"])

    def end(self) -> str:
        """Kill the process and say how it went."""
        self._connection.close()
        gone = time.monotonic() + 0.2  # a process that is dying of its own is left to say why
        while self.process.poll() is None and time.monotonic() < gone:
            time.sleep(0.01)
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
