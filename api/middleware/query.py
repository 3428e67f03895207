"""Query parameters without a value count as absent: `?wait=`, `?wait=null`, `?wait=undefined`."""

from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.forms import UNSET

_UNSET = tuple(value.encode() for value in UNSET)


class UnsetParametersMiddleware:
    """Removes what clients send for a parameter that has no value, for every route at once."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with the query parameters that have a value."""
        if query := scope.get("query_string"):
            kept = [pair for pair in query.split(b"&") if pair.partition(b"=")[2] not in _UNSET]
            scope["query_string"] = b"&".join(kept)
        await self.app(scope, receive, send)
