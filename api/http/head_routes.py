"""Which methods a path has: HEAD wherever there is GET, which FastAPI leaves out, and what a refusal says there is."""

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from sse_starlette import EventSourceResponse
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from api.http.fast_routes import Counted

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""All that are told apart; what else somebody may send is one of a kind."""


def exists(scope: Scope) -> bool:
    """Whether there is something at its path for its method."""
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].routes)


def allowed(scope: Scope) -> list[str]:
    """The methods of its path, whichever routes they belong to."""
    return [method for method in METHODS if exists({**scope, "method": method})]


def add_head(app: FastAPI, router: APIRouter) -> None:
    """Answer HEAD on every GET route of a router that has been included but event streams, which have no end."""
    for route in router.routes:
        if not isinstance(route, APIRoute) or route.response_class is EventSourceResponse:
            continue
        if "GET" in (route.methods or ()):
            app.router.routes.append(Counted(route.path, _Head(), methods=["HEAD"]))


class _Head:
    """Answers as to a GET; the body is left out by the server, to which it still is a HEAD."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["app"].router({**scope, "method": "GET"}, receive, send)
