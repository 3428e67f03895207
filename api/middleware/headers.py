"""What is done around every request: counted, held to a number, and given the headers that each answer carries."""

import time

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http import problems as errors
from api.http.head_routes import METHODS
from otoscope.errors import TooManyConnections

_ALWAYS = ("/health/", "/metrics")
"""Neither counted nor refused: a gateway that has much to do must not pass for one that is dead, and be restarted."""

_Headers = tuple[tuple[bytes, bytes], ...]
_EVERY: _Headers = ((b"x-content-type-options", b"nosniff"),)
_OF_API: _Headers = (
    *_EVERY,
    # An answer opened in a window of its own, a sound's name in it included, runs nothing and stands in no frame.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)


class Measured:
    """Measures every request under its route's template, whatever came of it; past `most` at a time, refuses.

    Plain ASGI rather than a function around the response: it must not stand between a stream and its client. Not
    uvicorn's own limit, which answers plain text that nobody counts, and counts idle connections as if they asked.
    """

    def __init__(self, app: ASGIApp, most: int, shared: bool) -> None:
        self._app, self._most = app, most
        self._under_way = 0
        # What pages of other origins may read at all they may also embed.
        self._of_api = (*_OF_API, (b"cross-origin-resource-policy", b"cross-origin" if shared else b"same-origin"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status, code, started = 500, "internal_error", False

        async def seen(message: Message) -> None:
            nonlocal status, code, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                code = scope.get("state", {}).get("error_code", "")
                headers = message.get("headers", ())
                # The page and its files come with a policy of their own.
                own = any(name == b"content-security-policy" for name, _ in headers)
                message["headers"] = [*headers, *(_EVERY if own else self._of_api)]
            await send(message)

        counted = not scope["path"].startswith(_ALWAYS)
        self._under_way += counted
        try:
            if counted and self._under_way > self._most:
                error = TooManyConnections(f"{self._most} requests are under way; try again.", retry_after=1)
                await errors.respond(error, Request(scope))(scope, receive, seen)
            else:
                await self._app(scope, receive, seen)
        except Exception as error:
            if started:
                raise
            await errors.bug(Request(scope), error)(scope, receive, seen)
        finally:
            self._under_way -= counted
            route = scope.get("route")
            method = scope["method"] if scope["method"] in METHODS else "(other)"
            scope["app"].state.gateway.metrics.request(
                getattr(route, "path", "(none)"), method, status, time.monotonic() - began, code
            )
