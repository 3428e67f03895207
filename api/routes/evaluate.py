"""/evaluate: the synchronous API of earlier systems, so that clients that were written for them work unchanged."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from api.dependencies import CallerDep, GatewayDep
from api.http.problems import CLASSIFY_NOW_CODES, responses
from api.http.uploads import read_upload
from api.rendering.results import JSON, array_json, body_response, predictions_json, render_json
from otoscope.results import Result
from otoscope.types import EvaluateRequest, EvaluateResponse, JobOptions, Part
from shared import tracing

router = APIRouter(tags=["evaluate"])

_PARTS = (Part.MAPS, Part.SPECTROGRAM, Part.WAVEFORM)


@router.post(
    "/evaluate",
    response_model=EvaluateResponse,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EvaluateRequest"}}},
        }
    },
    responses=responses(*CLASSIFY_NOW_CODES),
)
async def evaluate(
    request: Request,
    gateway: GatewayDep,
    caller: CallerDep,
    spelling: Annotated[Literal["new", "old"], Query(description="`old` adds the misspelt `input_spectogram`")] = "new",
) -> Response:
    """Base64 audio in, top-3 predictions, every feature map, spectrogram and waveform out."""
    with tracing.span("ingest"):
        limits = gateway.settings.audio_limits
        options = JobOptions(model=await gateway.catalogue.for_evaluate(), top_k=3, include=_PARTS)
        upload = await read_upload(request, gateway.settings, limits, fixed=options)
    packed = await gateway.classify_now(request, upload, caller)
    body = await render_json(packed, lambda result: _response_json(result, old_spelling=spelling == "old"))
    return body_response(body, JSON)


def _response_json(result: Result, *, old_spelling: bool) -> dict[str, Any]:
    """`EvaluateResponse` with numpy arrays as leaves."""
    if result.spectrogram is None or result.waveform is None:
        raise ValueError("the worker omitted a part that was requested")
    spectrogram = array_json(result.spectrogram)
    tree: dict[str, Any] = {
        "predictions": predictions_json(result.predictions),
        "visualization": {layer: array_json(values) for layer, values in result.maps.items()},
        "input_spectrogram": spectrogram,
        "waveform": {
            # Minimum and maximum of each stretch in turn: a line through them draws the envelope.
            "values": result.waveform.T.reshape(-1),
            "sample_rate": result.sample_rate,
            "duration": result.duration,
        },
    }
    if old_spelling:
        tree["input_spectogram"] = spectrogram
    return tree


SCHEMAS = (EvaluateRequest,)
