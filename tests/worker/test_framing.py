"""The messages between a worker and its decode processes."""

import math
import socket
import threading
import time

import pytest

from worker.decode.framing import FramedSocket


def test_messages_have_deadlines_and_limits() -> None:
    """The deadline covers a whole message, and a message over the limit is rejected."""
    ours, theirs = (FramedSocket(end) for end in socket.socketpair())
    ours.send(b"x" * 100_000)
    assert theirs.receive(100_000) == b"x" * 100_000
    ours.send(memoryview(b""))
    assert theirs.receive(0) == b""
    ours.send(b"one", b"", b"y" * 70_000, b"three")
    ours.send(b"four")
    assert [theirs.receive(70_000) for _ in range(5)] == [b"one", b"", b"y" * 70_000, b"three", b"four"]
    with pytest.raises(TimeoutError):
        theirs.receive(10, time.monotonic() + 0.01)
    with pytest.raises(TimeoutError):
        ours.send(bytes(10_000_000), deadline=time.monotonic() + 0.01)
    with pytest.raises(ValueError, match="at most 10 are accepted"):
        theirs.receive(10, math.inf)
    waiting = threading.Timer(0.05, ours.close)
    waiting.start()
    with pytest.raises((EOFError, OSError)):
        ours.receive(10)
    waiting.join()
    ours.close()
    theirs.close()
