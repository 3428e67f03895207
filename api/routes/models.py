"""/v1/models: the served models."""

from fastapi import APIRouter

from api.dependencies import GatewayDep
from api.http.problems import responses
from otoscope.types import ModelCard, ModelList

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=responses("store_unavailable"))
async def list_models(gateway: GatewayDep) -> ModelList:
    """Every model that workers serve, and the default one."""
    cards = await gateway.catalogue.models()
    return ModelList(default=gateway.catalogue.default(cards), models=list(cards.values()))


@router.get("/{name}", responses=responses("model_not_found", "not_ready", "store_unavailable"))
async def read_model(gateway: GatewayDep, name: str) -> ModelCard:
    """Classes, sample rate, architecture, layers, accuracy with its protocol, licence."""
    return await gateway.catalogue.resolve(name)
