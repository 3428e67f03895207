"""/v1/jobs/{id}/*.png: the arrays of a finished job as pictures."""

import asyncio
import hashlib
import math
import time
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from api.http.negotiation import has_copy
from api.http.problems import responses
from api.rendering.png import ColourMap, draw
from api.service import Asking, Here
from otoscope.errors import PartNotFound
from otoscope.results import Array, Result, unpack_result
from otoscope.types import Part


class Picture:
    """What each of these routes is asked for: whose picture, and how it is to look."""

    def __init__(
        self,
        request: Request,
        gateway: Here,
        caller: Asking,
        job_id: str,
        cmap: Annotated[ColourMap, Query(description="colours from the least value to the greatest")] = "magma",
        width: Annotated[int, Query(ge=16, le=4_096, description="pixels; the height follows")] = 1_024,
    ) -> None:
        self._request, self._gateway, self._caller = request, gateway, caller
        self._job_id, self._cmap, self._width = job_id, cmap, width

    async def answer(self, choose: Callable[[Result], Array]) -> Response:
        """The picture of what `choose` finds in the result, or 304 to a client that has it."""
        # A result never changes. Weak, since another release may pack the same picture into other bytes.
        asked = f"{self._request.url.path} {self._cmap} {self._width}"
        tag = f'W/"{hashlib.sha256(asked.encode()).hexdigest()[:32]}"'
        job = await self._gateway.get(self._job_id, self._caller)
        left = (job.finished_at or 0.0) + self._gateway.settings.result_ttl - time.time()
        headers = {"ETag": tag, "Cache-Control": f"private, max-age={max(0, math.floor(left))}, immutable"}
        if job.status == "succeeded" and has_copy(self._request.headers, tag):
            return Response(status_code=304, headers=headers)
        async with self._gateway.drawing:
            packed = await self._gateway.finished(self._job_id, self._caller)
            png = await asyncio.to_thread(lambda: draw(choose(unpack_result(packed)), self._cmap, self._width))
        return Response(png, headers=headers, media_type="image/png")


Asked = Annotated[Picture, Depends()]

router = APIRouter(
    prefix="/v1/jobs/{job_id}",
    tags=["pictures"],
    default_response_class=Response,
    responses={
        200: {"content": {"image/png": {}}},
        304: {"description": "The picture is the one that `If-None-Match` names"},
        **responses(
            "job_not_found", "job_expired", "part_not_found", "result_not_ready", "invalid_request", "store_unavailable"
        ),
    },
)


@router.get("/spectrogram.png")
async def spectrogram(picture: Asked) -> Response:
    """The log-mel spectrogram of the deciding window, from its own floor to its peak."""
    return await picture.answer(_part(Part.SPECTROGRAM))


@router.get("/full_spectrogram.png")
async def full_spectrogram(picture: Asked) -> Response:
    """The log-mel spectrogram of the whole sound."""
    return await picture.answer(_part(Part.FULL_SPECTROGRAM))


@router.get("/cam.png")
async def cam(picture: Asked) -> Response:
    """Which part of the window spoke for the answer."""
    return await picture.answer(_part(Part.CAM))


@router.get("/maps/{layer}.png")
async def feature_map(picture: Asked, layer: str) -> Response:
    """What a layer made of the window: the mean of its channels."""

    def choose(result: Result) -> Array:
        if not result.maps:
            raise _missing(result, Part.MAPS)
        if layer not in result.maps:
            raise PartNotFound(f"There is no map of a layer {layer!r}; there are {', '.join(result.maps)}.")
        return result.maps[layer]

    return await picture.answer(choose)


def _part(part: Part) -> Callable[[Result], Array]:
    def choose(result: Result) -> Array:
        values: Array | None = getattr(result, part)
        if values is None:
            raise _missing(result, part)
        return values

    return choose


def _missing(result: Result, part: Part) -> PartNotFound:
    there = ", ".join(sorted(result.parts)) or "the predictions alone"
    return PartNotFound(f"The result has no {part}: include={part} asks for it with the sound. It has {there}.")
