"""/v1/jobs/{id}/*.png: arrays of a finished job as images, one route for each part whose `PartInfo` has `image`."""

import asyncio
import hashlib
import math
import time
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from api.dependencies import CallerDep, GatewayDep
from api.http.negotiation import etag_matches
from api.http.problems import responses
from api.rendering.png import Colormap, render_png
from api.rendering.results import part_not_found
from otoscope.errors import PartNotFound
from otoscope.results import Array, Part, Result, unpack_result

router = APIRouter(
    prefix="/v1/jobs/{job_id}",
    tags=["images"],
    default_response_class=Response,
    responses={
        200: {"content": {"image/png": {}}},
        304: {"description": "The image has the entity tag in `If-None-Match`"},
        **responses(
            "job_not_found", "job_expired", "part_not_found", "result_not_ready", "invalid_request", "store_unavailable"
        ),
    },
)


class ImageRequest:
    """The parameters that these routes share."""

    def __init__(
        self,
        request: Request,
        gateway: GatewayDep,
        caller: CallerDep,
        job_id: str,
        cmap: Annotated[Colormap, Query(description="colours from the minimum to the maximum of the matrix")] = "magma",
        width: Annotated[int, Query(ge=16, le=4_096, description="pixels; the height follows")] = 1_024,
    ) -> None:
        self._request, self._gateway, self._caller = request, gateway, caller
        self._job_id, self._cmap, self._width = job_id, cmap, width

    async def respond(self, select: Callable[[Result], Array]) -> Response:
        """The image of the matrix that `select` takes from the result, or 304 to a client that has it."""
        # A result never changes. The tag is weak, since another release may encode the same image differently.
        key = f"{self._request.url.path} {self._cmap} {self._width}"
        etag = f'W/"{hashlib.sha256(key.encode()).hexdigest()[:32]}"'
        job = await self._gateway.get(self._job_id, self._caller)
        seconds_left = (job.finished_at or 0.0) + self._gateway.settings.result_ttl - time.time()
        max_age = max(0, math.floor(seconds_left))
        headers = {"ETag": etag, "Cache-Control": f"private, max-age={max_age}, immutable"}
        if job.status == "succeeded" and etag_matches(self._request.headers, etag):
            return Response(status_code=304, headers=headers)
        async with (
            self._gateway.image_slots,
            self._gateway.result(self._request, self._job_id, self._caller) as packed,
        ):
            png = await asyncio.to_thread(self._render, packed, select)
        return Response(png, headers=headers, media_type="image/png")

    def _render(self, packed: bytes, select: Callable[[Result], Array]) -> bytes:
        return render_png(select(unpack_result(packed)), self._cmap, self._width)


ImageDep = Annotated[ImageRequest, Depends()]


def _add_route(part: Part) -> None:
    async def image(request: ImageDep) -> Response:
        return await request.respond(lambda result: _array(result, part))

    async def image_of_layer(request: ImageDep, layer: str) -> Response:
        return await request.respond(lambda result: _array_of_layer(result, part, layer))

    path, endpoint = (f"/{part}/{{layer}}.png", image_of_layer) if part.info.per_layer else (f"/{part}.png", image)
    router.add_api_route(
        path, endpoint, methods=["GET"], name=part.value, description=f"The part as a PNG: {part.info.summary}."
    )


def _array(result: Result, part: Part) -> Array:
    values: Array | None = getattr(result, part)
    if values is None:
        raise part_not_found(result, part)
    return values


def _array_of_layer(result: Result, part: Part, layer: str) -> Array:
    arrays: dict[str, Array] = getattr(result, part)
    if not arrays:
        raise part_not_found(result, part)
    if layer not in arrays:
        raise PartNotFound(f"The result has no {part} of a layer {layer!r}; the layers are {', '.join(arrays)}.")
    return arrays[layer]


for _part in Part:
    if _part.info.image:
        _add_route(_part)
