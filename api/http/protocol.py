"""What uvicorn leaves open: how large the head of a request may be, how long it may take, and who never reads."""

from asyncio import TimerHandle, Transport
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 64 * 1024
"""Bytes of address and headers; not counted are those that come in one piece with the first."""

LEAST_READ = 64 * 1024
"""Bytes of a waiting answer that a reader takes within its time; of who takes less, nothing more is held in memory."""


def bounded(seconds: float) -> type[HttpToolsProtocol]:
    """A protocol for uvicorn that waits for so long for a head, and for a reader.

    What the body of a request may cost is for `api.http.uploads` to say.
    """

    class Bounded(HttpToolsProtocol):
        """While nothing is said between two requests, uvicorn's own timeout for idle connections counts."""

        _head = 0  # bytes since the piece in which it began
        _in_head = True
        _patience: TimerHandle | None = None
        _reader: TimerHandle | None = None

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            self._stop_watching()
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

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch(self.transport.get_write_buffer_size())

        def resume_writing(self) -> None:
            self._stop_watching()
            super().resume_writing()

        def _watch(self, unread: int) -> None:
            self._reader = self.loop.call_later(seconds, self._check_reader, unread)

        def _check_reader(self, before: int) -> None:
            unread = self.transport.get_write_buffer_size()
            if unread > before - LEAST_READ:
                self.transport.abort()
            else:
                self._watch(unread)

        def _stop_watching(self) -> None:
            if self._reader is not None:
                self._reader.cancel()
                self._reader = None

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
