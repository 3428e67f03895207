"""A span around every request of the interface that was let in, whichever way it is answered.

Inside of the guard: what is refused at the door leaves no trace, since anybody could make any number of them; it is
counted. Neither do the page's files, health and metrics, which are asked for every few seconds.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.head_routes import METHODS
from shared import tracing

_LONGEST_PATH = 200  # characters: spans wait in memory


class Traced:
    """Continues the caller's trace where it sent a `traceparent`; only there where traces are wanted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(("/v1/", "/evaluate")):
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        path = scope["path"][:_LONGEST_PATH]
        noted = {"http.request.method": method, "url.scheme": scope["scheme"], "url.path": path}
        status = 500

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with tracing.span(method, "server", noted=noted, parent=_sent(scope)):
            try:
                await self._app(scope, receive, seen)
            finally:
                route = getattr(scope.get("route"), "path", "")
                if route:
                    tracing.rename(f"{method} {route}")
                    tracing.note({"http.route": route})
                tracing.note({"http.response.status_code": status})
                if code := scope.get("state", {}).get("error_code"):
                    # Of a refusal the caller is to blame: its span tells the code and has not failed.
                    tracing.failed(code) if status >= 500 else tracing.note({tracing.CODE: code})


def _sent(scope: Scope) -> str:
    """The context that the caller sent, in the form of `tracing.context`."""
    sent = dict.fromkeys((b"traceparent", b"tracestate"), "")
    for name, value in scope["headers"]:
        if name in sent:
            sent[name] = f"{sent[name]},{value.decode('latin-1')}" if sent[name] else value.decode("latin-1")
    return " ".join(sent.values()).strip()
