"""/v1/jobs/{id}/audio: the sound of a job that keeps it."""

from fastapi import APIRouter, Request, Response

from api.dependencies import CallerDep, GatewayDep
from api.http.attachment import attachment
from api.http.problems import responses
from shared.audio.formats import BY_NAME, FORMATS

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

_UNKNOWN = ((".bin",), ("application/octet-stream",))
"""Extension and media type of a container that only a newer gateway knows."""
_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.get(
    "/audio",
    response_class=Response,
    responses={
        200: {"content": {each.media_types[0]: _BINARY for each in FORMATS}},
        **responses("job_not_found", "job_expired", "part_not_found", "store_unavailable"),
    },
)
async def audio(request: Request, gateway: GatewayDep, caller: CallerDep, job_id: str) -> Response:
    """The sound that was submitted with `keep_sound`, byte for byte, until its result expires or the job is deleted.

    Media type and file name extension are those of the recognised container, whatever the submission said.
    """
    info, body = await gateway.sound(request, job_id, caller)
    container, name = BY_NAME.get(info.container), info.name or "sound"
    extensions, media_types = _UNKNOWN if container is None else (container.extensions, container.media_types)
    if not name.lower().endswith(extensions):
        name += extensions[0]
    headers = {
        "Content-Disposition": attachment(name),
        "Cache-Control": "private, no-store",
    }
    return Response(body, headers=headers, media_type=media_types[0])
