"""The limit of concurrent requests."""

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.problems import problem_response
from otoscope.errors import TooManyConnections

_UNLIMITED = ("/health/", "/metrics")
"""Neither counted nor refused: an overloaded gateway must not fail its probes and be restarted."""


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
