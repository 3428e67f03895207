"""The limits of concurrent requests, and of the memory that their bodies and the bodies of their responses take."""

from collections import Counter

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problems import problem_response
from otoscope.errors import TooManyConnections

_UNLIMITED = ("/health/", "/metrics")
"""Neither counted nor refused: an overloaded gateway must not fail its probes and be restarted."""

_SMALL_RESPONSE = 64 * 1024  # bytes: of these the limit of connections is limit enough


class ConnectionLimitMiddleware:
    """Refuses requests beyond `max_requests` at a time with 503.

    Not uvicorn's own `limit_concurrency`, which answers plain text that no metric counts, and which counts idle
    connections as requests.
    """

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        self._app, self._max = app, max_requests
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_UNLIMITED):
            await self._app(scope, receive, send)
            return
        self._in_flight += 1
        try:
            if self._in_flight > self._max:
                detail = f"{self._max} requests are in progress, which is the limit; try again."
                error = TooManyConnections(detail, retry_after=1)
                await problem_response(error, Request(scope))(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1


class Memory:
    """Bytes that the requests of one kind hold, of at most `limit`; one client address holds at most `share` of it."""

    def __init__(self, kind: str, limit: int, share: float) -> None:
        self.kind, self._limit, self._of_one = kind, limit, limit * share
        self.used = 0
        self._by_address: Counter[str] = Counter()

    def take(self, address: str, size: int) -> None:
        """Raises TooManyConnections where there is no room for so many more bytes; what holds none has room."""
        free = self.used == 0
        if not free and (self.used + size > self._limit or self._by_address[address] + size > self._of_one):
            raise TooManyConnections(
                f"The {self.kind} in progress hold {self.used:,} bytes; {self._limit:,} are the limit, and"
                f" {self._of_one:,.0f} for one client. Try again.",
                retry_after=2,
            )
        self.used += size
        self._by_address[address] += size

    def release(self, address: str, size: int) -> None:
        self.used -= size
        self._by_address[address] -= size
        if self._by_address[address] <= 0:
            del self._by_address[address]


class MemoryLimitMiddleware:
    """Counts the bytes of uploads until their request ends, and of responses until they are read, and refuses with 503
    what goes beyond.

    Uploads are counted as they arrive: a declared length holds nothing. A response of a declared length is in memory as
    a whole, however slowly its client reads.
    """

    def __init__(self, app: ASGIApp, uploads: int, responses: int, share: float) -> None:
        """`uploads` and `responses` are in bytes, `share` is that of one client address."""
        self._app = app
        self._uploads, self._responses = Memory("uploads", uploads, share), Memory("responses", responses, share)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_UNLIMITED):
            await self._app(scope, receive, send)
            return
        address = scope["client"][0] if scope.get("client") else ""
        received = sent = 0
        refused = False

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            if size := len(message.get("body", b"")):
                self._uploads.take(address, size)
                received += size
                self._observe(scope)
            return message

        async def counted_send(message: Message) -> None:
            nonlocal sent, refused
            if refused:
                return
            if message["type"] == "http.response.start" and (size := _content_length(message)) > _SMALL_RESPONSE:
                try:
                    self._responses.take(address, size)
                    sent = size
                    self._observe(scope)
                except TooManyConnections as error:
                    refused = True
                    await problem_response(error, Request(scope))(scope, receive, send)
                    return
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        finally:
            self._uploads.release(address, received)
            self._responses.release(address, sent)
            if received or sent:
                self._observe(scope)

    def _observe(self, scope: Scope) -> None:
        """Set the gauges."""
        held_bytes = scope["app"].state.gateway.metrics.held_bytes
        for memory in (self._uploads, self._responses):
            held_bytes.labels(memory.kind).set(memory.used)


def _content_length(message: Message) -> int:
    return next((int(value) for name, value in message["headers"] if name.lower() == b"content-length"), 0)
