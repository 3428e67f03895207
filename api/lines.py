"""What uvicorn leaves open: how large the head of a request may be, and how long it may take to arrive."""

from asyncio import TimerHandle, Transport
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 64 * 1024
"""Bytes of address and headers; not counted are those that come in one piece with the first."""


def bounded(seconds: float) -> type[HttpToolsProtocol]:
    """A protocol for uvicorn that waits for so long for a head. What the body may cost is for `api.ingest` to say."""

    class Bounded(HttpToolsProtocol):
        """While nothing is said between two requests, uvicorn's own timeout for idle connections counts."""

        _head = 0  # bytes since the piece in which it began
        _in_head = True
        _patience: TimerHandle | None = None

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._head += len(data)
            super().data_received(data)
            if self.transport.is_closing():
                return
            if self._in_head and self._head > LARGEST_HEAD:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            elif self._patience is None and (self._in_head or self.cycle.response_complete):
                self._wait()  # for the rest; and line ends between two requests have ended uvicorn's own wait

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._head, self._in_head = 0, True

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._stop_waiting()
            super().on_headers_complete()

        def _wait(self) -> None:
            self._patience = self.loop.call_later(seconds, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

        def _stop_waiting(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _refuse(self, status: HTTPStatus) -> None:
            self._stop_waiting()
            line = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            self.transport.write(line.encode())
            self.transport.close()

    return Bounded
