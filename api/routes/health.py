"""/health, /metrics and /v1/workers, for operators and their probes."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.dependencies import GatewayDep
from api.rendering.results import JSON
from otoscope.types import Live, Ready, WorkerInfo, WorkerList

router = APIRouter(tags=["health"])


@router.get("/health/live")
async def live() -> Live:
    """Liveness: this process answers."""
    return Live()


@router.get(
    "/health/ready",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "Not ready, with the reason"}},
)
async def ready(gateway: GatewayDep) -> Response:
    """Readiness: a Redis server answers, and one of its workers has run a forward pass and sends heartbeats."""
    readiness = await gateway.readiness()
    return Response(readiness.model_dump_json(), 200 if readiness.status == "ready" else 503, media_type=JSON)


@router.get("/v1/workers")
async def workers(gateway: GatewayDep) -> WorkerList:
    """The workers that send heartbeats, and the address of the metrics of each."""
    heartbeats = sorted(await gateway.store.workers(), key=lambda worker: worker.id)
    return WorkerList(
        workers=[
            WorkerInfo(id=each.id, models=each.models, busy=each.busy, metrics=each.metrics or None)
            for each in heartbeats
        ]
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(gateway: GatewayDep) -> Response:
    """Prometheus metrics of this gateway and of the queue; a worker serves its own on its own port."""
    for number, state in (await gateway.store.states()).items():
        gateway.metrics.set_server(number, state)
    return Response(gateway.metrics.render(), media_type=CONTENT_TYPE_LATEST)
