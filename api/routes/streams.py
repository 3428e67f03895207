"""/v1/stream: live classification over a WebSocket."""

from typing import Any

from fastapi import APIRouter, Response, WebSocket
from pydantic import ValidationError

from api.http.options import MAX_OPTIONS, invalid_options
from api.http.problems import responses
from api.live.registry import StreamRegistry
from api.live.stream import LiveStream, fail
from api.middleware.auth import PROTOCOL, Caller
from api.service import Gateway
from otoscope.errors import InvalidRequest, OtoscopeError
from otoscope.types import StreamOptions

router = APIRouter(prefix="/v1/stream", tags=["jobs"])

RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)
"""Hz. Of others, the filters of the resampler would be large."""


@router.websocket("")
async def stream(socket: WebSocket) -> None:
    """Sound in, an answer for each window out; docs/api.md describes the messages."""
    gateway: Gateway = socket.app.state.gateway
    streams: StreamRegistry = socket.app.state.streams
    caller: Caller = socket.state.caller
    # Accepted before the options are read: a browser does not let a page see why a handshake failed.
    await socket.accept(PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)
    try:
        options = _options(socket)
        with streams.place(caller.name):
            card = await gateway.catalogue.resolve(options.model)
            live = LiveStream(socket, gateway, caller, options, card)
            await live.run()
    except OtoscopeError as error:
        gateway.metrics.live.observe_end(await fail(socket, error))


def _openapi() -> dict[str, Any]:
    """The handshake; OpenAPI has no description of WebSockets."""
    schema = StreamOptions.model_json_schema(ref_template="#/components/schemas/{model}")
    options = schema["properties"] | {"include": {"type": "string", "description": "comma-separated parts of a window"}}
    return {
        "parameters": [
            {
                "name": name, "in": "query", "required": name in schema["required"],
                "description": option.pop("description", ""), "schema": option,
            }
            for name, option in options.items()
        ],
    }  # fmt: skip


@router.get(
    "",
    status_code=101,
    response_class=Response,
    openapi_extra=_openapi(),
    responses={101: {"description": "The connection is a WebSocket"}, **responses("invalid_request")},
)
async def open_stream() -> Response:
    """Live classification: a WebSocket that takes raw sound and returns an answer for each window (docs/api.md).

    A request without an upgrade is answered with 422.
    """
    raise InvalidRequest(
        "/v1/stream is a WebSocket. A proxy in front of the gateway has to pass on the headers Upgrade and Connection."
    )


def _options(socket: WebSocket) -> StreamOptions:
    """Raises InvalidRequest."""
    pairs = socket.query_params.multi_items()
    if len(pairs) > MAX_OPTIONS:
        raise InvalidRequest(f"At most {MAX_OPTIONS} options are accepted.")
    given: dict[str, Any] = dict(pairs)
    if "include" in given:
        names = (name.strip() for name in given["include"].split(","))
        given["include"] = [name for name in names if name][:MAX_OPTIONS]
    try:
        options = StreamOptions.model_validate(given)
    except ValidationError as error:
        raise invalid_options(error, StreamOptions) from error
    if options.rate not in RATES:
        raise InvalidRequest(f"rate: {options.rate} Hz is not accepted; {', '.join(map(str, RATES))} are.")
    return options
