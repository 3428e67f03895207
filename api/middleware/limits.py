"""The limits of concurrent requests, and of the memory that their bodies and the bodies of their responses take."""

from collections import Counter

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problems import problem_response
from api.memory import Budget, RequestMemory
from otoscope.errors import RateLimited, TooManyConnections

_UNLIMITED = ("/health/", "/metrics")
"""Neither counted nor refused: an overloaded gateway must not fail its probes and be restarted."""

_SMALL_RESPONSE = 64 * 1024  # bytes: of these the limit of connections is limit enough
_PIECE = 64 * 1024  # bytes that are passed to the connection at once, the next ones when it has room


class ConnectionLimitMiddleware:
    """Refuses requests beyond `max_requests` at a time with 503.

    Not uvicorn's own `limit_concurrency`, which answers plain text that no metric counts, and which counts idle
    connections as requests.
    """

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        self._app, self._max = app, max_requests
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"].startswith(_UNLIMITED):
            await self._app(scope, receive, send)
            return
        self._in_flight += 1
        try:
            if self._in_flight > self._max:
                detail = f"{self._max} requests are in progress, which is the limit; try again."
                error = TooManyConnections(detail, retry_after=1)
                await problem_response(error, HTTPConnection(scope))(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1


class CallerShareMiddleware:
    """Refuses requests beyond `max_requests` of one caller at a time with 429, so that no key and no address takes all
    places with event streams or requests that wait. Inside of the authentication, which identifies the caller."""

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        self._app, self._max = app, max_requests
        self._in_flight: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"].startswith(_UNLIMITED):
            await self._app(scope, receive, send)
            return
        caller = scope["state"]["caller"].name
        if self._in_flight[caller] >= self._max:
            detail = f"{self._max} of your requests are in progress, which is the limit for one caller; try again."
            error = RateLimited(detail, retry_after=1)
            await problem_response(error, HTTPConnection(scope))(scope, receive, send)
            return
        self._in_flight[caller] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight[caller] -= 1
            if not self._in_flight[caller]:
                del self._in_flight[caller]


class MemoryLimitMiddleware:
    """Counts the bytes of uploads until their request ends, and of responses until they are read, and refuses what goes
    beyond: with 503, or with 429 where it is the share of one caller.

    Uploads are counted as they arrive: a declared length holds nothing. A response of a declared length is in memory as
    a whole, however slowly its client reads: it is passed to the connection piece by piece, and the request ends when
    the last one has left. Routes count what they read from Redis, and streams without a length, by `RequestMemory`.
    """

    def __init__(self, app: ASGIApp, uploads: Budget, responses: Budget) -> None:
        self._app, self._uploads, self._responses = app, uploads, responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"].startswith(_UNLIMITED):
            await self._app(scope, receive, send)
            return
        memory = RequestMemory(scope, self._uploads, self._responses)
        scope.setdefault("state", {})["memory"] = memory
        if scope["type"] == "websocket":
            try:
                await self._app(scope, receive, send)  # a stream counts what it holds
            finally:
                memory.release()
            return
        refused = False

        async def counted_receive() -> Message:
            message = await receive()
            if size := len(message.get("body", b"")):
                memory.receive(size)
            return message

        async def counted_send(message: Message) -> None:
            nonlocal refused
            if refused:
                return
            size = _content_length(message) if message["type"] == "http.response.start" else None
            if size is not None:
                try:
                    memory.hold(size if size > _SMALL_RESPONSE else 0)
                except (RateLimited, TooManyConnections) as error:
                    refused = True
                    await problem_response(error, HTTPConnection(scope))(scope, receive, send)
                    return
            if len(message.get("body", b"")) > _PIECE:
                await _send_in_pieces(message, send)
            else:
                await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        finally:
            memory.release()


async def _send_in_pieces(message: Message, send: Send) -> None:
    """uvicorn waits before it sends a piece until the connection has sent most of the earlier ones, and so before the
    empty last one until nearly everything has left the process."""
    body = message["body"]
    for at in range(0, len(body), _PIECE):
        await send({**message, "body": body[at : at + _PIECE], "more_body": True})
    if not message.get("more_body", False):
        await send({**message, "body": b""})


def _content_length(message: Message) -> int | None:
    return next((int(value) for name, value in message["headers"] if name.lower() == b"content-length"), None)
