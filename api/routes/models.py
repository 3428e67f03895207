"""/v1/models: what is served."""

from fastapi import APIRouter

from api.http.problems import responses
from api.service import Here
from otoscope.types import ModelCard, ModelList

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=responses("store_unavailable"))
async def list_models(gateway: Here) -> ModelList:
    """Every model that workers serve, and which one is used when none is named."""
    cards = await gateway.models()
    default = next(iter(cards)) if len(cards) == 1 else gateway.settings.default_model
    return ModelList(default=default, models=list(cards.values()))


@router.get("/{name}", responses=responses("model_not_found", "not_ready", "store_unavailable"))
async def read_model(gateway: Here, name: str) -> ModelCard:
    """Classes, input rate, architecture, layers, accuracy and on what, licence."""
    return await gateway.resolve(name)
