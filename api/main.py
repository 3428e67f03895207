"""The gateway's ASGI application: `create_app(settings)`. Nothing happens at import time."""

import asyncio
import math
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import chain
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

from api import background, static_files
from api.batches import Batches
from api.http import fast_routes, head_routes, problems
from api.live.registry import StreamRegistry
from api.memory import Budget
from api.middleware import auth
from api.middleware.errors import InternalErrorMiddleware
from api.middleware.headers import SecurityHeadersMiddleware
from api.middleware.hosts import HostMiddleware
from api.middleware.limits import CallerShareMiddleware, ConnectionLimitMiddleware, MemoryLimitMiddleware
from api.middleware.metrics import MetricsMiddleware
from api.middleware.query import UnsetParametersMiddleware
from api.middleware.tracing import TracingMiddleware
from api.routes import (
    audio,
    batches,
    detections,
    evaluate,
    health,
    hugging_face,
    images,
    jobs,
    limits,
    models,
    open_inference,
)
from api.routes import streams as live_streams
from api.service import Gateway
from api.threads import THREADS
from otoscope.types import Problem
from shared import tracing
from shared.config.settings import Settings
from shared.jobs import ShardedJobStore
from shared.jobs.servers import Servers
from shared.jobs.sharded_store import ShardedBatchStore
from shared.redis_client.connection import connect_async

_STOP_SECONDS = 5.0  # for the background tasks and connections, after the requests have ended

DESCRIPTION = """
Classify sounds, and see what the network computed on the way.

Submit to `POST /v1/jobs`, then poll `GET /v1/jobs/{id}` (`?wait=10` for a long poll), follow
`GET /v1/jobs/{id}/events`, or send `Prefer: wait=10` with the submission. Sound is classified while it is recorded
over a WebSocket, `/v1/stream`. Errors are `application/problem+json`; their `code` is stable.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The gateway as an ASGI application. Raises KeyFileError."""
    settings = settings or Settings()
    keys = auth.KeyRing(settings.keys_file) if settings.keys_file is not None else None
    uploads = Budget("uploads", settings.upload_memory, settings.caller_share)
    responses = Budget("responses", settings.response_memory, settings.caller_share)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "render"))
        numbers = range(len(settings.redis_servers))
        clients, probes = ([connect_async(settings, number) for number in numbers] for _ in range(2))
        servers = Servers(clients, settings, probes)
        gateway = Gateway(settings, ShardedJobStore(servers, settings))
        gateway.metrics.watch_held(uploads, responses)
        app.state.gateway = gateway
        app.state.batches = Batches(gateway, ShardedBatchStore(servers))
        app.state.streams = StreamRegistry(settings.max_streams, settings.caller_share)
        tracing.freeze_gc()
        watches = [partial(servers.watch, server) for server in servers] if len(servers) > 1 else []
        if watches:  # before the first job is sent to a server that is down
            await asyncio.gather(*map(servers.probe, servers))
        tasks = background.start(
            *watches,
            *(partial(gateway.notifications.run, server) for server in servers),
            gateway.notifications.poll_queue_positions,
            partial(background.expire_overdue, gateway.store),
            partial(background.measure_loop_delay, gateway.metrics),
        )
        try:
            yield
        finally:
            with suppress(TimeoutError):  # Redis may not answer
                async with asyncio.timeout(_STOP_SECONDS):
                    await background.stop(tasks)
                    for client in (*clients, *probes):
                        await client.aclose()

    app = FastAPI(
        title="Otoscope", version="1", description=DESCRIPTION, lifespan=lifespan,
        docs_url=None, redoc_url=None, swagger_ui_oauth2_redirect_url=None,
    )  # fmt: skip
    problems.install(app)
    fast_routes.install(app, jobs.fast_router)
    for resource in (
        jobs,
        audio,
        batches,
        images,
        detections,
        evaluate,
        hugging_face,
        open_inference,
        models,
        limits,
        health,
    ):
        app.include_router(resource.router)
        head_routes.add_head(app, resource.router)
    app.include_router(live_streams.router)
    static_files.install(app)
    _add_middleware(app, settings, keys, uploads, responses)
    app.openapi = lambda: _openapi(app, keys=keys is not None)  # type: ignore[method-assign]
    return app


def _add_middleware(
    app: FastAPI, settings: Settings, keys: auth.KeyRing | None, uploads: Budget, responses: Budget
) -> None:
    """From the innermost to the outermost."""
    if tracing.enabled():
        app.add_middleware(TracingMiddleware)
    app.add_middleware(UnsetParametersMiddleware)
    own_share = math.ceil(settings.max_connections * settings.caller_share)
    app.add_middleware(CallerShareMiddleware, max_requests=own_share)
    app.add_middleware(auth.AuthMiddleware, keys=keys, origins=settings.origins)
    if keys is None or settings.hosts:
        app.add_middleware(HostMiddleware, listening=settings.host, allowed=settings.hosts)
    if settings.origins:  # outside of authentication: pages may read refusals, and a preflight request has no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Idempotency-Key", "Last-Event-ID", "Prefer"],
            expose_headers=["Content-Disposition", "Location", "Preference-Applied", "Retry-After"],
        )
    app.add_middleware(MemoryLimitMiddleware, uploads=uploads, responses=responses)
    app.add_middleware(ConnectionLimitMiddleware, max_requests=settings.max_connections)
    app.add_middleware(InternalErrorMiddleware)
    app.add_middleware(SecurityHeadersMiddleware, cross_origin=bool(settings.origins))
    app.add_middleware(MetricsMiddleware)


def _openapi(app: FastAPI, *, keys: bool) -> dict[str, Any]:
    """FastAPI's document plus the schemas of bodies that are parsed or rendered by hand."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        parsed_by_hand = (module.SCHEMAS for module in (jobs, batches, evaluate, hugging_face, open_inference))
        for model in (Problem, *chain.from_iterable(parsed_by_hand)):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        auth.add_security(document, required=keys)
        app.openapi_schema = document
    return app.openapi_schema
