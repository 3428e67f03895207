"""Security headers of every response."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_Headers = tuple[tuple[bytes, bytes], ...]
_ALL: _Headers = ((b"x-content-type-options", b"nosniff"),)
_API: _Headers = (
    *_ALL,
    # A response that is opened in a browser tab, with the name of a sound in it, runs no script and is in no frame.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)


class SecurityHeadersMiddleware:
    """Adds the headers; `cross_origin` where pages of other origins may read responses, and so may embed them."""

    def __init__(self, app: ASGIApp, cross_origin: bool) -> None:
        self._app = app
        policy = b"cross-origin" if cross_origin else b"same-origin"
        self._api = (*_API, (b"cross-origin-resource-policy", policy))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def add_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = message.get("headers", ())
                # The page and its files have a policy of their own.
                has_policy = any(name == b"content-security-policy" for name, _ in headers)
                message["headers"] = [*headers, *(_ALL if has_policy else self._api)]
            await send(message)

        await self._app(scope, receive, add_headers)
