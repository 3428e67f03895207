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
        if scope["type"] != "http":
            await self._app(scope, receive, send)
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
