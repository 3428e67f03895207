"""Length-prefixed messages between the worker and a decode process: eight bytes of length (big-endian), then the body.

Both ends use this class, over a socket pair. A deadline (on the clock of time.monotonic) covers the whole message, sent
or received, so that a process that stops in the middle of a message blocks no thread. Messages that are sent together
need one system call, and short ones that arrive together are received with one: in the worker, each call gives up the
interpreter lock and waits for it again.
"""

import math
import socket
import struct
import time
from collections.abc import Callable

_LENGTH = struct.Struct("!Q")
_AHEAD = 2**16  # bytes that are received at once, whether or not they belong to the same message
CHECK_SECONDS = 0.2  # between two calls of `check`


class FramedSocket:
    """One end. Methods raise EOFError or OSError if the other end is closed, TimeoutError after the deadline.

    While they wait, they call `check`, which ends the wait by raising; the socket cannot be used any more then.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._timeout: float | None = None
        end.settimeout(None)
        self._ahead = bytearray(_AHEAD)
        self._first = self._last = 0  # what of `_ahead` is received and not yet read

    def send(
        self, *messages: bytes | memoryview, deadline: float = math.inf, check: Callable[[], None] | None = None
    ) -> None:
        rest: list[memoryview] = []
        for message in messages:
            rest += [memoryview(part) for part in (_LENGTH.pack(len(message)), message) if part]
        while rest:
            sent = self._wait(lambda: self._end.sendmsg(rest), deadline, check)
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if sent:
                rest[0] = rest[0][sent:]

    def receive(self, limit: int, deadline: float = math.inf, check: Callable[[], None] | None = None) -> bytearray:
        """The next message. Raises ValueError if its length is over `limit` bytes."""
        (size,) = _LENGTH.unpack(self._receive_exactly(_LENGTH.size, deadline, check))
        if size > limit:
            raise ValueError(f"a message of {size} bytes; at most {limit} are accepted")
        return self._receive_exactly(size, deadline, check)

    def close(self) -> None:
        """Close this end; a thread that is blocked in `receive` gets EOFError or OSError."""
        try:
            self._end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was closed first, or this is the second call
        finally:
            self._end.close()

    def _receive_exactly(self, size: int, deadline: float, check: Callable[[], None] | None) -> bytearray:
        message = bytearray(size)
        free = memoryview(message)
        while free:
            if self._first == self._last:
                into = free if len(free) >= _AHEAD else memoryview(self._ahead)
                count = self._wait(lambda: self._end.recv_into(into), deadline, check)  # noqa: B023
                if not count:
                    raise EOFError
                if into is free:
                    free = free[count:]
                    continue
                self._first, self._last = 0, count
            count = min(len(free), self._last - self._first)
            free[:count] = memoryview(self._ahead)[self._first : self._first + count]
            self._first += count
            free = free[count:]
        return message

    def _wait(self, transfer: Callable[[], int], deadline: float, check: Callable[[], None] | None) -> int:
        """The bytes that a call of the socket has transferred, once there were any."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            timeout = min(left, CHECK_SECONDS) if check or left < math.inf else None
            if timeout != self._timeout:  # a system call
                self._end.settimeout(timeout)
                self._timeout = timeout
            try:
                return transfer()
            except TimeoutError:
                if check:
                    check()
