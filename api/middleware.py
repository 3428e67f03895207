"""What is done around every request: measured, and given the headers that each answer carries."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})


class Measured:
    """Counts every request under its route's template, whatever came of it.

    Plain ASGI rather than a function around the response: it must not stand between a stream and its client.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status, code = 500, "internal_error"

        async def seen(message: Message) -> None:
            nonlocal status, code
            if message["type"] == "http.response.start":
                status = message["status"]
                code = scope.get("state", {}).get("error_code", "")
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        finally:
            route = scope.get("route")
            method = scope["method"] if scope["method"] in _METHODS else "(other)"
            scope["app"].state.gateway.metrics.request(
                getattr(route, "path", "(none)"), method, status, time.monotonic() - began, code
            )
