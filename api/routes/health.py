"""/health and /metrics."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.rendering.json_arrays import dumps
from api.rendering.results import JSON, respond
from api.service import Here
from otoscope.errors import StoreUnavailable
from otoscope.types import Live, Ready, WorkerList, WorkerSaid

router = APIRouter(tags=["health"])


@router.get("/health/live")
async def live() -> Live:
    """This process answers."""
    return Live()


@router.get(
    "/health/ready", response_model=Ready, responses={503: {"model": Ready, "description": "Not ready; says why"}}
)
async def ready(gateway: Here) -> Response:
    """Redis answers, and at least one worker has run a forward pass and is still there."""
    said = await gateway.ready()
    return respond(dumps(said), JSON, 200 if said["status"] == "ready" else 503)


@router.get("/v1/workers")
async def workers(gateway: Here) -> WorkerList:
    """The workers that vouch for themselves now, and where each has its metrics."""
    found = sorted(await gateway.store.workers(), key=lambda worker: worker.id)
    return WorkerList(
        workers=[
            WorkerSaid(id=said.id, models=said.models, busy=said.busy, metrics=said.metrics or None) for said in found
        ]
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(gateway: Here) -> Response:
    """Prometheus; the worker has its own on its own port."""
    try:
        gateway.metrics.totals(await gateway.store.totals())
        gateway.metrics.queue(await gateway.store.load(), len(await gateway.store.workers()))
    except StoreUnavailable:
        gateway.metrics.queue(None)
    return Response(gateway.metrics.render(), media_type=CONTENT_TYPE_LATEST)
