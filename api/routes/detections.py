"""/v1/jobs/{id}/detections: the detections of a finished job as a file of another program."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.dependencies import CallerDep, GatewayDep
from api.http.attachment import attachment
from api.http.problems import responses
from api.rendering.results import part_not_found
from otoscope.exports import FORMATS, Format, Recording, export, file_name, media_type
from otoscope.results import Part, unpack_result
from otoscope.types import DetectionList

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])


@router.get(
    "/detections",
    response_class=Response,
    responses={
        200: {
            "model": DetectionList,
            "content": {media_type(each).partition(";")[0]: {} for each in FORMATS if each != "json"},
        },
        **responses(
            "job_not_found", "job_expired", "part_not_found", "result_not_ready", "invalid_request", "store_unavailable"
        ),
    },
)
async def detections(
    request: Request,
    gateway: GatewayDep,
    caller: CallerDep,
    job_id: str,
    format: Annotated[Format, Query(description="`audacity`: labels, `raven`: a selection table")] = "json",
) -> Response:
    """What `include=detections` found, as a file to download."""
    job = await gateway.get(job_id, caller)

    def render(packed: bytes) -> bytes:
        result = unpack_result(packed)
        if Part.DETECTIONS not in result.parts:
            raise part_not_found(result, Part.DETECTIONS)
        recording = Recording(job.audio.name or "sound", result.duration, result.sample_rate, result.model)
        return export(format, result.detections, recording).encode()

    # The result may have large arrays beside its detections.
    async with gateway.result(request, job_id, caller) as packed:
        body = await asyncio.to_thread(render, packed)
    headers = {"Content-Disposition": attachment(file_name(format, job.audio.name)), "Cache-Control": "no-store"}
    return Response(body, headers=headers, media_type=media_type(format))
