"""The routes that are asked for most, with nothing of FastAPI between them and their requests.

Finding out which route is meant, what a request says and what a function wants takes FastAPI a fifth of a millisecond,
several times what reading a job takes. So the functions of a direct router take the request alone and are called by
Starlette; FastAPI only describes them, their parameters as they are told here.
"""

from typing import Any, Literal

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Match, Route
from starlette.types import Scope


def install(app: FastAPI, router: APIRouter) -> None:
    """Serve a direct router; before any other, since the first route that fits is taken."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            app.router.routes.append(Counted(route.path, route.endpoint, methods=route.methods))
    app.include_router(router)


class Counted(Route):
    """A route by whose path its requests are counted, as FastAPI's are."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, {**found, "route": self}


def parameter(name: str, where: Literal["path", "query", "header"], description: str, **schema: Any) -> dict[str, Any]:
    """A parameter in OpenAPI's terms."""
    return {"name": name, "in": where, "required": where == "path", "description": description, "schema": schema}
