"""/v2: the Open Inference Protocol, as clients of KServe, Triton and MLServer use it. One sound in a request.

https://github.com/kserve/open-inference-protocol
"""

from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.dependencies import CallerDep, GatewayDep
from api.http.base64_text import decode_base64
from api.http.bodies import parse_json, read_body, too_many
from api.http.options import validate_options
from api.http.problems import CLASSIFY_NOW_CODES, responses
from api.http.uploads import MAX_JSON_TOKENS, SMALL_BYTES, check_upload, run_in_thread_if
from otoscope.errors import InvalidRequest
from otoscope.results import unpack_result
from otoscope.types import ModelCard
from shared.audio.containers.wav import mono_header
from shared.validation import describe_validation_errors

router = APIRouter(prefix="/v2", tags=["other interfaces"])

MAX_SAMPLES = 960_000
"""Samples as numbers in JSON, each of which takes 32 bytes once parsed: a minute at 16 kHz. Not of a file."""

_IEEE_FLOAT = 3  # WAVE format tag


class TensorMetadata(BaseModel):
    """Name, type and shape of an input or output; -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(BaseModel):
    """The server."""

    name: str = "otoscope"
    version: str = "1"
    extensions: list[str] = []


class Live(BaseModel):
    live: bool = True


class Readiness(BaseModel):
    ready: bool = True


class ModelReadiness(Readiness):
    name: str


class ModelMetadata(BaseModel):
    """A model. `audio` is a file as base64 (BYTES) or samples (FP32, with the parameter `sample_rate` in Hz)."""

    name: str
    versions: list[str]
    platform: str = "otoscope"
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Input(BaseModel):
    """`data` is a list of one base64 text for BYTES, of samples in -1..1 for FP32."""

    model_config = ConfigDict(extra="ignore")

    name: str
    shape: list[int]
    datatype: Literal["BYTES", "FP32"]
    parameters: dict[str, Any] = {}
    data: list[Any]


class InferenceRequest(BaseModel):
    """One sound; the parameter `top_k` is the number of classes."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = Field(None, max_length=256)
    parameters: dict[str, Any] = {}
    inputs: list[Input] = Field(min_length=1, max_length=1)


class Output(TensorMetadata):
    """`labels` (BYTES) and `scores` (FP32), both of the shape [1, classes]."""

    data: list[str] | list[float]


class InferenceResponse(BaseModel):
    """The classes of the sound with their scores, the highest first."""

    model_name: str
    model_version: str
    id: str | None
    outputs: list[Output]


@router.get("")
async def server() -> ServerMetadata:
    """Name and version of the server."""
    return ServerMetadata()


@router.get("/health/live")
async def server_live() -> Live:
    """This process answers."""
    return Live()


@router.get("/health/ready", responses=responses("not_ready", "store_unavailable"))
async def server_ready(gateway: GatewayDep) -> Readiness:
    """A worker has announced a model."""
    await gateway.catalogue.resolve(None)
    return Readiness()


@router.get("/models/{model}", responses=responses("model_not_found", "not_ready", "store_unavailable"))
async def model_metadata(gateway: GatewayDep, model: str) -> ModelMetadata:
    """Inputs and outputs of a model."""
    card = await gateway.catalogue.resolve(model)
    return ModelMetadata(
        name=card.name,
        versions=[card.version],
        inputs=[TensorMetadata(name="audio", datatype="BYTES", shape=[1])],
        outputs=[
            TensorMetadata(name="labels", datatype="BYTES", shape=[1, -1]),
            TensorMetadata(name="scores", datatype="FP32", shape=[1, -1]),
        ],
    )


@router.get(
    "/models/{model}/ready",
    responses=responses("model_not_found", "not_ready", "store_unavailable"),
)
async def model_ready(gateway: GatewayDep, model: str) -> ModelReadiness:
    """A worker has announced the model."""
    return ModelReadiness(name=(await gateway.catalogue.resolve(model)).name)


@router.post(
    "/models/{model}/infer",
    response_model=InferenceResponse,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferenceRequest"}}},
        }
    },
    responses=responses(*CLASSIFY_NOW_CODES),
)
async def infer(request: Request, gateway: GatewayDep, caller: CallerDep, model: str) -> InferenceResponse:
    """Classify one sound: a file as base64, or samples as numbers."""
    settings = gateway.settings
    card = await gateway.catalogue.resolve(model)
    text = bytearray(await read_body(request, settings))
    if too_many(MAX_SAMPLES, text, lists=MAX_JSON_TOKENS):
        raise InvalidRequest(f"The JSON body has more than {MAX_SAMPLES:,} elements; send the sound as a file (BYTES).")
    slow = len(text) > SMALL_BYTES
    body, name, top_k = await run_in_thread_if(slow, _parse, text, card, settings.max_upload_bytes)
    options = validate_options({"model": model, "top_k": top_k})
    upload = await check_upload(body, None, options, settings.audio_limits)
    result = unpack_result(await gateway.classify_now(request, upload, caller))
    labels, scores = [name for name, _ in result.predictions], [score for _, score in result.predictions]
    shape = [1, len(labels)]
    return InferenceResponse(
        model_name=card.name,
        model_version=card.version,
        id=name,
        outputs=[
            Output(name="labels", datatype="BYTES", shape=shape, data=labels),
            Output(name="scores", datatype="FP32", shape=shape, data=scores),
        ],
    )


def _parse(text: bytearray, card: ModelCard, limit: int) -> tuple[bytes, str | None, Any]:
    """The file, the id of the request and its `top_k`; the text and its elements are freed. Raises as `_sound`."""
    try:
        sent = InferenceRequest.model_validate(parse_json(text))
    except ValidationError as error:
        raise InvalidRequest(describe_validation_errors(error.errors(include_input=False)[:8])) from error
    text.clear()
    return _sound(sent.inputs[0], card, limit), sent.id, sent.parameters.get("top_k")


def _sound(sent: Input, card: ModelCard, limit: int) -> bytes:
    """The file of an input. Raises InvalidRequest, InvalidBase64, AudioEmpty or PayloadTooLarge."""
    data = sent.data
    while len(data) == 1 and isinstance(data[0], list):  # a batch of one
        data = data[0]
    if sent.datatype == "BYTES":
        if len(data) != 1 or not isinstance(data[0], str):
            raise InvalidRequest("An input of BYTES must have one text in 'data': the base64 of a file.")
        return decode_base64(data[0], limit)
    try:
        samples = np.asarray(data, "<f4")
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequest("An input of FP32 must have the samples of one channel in 'data', as numbers.") from error
    rate = sent.parameters.get("sample_rate", card.sample_rate)
    if samples.ndim != 1 or not isinstance(rate, int) or not 0 < rate < 2**31:
        raise InvalidRequest("An input of FP32 must have one channel, and its rate in Hz as parameter 'sample_rate'.")
    return mono_header(_IEEE_FLOAT, rate, samples.itemsize, samples.nbytes) + samples.tobytes()


SCHEMAS = (InferenceRequest,)
