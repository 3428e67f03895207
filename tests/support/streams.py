"""A client of `/v1/stream` for the tests: plain WebSocket messages, without the project's own client."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

RATE = 16_000  # Hz


def pcm(samples: NDArray[Any]) -> bytes:
    """Samples in -1..1 as 16-bit PCM."""
    return np.rint(np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes()


def tone(seconds: float, rate: int = RATE, hertz: float = 440.0) -> bytes:
    """A sine of half of full scale as 16-bit PCM."""
    return pcm(0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate))


class StreamClient:
    """An open stream. Messages are dictionaries, whether they came as JSON or as MessagePack."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def send(self, sound: bytes) -> None:
        self.socket.send(sound)

    def control(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def receive(self, timeout: float = 20.0) -> dict[str, Any]:
        """The next message."""
        message = self.socket.recv(timeout)
        decoded: dict[str, Any] = json.loads(message) if isinstance(message, str) else msgpack.unpackb(message)
        return decoded

    def finish(self) -> list[dict[str, Any]]:
        """End the sound; the messages up to the close frame, which is a normal one."""
        self.control(type="end")
        messages = self.until_closed(1000)
        assert messages[-1]["last"], messages
        return messages

    def until_closed(self, code: int, timeout: float = 20.0) -> list[dict[str, Any]]:
        """The messages that are left; the connection must be closed with that code."""
        messages: list[dict[str, Any]] = []
        with pytest.raises(ConnectionClosed) as closed:
            self._receive_all(messages, timeout)
        assert closed.value.rcvd is not None, messages
        assert closed.value.rcvd.code == code, (closed.value.rcvd, messages)
        return messages

    def _receive_all(self, messages: list[dict[str, Any]], timeout: float) -> None:
        while True:
            messages.append(self.receive(timeout))


@contextmanager
def open_stream(url: str, headers: dict[str, str] | None = None, **options: Any) -> Iterator[StreamClient]:
    """A stream of the gateway at that base URL; `rate` is 16 kHz where it is not given. Does not read `opened`."""
    protocols = options.pop("protocols", None)
    query = urlencode({"rate": RATE, **options})
    address = f"{url.replace('http', 'ws', 1).rstrip('/')}/v1/stream?{query}"
    with connect(
        address, additional_headers=headers, subprotocols=protocols, compression=None, proxy=None, max_size=None,
        open_timeout=20, close_timeout=5,
    ) as socket:  # fmt: skip
        yield StreamClient(socket)
