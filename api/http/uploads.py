"""Uploads: the body of a submission (multipart, base64 in JSON, or the file itself), read and checked under limits."""

import asyncio
import binascii
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from api.http.problems import describe_validation_errors
from otoscope.errors import (
    AudioEmpty,
    InvalidBase64,
    InvalidRequest,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from otoscope.types import AudioInfo, JobOptions, Part
from shared import tracing
from shared.audio.decode import probe
from shared.audio.limits import NO_FULL_SPECTROGRAM, WHOLE_SECONDS, AudioLimits
from shared.config.settings import Settings

_ENVELOPE_BYTES = 64 * 1024  # that options, part headers and boundaries may take beside the file
_MAX_OPTIONS = 32  # options of a request, and values of `include`
_MAX_JSON_TOKENS = 256  # of each comma and opening bracket: base64 has none of them, text seldom many
_WHITESPACE = b"\r\n \t"  # accepted inside base64
_SMALL_BYTES = 256 * 1024  # an upload up to this size is processed in a millisecond or two: a thread would cost more
_QUICK_MAGIC = (b"RIFF", b"FORM", b"fLaC", b"OggS")
"""Magic bytes of formats that are recognised at once. A search for MPEG frames can take long in a hostile file."""
_RAW_TYPES = ("audio/", "application/octet-stream")
_ACCEPTED_FORMS = (
    "Send multipart/form-data with the sound in the field 'file', JSON with base64 in 'audio_data',"
    " or the file itself with an audio/* content type."
)

T = TypeVar("T")


@dataclass(frozen=True)
class Upload:
    """An upload that was read and probed."""

    body: bytes
    audio: AudioInfo
    options: JobOptions


class _InMemory(MultiPartParser):
    """Keeps parts in memory: their size was limited before, and a disk is slower and can be full."""

    spool_max_size = 2**40

    def close(self) -> None:
        """Close every file, including that of an unfinished part, which the form does not hold."""
        for file in self._files_to_close_on_error:
            file.close()


async def read_upload(
    request: Request, settings: Settings, limits: AudioLimits, fixed: JobOptions | None = None
) -> Upload:
    """Read, decode and probe the upload of a submission; with `fixed` the options of the request are ignored.

    Raises PayloadTooLarge as soon as the limit is passed, RequestTimeout, UnsupportedMediaType, InvalidRequest,
    InvalidBase64, or an AudioError.
    """
    limit = settings.max_upload_bytes
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":  # decompressed, a few bytes could become any number
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:50]!r} is not accepted; send the body uncompressed.")
    options: dict[str, Any] = _query_options(request)
    name: str | None = None
    try:
        async with asyncio.timeout(settings.upload_seconds):
            if media_type == "multipart/form-data":
                body, name, fields = await _multipart(request, limit)
            elif media_type == "application/json":
                text = await _read_json(request, limit)
                body, fields = await _run_in_thread_if(len(text) > _SMALL_BYTES, _parse_json, text, limit)
            elif media_type.startswith(_RAW_TYPES):
                body, fields = b"".join([chunk async for chunk in _chunks(request, limit, limit)]), {}
            else:
                raise UnsupportedMediaType(f"Content-Type {media_type or '(none)'} is not accepted. {_ACCEPTED_FORMS}")
    except TimeoutError as error:
        raise RequestTimeout(f"The upload did not arrive within {settings.upload_seconds:g} s.") from error
    except ClientDisconnect as error:
        raise InvalidRequest("The connection was closed before the upload was complete.") from error
    job_options = fixed or _validate_options(options | fields)
    slow = len(body) > _SMALL_BYTES or not body.startswith(_QUICK_MAGIC)
    audio = await _run_in_thread_if(slow, describe_audio, body, name, limits)
    if Part.FULL_SPECTROGRAM in job_options.include and (audio.duration or 0.0) > WHOLE_SECONDS:
        raise InvalidRequest(NO_FULL_SPECTROGRAM)
    tracing.set_attributes({tracing.BYTES: len(body), tracing.FORMAT: audio.container})
    return Upload(body, audio, job_options)


async def _run_in_thread_if(slow: bool, function: Callable[..., T], *arguments: Any) -> T:
    """Run in a thread what would block the event loop for long; the rest directly, to save the thread's overhead."""
    return await asyncio.to_thread(function, *arguments) if slow else function(*arguments)


def describe_audio(body: bytes, name: str | None, limits: AudioLimits) -> AudioInfo:
    """What the header of a file says. Raises an AudioError."""
    header = probe(body, limits)
    return AudioInfo(
        name=name,
        bytes=len(body),
        container=header.container,
        codec=header.codec,
        sample_rate=header.rate or None,
        channels=header.channels or None,
        duration=round(header.frames / header.rate, 6) if header.frames and header.rate else None,
    )


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The sound is larger than the accepted {limit:,} bytes.")


async def _chunks(request: Request, limit: int, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The chunks of a body of at most `max_bytes`, enough for a sound of `limit` bytes in this form.

    A declared length beyond that is refused before the first byte. Raises PayloadTooLarge.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(limit)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise _too_large(limit)
        yield chunk


async def _read_json(request: Request, limit: int) -> bytearray:
    """A body with the sound in base64. A line break after every 64 characters may take four bytes, escaped in JSON."""
    body, encoded = bytearray(), 4 * (limit // 3 + 1)
    async for chunk in _chunks(request, limit, encoded + encoded // 16 + _ENVELOPE_BYTES):
        body += chunk
    return body


async def _multipart(request: Request, limit: int) -> tuple[bytes, str | None, dict[str, Any]]:
    chunks = _chunks(request, limit, limit + _ENVELOPE_BYTES)
    parser = _InMemory(request.headers, chunks, max_files=2, max_fields=_MAX_OPTIONS, max_part_size=_ENVELOPE_BYTES)
    try:
        form = await parser.parse()
        files = [value for value in form.getlist("file") if isinstance(value, UploadFile)]
        stray = [key for key, value in form.multi_items() if isinstance(value, UploadFile) and key != "file"]
        if stray:
            raise InvalidRequest(f"The sound must be in the field 'file', not in {stray[0]!r}.")
        if len(files) != 1:
            raise InvalidRequest(f"The field 'file' must hold one file; {len(files)} were sent.")
        body = await files[0].read()
        if len(body) > limit:
            raise _too_large(limit)
        fields = _group_options([(key, value) for key, value in form.multi_items() if isinstance(value, str)])
        return body, (files[0].filename or None), fields
    except MultiPartException as error:
        raise InvalidRequest(f"The multipart body cannot be parsed: {error.message}") from error
    except (KeyError, ValueError, UnicodeError) as error:
        raise InvalidRequest("The multipart body cannot be parsed.") from error
    finally:
        parser.close()


def _parse_json(text: bytearray, limit: int) -> tuple[bytes, dict[str, Any]]:
    if any(_more_than(_MAX_JSON_TOKENS, token, text) for token in b",[{"):  # two bytes can take a hundred once parsed
        raise InvalidRequest("The JSON body has too many elements; a sound and its options are accepted.")
    try:
        tree = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from error
    text.clear()  # from here on the encoded sound is in memory once
    if not isinstance(tree, dict):
        raise InvalidRequest("The JSON body must be an object with the base64 sound in 'audio_data'.")
    encoded = tree.pop("audio_data", None)
    if not isinstance(encoded, str):
        raise InvalidRequest("The JSON body must have a base64 string in 'audio_data'.")
    return decode_base64(encoded, limit), tree


def _more_than(count: int, byte: int, text: bytearray) -> bool:
    """Whether the byte occurs more than `count` times; the search ends there, so it takes a few milliseconds."""
    at = -1
    return all((at := text.find(byte, at + 1)) >= 0 for _ in range(count + 1))


def decode_base64(encoded: str, limit: int) -> bytes:
    """Strict base64 (RFC 4648); the prefix of a data URL and whitespace are accepted.

    Raises AudioEmpty, InvalidBase64 or PayloadTooLarge.
    """
    if encoded.startswith("data:"):
        encoded = encoded.partition(",")[2]
    try:
        text = encoded.encode("ascii")
        if any(blank in text for blank in _WHITESPACE):
            text = text.translate(None, _WHITESPACE)
        if len(text) // 4 * 3 > limit + 2:
            raise _too_large(limit)
        if not text:
            raise AudioEmpty("The field 'audio_data' is empty.")
        body = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InvalidBase64(f"The field 'audio_data' is not base64: {error}.") from error
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _query_options(request: Request) -> dict[str, Any]:
    return _group_options(request.query_params.multi_items())


def _group_options(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Options by name: `include` may be repeated or comma-separated, an empty value counts as absent."""
    options: dict[str, Any] = {}
    for key, value in pairs:
        if key == "include":
            options.setdefault(key, []).extend(part.strip() for part in value.split(",") if part.strip())
        elif value:
            options[key] = value
    return options


def _validate_options(given: dict[str, Any]) -> JobOptions:
    """Raises InvalidRequest."""
    include = given.get("include")
    if isinstance(include, str):
        include = given["include"] = [part.strip() for part in include.split(",") if part.strip()]
    parts = include if isinstance(include, list) else []
    if max(len(given), len(parts)) > _MAX_OPTIONS:  # pydantic would describe every one of them
        raise InvalidRequest(f"At most {_MAX_OPTIONS} options and {_MAX_OPTIONS} parts are accepted.")
    if not all(isinstance(part, str) for part in parts):  # pydantic would print them, however deeply nested
        raise InvalidRequest("include: the names of parts must be strings.")
    if parts:
        given["include"] = list(dict.fromkeys(parts))
    try:
        return JobOptions.model_validate(given)
    except ValidationError as error:
        known = ", ".join(JobOptions.model_fields)
        raise InvalidRequest(f"{describe_validation_errors(error.errors())} The options are {known}.") from error
