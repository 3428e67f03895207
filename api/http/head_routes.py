"""The methods of a path: HEAD for every GET route, which FastAPI does not add, and the list of allowed methods."""

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from sse_starlette import EventSourceResponse
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from api.http.fast_routes import LabelledRoute

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""The methods that metrics and traces tell apart; every other one has the same label."""


def route_exists(scope: Scope) -> bool:
    """Whether a route matches both the path and the method of the request."""
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].routes)


def allowed_methods(scope: Scope) -> list[str]:
    """The methods of the requested path, over all routes."""
    return [method for method in METHODS if route_exists({**scope, "method": method})]


def add_head(app: FastAPI, router: APIRouter) -> None:
    """Answer HEAD on the GET routes of an included router, except event streams, which do not end."""
    for route in router.routes:
        if not isinstance(route, APIRoute) or route.response_class is EventSourceResponse:
            continue
        if "GET" in (route.methods or ()):
            app.router.routes.append(LabelledRoute(route.path, _Head(), methods=["HEAD"]))


class _Head:
    """Runs the GET route. The server drops the body, since for the server the request still is a HEAD."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["app"].router({**scope, "method": "GET"}, receive, send)
