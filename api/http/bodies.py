"""The bytes of a request, read under limits on size and time, and its JSON."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from fastapi import Request
from starlette.requests import ClientDisconnect

from api.http.base64_text import too_large
from otoscope.errors import InvalidRequest, RequestTimeout, UnsupportedMediaType
from shared.config.settings import Settings

ENVELOPE_BYTES = 64 * 1024  # that options, part headers and boundaries may take beside the file


def media_type_of(request: Request) -> str:
    """The content type without its parameters. Raises UnsupportedMediaType for a compressed body."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":  # decompressed, a few bytes could become any number
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:50]!r} is not accepted; send the body uncompressed.")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_chunks(request: Request, limit: int, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The chunks of a body of at most `max_bytes`, enough for a sound of `limit` bytes in this form.

    A declared length beyond that is refused before the first byte. Raises PayloadTooLarge.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large(limit)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise too_large(limit)
        yield chunk


async def read_body(request: Request, settings: Settings) -> bytes:
    """A whole body, as long as one with a sound in base64. Raises PayloadTooLarge, RequestTimeout or InvalidRequest."""
    media_type_of(request)
    try:
        async with asyncio.timeout(settings.upload_seconds):
            return bytes(await read_encoded(request, settings.max_upload_bytes))
    except TimeoutError as error:
        raise RequestTimeout(f"The upload did not arrive within {settings.upload_seconds:g} s.") from error
    except ClientDisconnect as error:
        raise InvalidRequest("The connection was closed before the upload was complete.") from error


async def read_encoded(request: Request, limit: int) -> bytearray:
    """A body that may have the sound in base64, with line breaks.

    A line break after every 64 characters may take four bytes, escaped in JSON.
    """
    body, encoded = bytearray(), 4 * (limit // 3 + 1)
    async for chunk in read_chunks(request, limit, encoded + encoded // 16 + ENVELOPE_BYTES):
        body += chunk
    return body


def parse_json(text: bytes | bytearray) -> Any:
    """Raises InvalidRequest."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from error


def too_many(count: int, text: bytes | bytearray, lists: int | None = None) -> bool:
    """Whether JSON has more elements than that: two bytes can take a hundred once parsed. `lists` limits lists and
    objects, where they are fewer."""
    most = count if lists is None else lists
    return _more_than(count, ord(","), text) or any(_more_than(most, token, text) for token in b"[{")


def _more_than(count: int, byte: int, text: bytes | bytearray) -> bool:
    """Whether the byte occurs more than `count` times; the search ends there, so it takes a few milliseconds."""
    at = -1
    return all((at := text.find(byte, at + 1)) >= 0 for _ in range(count + 1))
