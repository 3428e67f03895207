"""The pool of decode processes: bytes in, blocks of samples out; a file that kills its process costs one job."""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from otoscope.errors import DeadlineExceeded, DecoderDied
from shared.audio.decode import BlockStream, Channel, Decoded, SoundStream, collect, plain_header
from shared.audio.limits import AudioLimits
from worker.decode.framing import CHECK_SECONDS
from worker.decode.process import Child, ChildFailed, ChildStream, Clock, Request

T = TypeVar("T")


class DecoderStopped(Exception):
    """The pool was closed before this file was decoded."""


class DecoderKilled(DecoderDied):
    """The process was killed from outside, to free memory or by an operator: not necessarily the fault of its file."""


class DecoderPool:
    """`processes` children that run `worker.decode.child`; `open` and `decode` may be called from any thread.

    A sound of more than ten minutes is decoded as fast as it is classified, which takes minutes. It has a process of
    its own, started for it, so that shorter ones do not wait; of these there are at most `processes`, too.
    """

    def __init__(
        self, processes: int, seconds: float, max_seconds: float, on_crash: Callable[[], None] = lambda: None
    ) -> None:
        """`seconds`: time limit per file and ten minutes of its sound; `max_seconds`: longest accepted sound;
        `on_crash` is called for each process that crashed or exceeded its limit."""
        self._seconds, self._max_seconds, self._on_crash = seconds, max_seconds, on_crash
        self._idle: queue.LifoQueue[Child] = queue.LifoQueue()  # most recently used first: its caches are warm
        self._permits: queue.LifoQueue[None] = queue.LifoQueue()  # to start a process for a long sound
        self._lock = threading.Lock()
        self._children: set[Child] = set()
        self._closed = False
        for _ in range(processes):
            self._idle.put(self._spawn())
            self._permits.put(None)

    def decode(
        self,
        data: bytes,
        rate: int,
        timeout: float | None = None,
        *,
        channel: Channel = "mean",
        strict: bool = False,
    ) -> Decoded:
        """As `shared.audio.decode.decode`, with the errors of `open`."""
        with self.open(data, rate, timeout, channel=channel, strict=strict) as stream:
            return collect(stream)

    @contextmanager
    def open(
        self,
        data: bytes,
        rate: int,
        timeout: float | None = None,
        check: Callable[[], None] = lambda: None,
        *,
        channel: Channel = "mean",
        strict: bool = False,
        long: bool = False,
    ) -> Iterator[BlockStream]:
        """As `shared.audio.decode.SoundStream`, whose errors it raises. An uncompressed file is decoded in this thread.

        `long` is for a sound that is expected to last more than ten minutes. `check` is called at least every 0.2 s
        while there is nothing to do but wait; what it raises ends the decoding, as does the end of the `with` block.
        The block also raises DecoderDied if the process crashed or exceeded its time limit, DecoderKilled if it was
        killed, DeadlineExceeded if `timeout` seconds have passed, including the wait for a free process, and
        DecoderStopped if the pool was closed.
        """
        if header := plain_header(data, rate):  # sending it to a process would cost several times as much
            limits = AudioLimits(max_seconds=self._max_seconds)
            yield SoundStream(data, rate, limits, channel=channel, strict=strict, header=header)
            return
        until = math.inf if timeout is None else time.monotonic() + timeout
        with self._checkout(until, check, long) as slot:
            request = Request(rate, self._max_seconds, channel, strict)
            stream = ChildStream(slot.child, data, request, Clock(self._seconds, until, rate), check)
            try:
                yield stream
            except ChildFailed as failed:
                how = slot.child.end()
                if self._closed:
                    raise DecoderStopped from failed
                self._on_crash()
                if failed.deadline:
                    raise DeadlineExceeded("The job's deadline passed while its sound was decoded.") from failed
                kind = DecoderKilled if failed.ended and slot.child.was_killed else DecoderDied
                raise kind(f"{failed} ({how}); the file is probably damaged or malicious.") from failed
            finally:
                if not stream.idle:  # the process would go on with this file
                    slot.child.end()

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
    def _checkout(self, until: float, check: Callable[[], None], long: bool) -> Iterator["_Slot"]:
        """A slot with a running process, returned to the pool at the end; an ended process is replaced."""
        if long:
            self._wait(self._permits, until, check)
            try:
                child = self._spawn()
                try:
                    yield _Slot(child)
                finally:
                    child.end()
                    self._forget(child)
            finally:
                self._permits.put(None)
            return
        slot = _Slot(self._wait(self._idle, until, check))
        try:
            if slot.child.ended and not self._closed:
                # It ended while idle (killed to free memory, for example): not the fault of the next file.
                self._on_crash()
                self._replace(slot)
            if self._closed:
                raise DecoderStopped
            yield slot
        finally:
            try:
                if slot.child.ended and not self._closed:
                    self._replace(slot)
            finally:
                self._idle.put(slot.child)

    def _wait(self, things: "queue.LifoQueue[T]", until: float, check: Callable[[], None]) -> T:
        """Raises DeadlineExceeded, DecoderStopped, or what `check` raises."""
        while True:
            check()
            if self._closed:
                raise DecoderStopped
            left = until - time.monotonic()
            with suppress(queue.Empty):
                return things.get(timeout=min(max(left, 0), CHECK_SECONDS))
            if left <= CHECK_SECONDS:
                raise DeadlineExceeded("The job's deadline passed while it waited for a decode process.")

    def _replace(self, slot: "_Slot") -> None:
        slot.child.end()
        self._forget(slot.child)
        slot.child = self._spawn()

    def _forget(self, child: Child) -> None:
        with self._lock:
            self._children.discard(child)

    def _spawn(self) -> Child:
        child = Child(self._seconds)
        with self._lock:
            self._children.add(child)
            closed = self._closed
        if closed:  # `close` did not see this one
            child.end()
        return child


class _Slot:
    """One of the pool's places; its process may be replaced."""

    def __init__(self, child: Child) -> None:
        self.child = child
