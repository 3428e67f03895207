"""Metrics of every request: count, duration and error code, labelled by route template, method and status."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.head_routes import METHODS


class MetricsMiddleware:
    """Records every request, whatever its outcome; the outermost middleware.

    Plain ASGI instead of Starlette's BaseHTTPMiddleware, which would stand between a stream and its client.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._handshake(scope, receive, send)
            return
        began = time.monotonic()
        status, code = 500, "internal_error"

        async def record_start(message: Message) -> None:
            nonlocal status, code
            if message["type"] == "http.response.start":
                status, code = message["status"], scope.get("state", {}).get("error_code", "")
            await send(message)

        try:
            await self._app(scope, receive, record_start)
        finally:
            route = getattr(scope.get("route"), "path", "(none)")
            method = scope["method"] if scope["method"] in METHODS else "(other)"
            scope["app"].state.gateway.metrics.observe_request(route, method, status, time.monotonic() - began, code)

    async def _handshake(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Of a WebSocket the handshake is the request: 101 if it was accepted. The stream counts what follows."""
        began, seen = time.monotonic(), False

        async def record_start(message: Message) -> None:
            nonlocal seen
            status = {"websocket.accept": 101, "websocket.close": 403}.get(message["type"], message.get("status"))
            if status is not None and not seen:
                seen = True
                route = getattr(scope.get("route"), "path", "(none)")
                code = scope.get("state", {}).get("error_code", "")
                seconds = time.monotonic() - began
                scope["app"].state.gateway.metrics.observe_request(route, "GET", status, seconds, code)
            await send(message)

        await self._app(scope, receive, record_start)
