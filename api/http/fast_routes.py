"""Routes that bypass FastAPI's dependency injection, for the requests that every job makes.

FastAPI takes a fifth of a millisecond to match the route, parse the parameters and resolve the dependencies, several
times what reading a job takes. The functions of a fast router therefore take the request alone and are called by
Starlette; FastAPI only describes them in OpenAPI, with the parameters that are declared there by `parameter`.
"""

from typing import Any, Literal

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Match, Route
from starlette.types import Scope


def install(app: FastAPI, router: APIRouter) -> None:
    """Serve a fast router. Call it before any other router is included, since the first route that matches is taken."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            app.router.routes.append(LabelledRoute(route.path, route.endpoint, methods=route.methods))
    app.include_router(router)


class LabelledRoute(Route):
    """A Starlette route that adds itself to the scope, as FastAPI's do: metrics and traces are labelled by its path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        return match, {**child_scope, "route": self}


def parameter(name: str, where: Literal["path", "query", "header"], description: str, **schema: Any) -> dict[str, Any]:
    """An OpenAPI parameter object."""
    return {"name": name, "in": where, "required": where == "path", "description": description, "schema": schema}
