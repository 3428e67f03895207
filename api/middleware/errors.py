"""Unexpected exceptions become a problem document with status 500."""

import logging

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problems import internal_error_response

log = logging.getLogger(__name__)

_STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept", "websocket.close")


class InternalErrorMiddleware:
    """Answers with `internal_error` where the application raised before it began to respond.

    Not Starlette's ServerErrorMiddleware, which is outside of every other one: its response would have no security
    headers and no metrics.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] in _STARTS
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except Exception as error:
            if started:
                if scope["type"] == "websocket":  # uvicorn would log it for HTTP alone
                    log.error("unexpected exception in WebSocket %r", scope["path"], exc_info=error)
                raise
            await internal_error_response(HTTPConnection(scope), error)(scope, receive, send)
