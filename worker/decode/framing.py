"""Length-prefixed messages between the worker and a decode process: eight bytes of length (big-endian), then the body.

Both ends use this class, over a socket pair. A deadline (on the clock of time.monotonic) covers the whole message, sent
or received, so that a process that stops in the middle of a message blocks no thread.
"""

import math
import socket
import struct
import time
from collections.abc import Callable

_LENGTH = struct.Struct("!Q")
CHECK_SECONDS = 0.2  # between two calls of `check`


class FramedSocket:
    """One end. Methods raise EOFError or OSError if the other end is closed, TimeoutError after the deadline.

    While they wait, they call `check`, which ends the wait by raising; the socket cannot be used any more then.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(
        self, message: bytes | memoryview, deadline: float = math.inf, check: Callable[[], None] = lambda: None
    ) -> None:
        for part in (_LENGTH.pack(len(message)), message):
            rest = memoryview(part)
            while rest:
                rest = rest[self._wait(lambda: self._end.send(rest), deadline, check) :]  # noqa: B023

    def receive(self, limit: int, deadline: float = math.inf, check: Callable[[], None] = lambda: None) -> bytearray:
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

    def _receive_exactly(self, size: int, deadline: float, check: Callable[[], None]) -> bytearray:
        message = bytearray(size)
        free = memoryview(message)
        while free:
            count = self._wait(lambda: self._end.recv_into(free), deadline, check)  # noqa: B023
            if not count:
                raise EOFError
            free = free[count:]
        return message

    def _wait(self, transfer: Callable[[], int], deadline: float, check: Callable[[], None]) -> int:
        """The bytes that a call of the socket has transferred, once there were any."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._end.settimeout(min(left, CHECK_SECONDS))
            try:
                return transfer()
            except TimeoutError:
                check()
