"""A server span for every request of the API that was admitted, whatever its status.

Inside of the authentication middleware: refused requests get no span, since anybody could send any number of them;
metrics count them. Nor do the files of the page, health and metrics, which are requested every few seconds.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.head_routes import METHODS
from shared import tracing

_TRACED = ("/v1/", "/evaluate", "/hf/", "/v2/models/")
_MAX_PATH = 200  # characters: spans are buffered in memory


class TracingMiddleware:
    """Continues the caller's trace where the request has a `traceparent`; installed only where tracing is enabled."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_TRACED):
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        path = scope["path"][:_MAX_PATH]
        attributes = {"http.request.method": method, "url.scheme": scope["scheme"], "url.path": path}
        status = 500

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with tracing.span(method, "server", attributes=attributes, parent=_trace_context(scope)):
            try:
                await self._app(scope, receive, record_status)
            finally:
                route = getattr(scope.get("route"), "path", "")
                if route:
                    tracing.update_name(f"{method} {route}")
                    tracing.set_attributes({"http.route": route})
                tracing.set_attributes({"http.response.status_code": status})
                if code := scope.get("state", {}).get("error_code"):
                    # A 4xx is the caller's fault: a server span records the code and is no error (OpenTelemetry's
                    # semantic conventions for HTTP).
                    tracing.set_error(code) if status >= 500 else tracing.set_attributes({tracing.CODE: code})


def _trace_context(scope: Scope) -> str:
    """`traceparent` and `tracestate` (W3C Trace Context) of the request, in the form of `tracing.context`."""
    headers = dict.fromkeys((b"traceparent", b"tracestate"), "")
    for name, value in scope["headers"]:
        if name in headers:
            headers[name] = f"{headers[name]},{value.decode('latin-1')}" if headers[name] else value.decode("latin-1")
    return " ".join(headers.values()).strip()
