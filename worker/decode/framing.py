"""Messages between the worker and a decode process: eight bytes of length, then so many bytes, over a socket.

Both ends come from here and nothing else speaks this. A deadline (on time.monotonic's clock) holds for the whole
message, sent or received, so that a process that is stopped in the middle of one holds nobody up.
"""

import math
import socket
import struct
import time

_LENGTH = struct.Struct("!Q")


class FramedSocket:
    """One end. Every method raises EOFError or OSError when the other end is gone, TimeoutError when it is late."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: bytes | memoryview, deadline: float = math.inf) -> None:
        for part in (_LENGTH.pack(len(message)), message):
            self._be_patient_until(deadline)
            self._end.sendall(part)

    def receive(self, limit: int, deadline: float = math.inf) -> bytearray:
        """The next message. Raises ValueError when it announces more than `limit` bytes."""
        (size,) = _LENGTH.unpack(self._exactly(_LENGTH.size, deadline))
        if size > limit:
            raise ValueError(f"a message of {size} bytes where at most {limit} are sensible")
        return self._exactly(size, deadline)

    def close(self) -> None:
        """Close this end; another thread that waits in `receive` is woken."""
        try:
            self._end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was faster, or this is the second time
        finally:
            self._end.close()

    def _exactly(self, size: int, deadline: float) -> bytearray:
        message = bytearray(size)
        free = memoryview(message)
        while free:
            self._be_patient_until(deadline)
            count = self._end.recv_into(free)
            if not count:
                raise EOFError
            free = free[count:]
        return message

    def _be_patient_until(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._end.settimeout(None if left == math.inf else left)
