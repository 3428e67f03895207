"""The gateway's application: `create_app(settings)`. Nothing happens at import time."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

from api import background as chores
from api import static_files as page
from api.http import fast_routes as direct
from api.http import head_routes as methods
from api.http import problems as errors
from api.middleware import auth as security
from api.middleware.headers import Measured
from api.middleware.tracing import Traced
from api.routes import evaluate, health, jobs, limits, models
from api.routes import images as pictures
from api.service import Gateway
from otoscope.types import Problem
from shared import tracing
from shared.config.settings import Settings
from shared.jobs import AsyncJobStore
from shared.redis_client.connection import connect_async

DESCRIPTION = """
Submit a sound, get its name and a look inside the network that named it.

Submit to `POST /v1/jobs`, then poll `GET /v1/jobs/{id}` (`?wait=10` holds the line), follow
`GET /v1/jobs/{id}/events`, or send `Prefer: wait=10` with the submission. Errors are `application/problem+json`; their
`code` is stable.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The gateway as an ASGI application. Raises KeysUnusable."""
    settings = settings or Settings()
    ring = security.KeyRing(settings.keys_file) if settings.keys_file is not None else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Threads that render take turns at one interpreter: more are not faster, and keep the event loop waiting.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2, "work"))
        client = connect_async(settings)
        gateway = Gateway(settings, AsyncJobStore(client, settings))
        app.state.gateway = gateway
        tracing.settled()
        background = chores.begin(gateway.changes.run, gateway.changes.follow_queue, gateway.reap, gateway.watch_loop)
        try:
            yield
        finally:
            await chores.end(background)
            await client.aclose()

    app = FastAPI(
        title="Otoscope", version="1", description=DESCRIPTION, lifespan=lifespan,
        docs_url=None, redoc_url=None, swagger_ui_oauth2_redirect_url=None,
    )  # fmt: skip
    errors.install(app)
    direct.install(app, jobs.direct)
    for room in (jobs, pictures, evaluate, models, limits, health):
        app.include_router(room.router)
        methods.add_head(app, room.router)
    page.install(app)
    if tracing.on():
        app.add_middleware(Traced)
    app.add_middleware(security.Guard, ring=ring)
    if settings.origins:  # around the guard: a refusal is told to a page, too, and the question beforehand has no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Idempotency-Key", "Last-Event-ID", "Prefer"],
            expose_headers=["Location", "Preference-Applied", "Retry-After"],
        )
    app.add_middleware(Measured, most=settings.max_connections, shared=bool(settings.origins))
    app.openapi = lambda: _openapi(app, keys=ring is not None)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI, *, keys: bool) -> dict[str, Any]:
    """FastAPI's document plus the schemas of what is read or written by hand."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (Problem, *jobs.SCHEMAS, *evaluate.SCHEMAS):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        security.describe(document, required=keys)
        app.openapi_schema = document
    return app.openapi_schema
