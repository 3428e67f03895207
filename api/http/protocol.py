"""Limits that uvicorn leaves out: the size of a request head, the time to send one, clients that stop reading, the
number of open connections, and which requests become a WebSocket."""

import logging
import re
import time
from asyncio import TimerHandle, Transport
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers; also what comes between two pieces of a body or behind the last one (the framing of chunks
and trailer fields). Bytes that arrive in the same piece as the first ones are not counted."""

MIN_READ_BYTES = 64 * 1024
"""What a client must read of a buffered response within the timeout; else the connection is aborted and the memory
freed."""


MAX_MESSAGE_BYTES = 256 * 1024
"""Largest message of a WebSocket: 1.3 s of sound at 48 kHz in 32 bits. Its connection is closed with 1009 beyond it."""

_SILENT = logging.getLogger(f"{__name__}.websockets")
_SILENT.setLevel(logging.CRITICAL + 1)


class SilentWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol without its log: any client can cause a line, or a traceback, with every handshake.

    Streams are logged by `api.live`, and unexpected exceptions by `api.middleware.errors`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = self.conn.logger = _SILENT


WEBSOCKETS: dict[str, Any] = {
    "ws": SilentWebSocketProtocol,
    "ws_max_size": MAX_MESSAGE_BYTES,
    "ws_per_message_deflate": False,  # sound does not become smaller
}
"""Options of uvicorn. Its other implementation of WebSockets uses an interface that websockets has deprecated."""

_WEBSOCKET_PATH = re.compile(rb"/v1/stream(\?|$)")
_MAX_UPGRADE_HEADERS = 100  # websockets' own limits are 128 lines of 8 KB, beyond which uvicorn raises
_MAX_UPGRADE_LINE = 8_000  # bytes

_LOG_SECONDS = 60.0  # between two warnings of refused connections


def bounded_protocol(timeout: float, max_open: int | None = None) -> type[HttpToolsProtocol]:
    """A protocol for uvicorn in which a request head, and each read of a response, takes at most `timeout` seconds.

    The body of a request is limited by `api.http.uploads`. Connections beyond `max_open` get 503 and are closed: a
    process without a free file descriptor could not accept them, and libuv then closes every new connection without an
    answer (`uv__emfile_trick`).
    """
    warned_at = -_LOG_SECONDS

    class BoundedProtocol(HttpToolsProtocol):
        """Between two requests uvicorn's own keep-alive timeout applies."""

        _head_bytes = 0  # since the piece in which the head began
        _framing_bytes = 0  # since the last piece of the body
        _in_head = True
        _head_timer: TimerHandle | None = None
        _read_timer: TimerHandle | None = None
        _upgraded = False  # the connection has become a WebSocket, with a protocol of its own

        def _should_upgrade(self) -> bool:
            """Of other requests `Upgrade` is ignored, as a server may (RFC 9110, section 7.8)."""
            is_stream = self.scope["method"] == "GET" and _WEBSOCKET_PATH.match(self.url) is not None
            return is_stream and super()._should_upgrade()

        def _unsupported_upgrade_warning(self) -> None:
            """Not logged: any client can cause it."""

        def handle_websocket_upgrade(self) -> None:
            lines = [len(name) + len(value) for name, value in self.headers]
            if len(lines) > _MAX_UPGRADE_HEADERS or max([len(self.url), *lines]) > _MAX_UPGRADE_LINE:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return
            self._upgraded = True
            self._stop_head_timer()
            self._stop_read_timer()
            super().handle_websocket_upgrade()

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if max_open is not None and len(self.connections) > max_open:
                self._log_refusal(max_open)
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
                return
            self._start_head_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_head_timer()
            self._stop_read_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            self._head_bytes += len(data)
            self._framing_bytes += len(data)
            super().data_received(data)
            if self.transport.is_closing() or self._upgraded:
                return
            if (self._head_bytes if self._in_head else self._framing_bytes) > MAX_HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            elif self._head_timer is None and (self._in_head or self.cycle.response_complete):
                # For the rest of the head; line ends between two requests have stopped uvicorn's keep-alive timer.
                self._start_head_timer()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._head_bytes, self._in_head = 0, True

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._in_head:  # a trailer field of a chunked body is ignored (RFC 9110, section 6.5)
                super().on_header(name, value)

        def on_body(self, body: bytes) -> None:
            self._framing_bytes = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._framing_bytes = 0
            super().on_message_complete()

        def on_headers_complete(self) -> None:
            self._in_head, self._framing_bytes = False, 0
            self._stop_head_timer()
            super().on_headers_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._start_read_timer(self.transport.get_write_buffer_size())

        def resume_writing(self) -> None:
            self._stop_read_timer()
            super().resume_writing()

        def _start_read_timer(self, unread: int) -> None:
            self._read_timer = self.loop.call_later(timeout, self._check_reader, unread)

        def _check_reader(self, before: int) -> None:
            unread = self.transport.get_write_buffer_size()
            if unread > before - MIN_READ_BYTES:
                self.transport.abort()
            else:
                self._start_read_timer(unread)

        def _stop_read_timer(self) -> None:
            if self._read_timer is not None:
                self._read_timer.cancel()
                self._read_timer = None

        def _start_head_timer(self) -> None:
            self._head_timer = self.loop.call_later(timeout, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

        def _stop_head_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        @staticmethod
        def _log_refusal(limit: int) -> None:
            nonlocal warned_at
            if time.monotonic() - warned_at >= _LOG_SECONDS:
                warned_at = time.monotonic()
                log.warning(
                    "%d connections are open, as many as the limit of file descriptors permits; further ones get 503",
                    limit,
                )

        def _refuse(self, status: HTTPStatus) -> None:
            self._stop_head_timer()
            response = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            self.transport.write(response.encode())
            self.transport.close()

    return BoundedProtocol
