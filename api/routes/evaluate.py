"""/evaluate: the contract of the older systems, synchronous, so that clients written for them work unchanged."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from api.http.problems import codes_of, responses
from api.http.uploads import read_upload
from api.rendering.results import JSON, array, predictions, respond, write
from api.service import Asking, Here
from otoscope.errors import AudioError, Busy, DeadlineExceeded, JobCancelled, JobFailure
from otoscope.results import Result
from otoscope.types import EvaluateRequest, EvaluateResponse, JobOptions, Part
from shared import tracing
from shared.jobs.records import JobRecord

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
    responses=responses(
        "invalid_base64", "invalid_request", "unsupported_media_type", "payload_too_large", "request_timeout",
        "model_not_found", *codes_of(AudioError, Busy, JobFailure),
    ),
)  # fmt: skip
async def evaluate(
    request: Request,
    gateway: Here,
    caller: Asking,
    spelling: Annotated[Literal["new", "old"], Query(description="`old` answers `input_spectogram` as well")] = "new",
) -> Response:
    """Base64 audio in, top-3 predictions, every feature map, spectrogram and waveform out."""
    with tracing.span("ingest"):
        limits = await gateway.audio_limits()
        upload = await read_upload(request, gateway.settings, limits, fixed=JobOptions(top_k=3, include=_PARTS))
    job = await gateway.submit_and_wait(request, upload, caller, gateway.settings.max_wait, only_end=True)
    if job.packed is None:
        raise await _failure(request, gateway, job)
    return respond(await write(job.packed, lambda result: _tree(result, spelling == "old")), JSON)


async def _failure(request: Request, gateway: Here, job: JobRecord) -> Exception:
    """Why there is no result. Raises StoreUnavailable where that is why."""
    if job.error is not None:
        return job.error
    if job.status == "cancelled":
        return JobCancelled("The job was cancelled.")
    await gateway.store.cancel(job.id)  # nobody will ask for it again
    if await request.is_disconnected():
        return JobCancelled("The connection was closed before there was an answer.")
    return DeadlineExceeded(f"No answer within {gateway.settings.max_wait:g} s; use /v1/jobs for what takes longer.")


def _tree(result: Result, old: bool) -> dict[str, Any]:
    if result.spectrogram is None or result.waveform is None:
        raise ValueError("the worker left out a part that was asked for")
    spectrogram = array(result.spectrogram)
    tree: dict[str, Any] = {
        "predictions": predictions(result.predictions),
        "visualization": {layer: array(values) for layer, values in result.maps.items()},
        "input_spectrogram": spectrogram,
        "waveform": {
            # Minimum and maximum of each stretch in turn: a line through them fills the envelope.
            "values": result.waveform.T.reshape(-1),
            "sample_rate": result.sample_rate,
            "duration": result.duration,
        },
    }
    if old:
        tree["input_spectogram"] = spectrogram
    return tree


SCHEMAS = (EvaluateRequest,)
