"""/hf/{model}: audio classification as clients of Hugging Face's inference API request it.

https://huggingface.co/docs/inference-providers/tasks/audio-classification
"""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.dependencies import CallerDep, GatewayDep
from api.http.base64_text import decode_base64
from api.http.bodies import media_type_of, parse_json, read_body, too_many
from api.http.options import validate_options
from api.http.problems import CLASSIFY_NOW_CODES, responses
from api.http.uploads import MAX_JSON_TOKENS, SMALL_BYTES, Upload, check_upload, run_in_thread_if
from otoscope.errors import InvalidRequest
from otoscope.results import unpack_result
from shared.config.settings import Settings
from shared.validation import describe_validation_errors

router = APIRouter(tags=["other interfaces"])


class Parameters(BaseModel):
    """Of a request to /hf; other parameters than `top_k` are accepted and have no effect."""

    model_config = ConfigDict(extra="ignore")

    top_k: int | None = Field(None, ge=1, le=1_000)
    function_to_apply: str | None = Field(None, description="scores are the model's probabilities, whatever it is")


class HuggingFaceRequest(BaseModel):
    """A sound as base64, and parameters; a sound alone may be the body itself."""

    model_config = ConfigDict(extra="ignore")

    inputs: str = Field(description="base64")
    parameters: Parameters | None = None


class LabelScore(BaseModel):
    """A class and its probability."""

    label: str
    score: float


@router.post(
    "/hf/{model}",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "audio/*": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {"schema": {"$ref": "#/components/schemas/HuggingFaceRequest"}},
            },
        }
    },
    responses=responses(*CLASSIFY_NOW_CODES),
)
async def classify(request: Request, gateway: GatewayDep, caller: CallerDep, model: str) -> list[LabelScore]:
    """A sound as the body itself or as base64 in JSON; its classes with their scores, the highest first."""
    await gateway.catalogue.resolve(model)
    upload = await _read(request, gateway.settings, model)
    result = unpack_result(await gateway.classify_now(request, upload, caller))
    return [LabelScore(label=name, score=confidence) for name, confidence in result.predictions]


async def _read(request: Request, settings: Settings, model: str) -> Upload:
    body = await read_body(request, settings)
    options: dict[str, Any] = {"model": model}
    if media_type_of(request) == "application/json":
        slow = len(body) > SMALL_BYTES
        body, options["top_k"] = await run_in_thread_if(slow, _parse, body, settings.max_upload_bytes)
    return await check_upload(body, None, validate_options(options), settings.audio_limits)


def _parse(text: bytes, limit: int) -> tuple[bytes, int | None]:
    """The file, and `top_k`. Raises InvalidRequest, InvalidBase64, AudioEmpty or PayloadTooLarge."""
    if too_many(MAX_JSON_TOKENS, text):
        raise InvalidRequest("The JSON body has too many elements; a sound and its parameters are accepted.")
    try:
        sent = HuggingFaceRequest.model_validate(parse_json(text))
    except ValidationError as error:
        raise InvalidRequest(describe_validation_errors(error.errors(include_input=False))) from error
    return decode_base64(sent.inputs, limit), sent.parameters.top_k if sent.parameters else None


SCHEMAS = (HuggingFaceRequest,)
