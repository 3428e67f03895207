"""One upload (multipart, JSON with base64, or a raw body) read under limits; nothing bad gets past here."""

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

from api.http.problems import describe
from otoscope.errors import (
    AudioEmpty,
    InvalidBase64,
    InvalidRequest,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from otoscope.types import AudioInfo, JobOptions
from shared import tracing
from shared.audio.decode import AudioLimits, probe
from shared.config.settings import Settings

_ENVELOPE = 64 * 1024  # bytes that options, part headers and boundaries may take beside the sound
_MOST = 32  # options, and parts to include
_MARKS = 256  # of each that separates or opens something in JSON: base64 has none of them, text seldom many
_BLANKS = b"\r\n \t"  # that base64 may be broken with
_SMALL = 256 * 1024  # bytes up to which an upload is worked on in a millisecond or two: a thread would cost more
_TELLING = (b"RIFF", b"FORM", b"fLaC", b"OggS")
"""How files begin that soon say what they are. Where MPEG frames are looked for, a hostile file takes its time."""
_RAW = ("audio/", "application/octet-stream")
_FORMS = (
    "Send multipart/form-data with the sound in the field 'file', JSON with base64 in 'audio_data',"
    " or the file itself with an audio/* content type."
)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Upload:
    """A checked upload."""

    body: bytes
    audio: AudioInfo
    options: JobOptions


class _InMemory(MultiPartParser):
    """Parts stay in memory: they are counted before they get here, and a disk is slower and can be full."""

    spool_max_size = 2**40

    def close(self) -> None:
        """Close every file, that of a part without an end as well, which is in no form."""
        for file in self._files_to_close_on_error:
            file.close()


async def read_upload(
    request: Request, settings: Settings, limits: AudioLimits, fixed: JobOptions | None = None
) -> Upload:
    """Read, decode and probe the upload of a submission; with `fixed` its own options are not looked at.

    Raises PayloadTooLarge as soon as the limit is passed, RequestTimeout, UnsupportedMediaType, InvalidRequest,
    InvalidBase64, or an AudioError.
    """
    limit = settings.max_upload_bytes
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":  # a few bytes could become any number of them
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:50]!r} is not accepted; send the sound as it is.")
    given: dict[str, Any] = _query(request)
    name: str | None = None
    try:
        async with asyncio.timeout(settings.upload_seconds):
            if kind == "multipart/form-data":
                body, name, fields = await _multipart(request, limit)
            elif kind == "application/json":
                text = await _collect(request, limit)
                body, fields = await _apart(len(text) > _SMALL, _from_json, text, limit)
            elif kind.startswith(_RAW):
                body, fields = b"".join([chunk async for chunk in _chunks(request, limit, limit)]), {}
            else:
                raise UnsupportedMediaType(f"Content type {kind or '(none)'} is not accepted. {_FORMS}")
    except TimeoutError as error:
        raise RequestTimeout(f"The upload did not arrive within {settings.upload_seconds:g} s.") from error
    except ClientDisconnect as error:
        raise InvalidRequest("The connection was closed before the upload was complete.") from error
    options = fixed or _options(given | fields)
    slow = len(body) > _SMALL or not body.startswith(_TELLING)
    audio = await _apart(slow, describe_audio, body, name, limits)
    tracing.note({tracing.BYTES: len(body), tracing.FORMAT: audio.container})
    return Upload(body, audio, options)


async def _apart(slow: bool, work: Callable[..., Answer], *arguments: Any) -> Answer:
    """What is slow in a thread, so that it holds up nobody; the rest at once, so that it costs no thread."""
    return await asyncio.to_thread(work, *arguments) if slow else work(*arguments)


def describe_audio(body: bytes, name: str | None, limits: AudioLimits) -> AudioInfo:
    """Probe a file. Raises an AudioError."""
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
    return PayloadTooLarge(f"The sound is larger than the {limit:,} bytes that are accepted.")


async def _chunks(request: Request, limit: int, most: int) -> AsyncGenerator[bytes, None]:
    """The chunks of a body of at most so many bytes, in which a sound of `limit` has its place; a declared length over
    that is refused before the first byte."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(limit)
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > most:
            raise _too_large(limit)
        yield chunk


async def _collect(request: Request, limit: int) -> bytearray:
    """A body with the sound in base64; a line break after each 64 bytes of it takes up to four, as JSON writes it."""
    body, encoded = bytearray(), 4 * (limit // 3 + 1)
    async for chunk in _chunks(request, limit, encoded + encoded // 16 + _ENVELOPE):
        body += chunk
    return body


async def _multipart(request: Request, limit: int) -> tuple[bytes, str | None, dict[str, Any]]:
    chunks = _chunks(request, limit, limit + _ENVELOPE)
    parser = _InMemory(request.headers, chunks, max_files=2, max_fields=_MOST, max_part_size=_ENVELOPE)
    try:
        form = await parser.parse()
        files = [value for value in form.getlist("file") if isinstance(value, UploadFile)]
        stray = [key for key, value in form.multi_items() if isinstance(value, UploadFile) and key != "file"]
        if stray:
            raise InvalidRequest(f"The sound belongs in the field 'file', not in {stray[0]!r}.")
        if len(files) != 1:
            raise InvalidRequest(f"One file is accepted in the field 'file'; {len(files)} were sent.")
        body = await files[0].read()
        if len(body) > limit:
            raise _too_large(limit)
        fields = _grouped([(key, value) for key, value in form.multi_items() if isinstance(value, str)])
        return body, (files[0].filename or None), fields
    except MultiPartException as error:
        raise InvalidRequest(f"The multipart body cannot be read: {error.message}") from error
    except (KeyError, ValueError, UnicodeError) as error:
        raise InvalidRequest("The multipart body cannot be read.") from error
    finally:
        parser.close()


def _from_json(text: bytearray, limit: int) -> tuple[bytes, dict[str, Any]]:
    if any(_more_than(_MARKS, mark, text) for mark in b",[{"):  # two bytes of a body can take a hundred once it is read
        raise InvalidRequest("The JSON body has more in it than a sound and its options.")
    try:
        tree = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from error
    text.clear()  # the encoded sound is held once from here on
    if not isinstance(tree, dict):
        raise InvalidRequest("The JSON body must be an object with the base64 sound in 'audio_data'.")
    encoded = tree.pop("audio_data", None)
    if not isinstance(encoded, str):
        raise InvalidRequest("The JSON body has no base64 text in 'audio_data'.")
    return decode_base64(encoded, limit), tree


def _more_than(most: int, mark: int, text: bytearray) -> bool:
    """Whether it is there so often; in a few milliseconds, however long the text."""
    at = -1
    return all((at := text.find(mark, at + 1)) >= 0 for _ in range(most + 1))


def decode_base64(encoded: str, limit: int) -> bytes:
    """Strict base64; a data URL's prefix and line breaks are tolerated. Raises InvalidBase64 or PayloadTooLarge."""
    if encoded.startswith("data:"):
        encoded = encoded.partition(",")[2]
    try:
        text = encoded.encode("ascii")
        if any(blank in text for blank in _BLANKS):
            text = text.translate(None, _BLANKS)
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


def _query(request: Request) -> dict[str, Any]:
    return _grouped(request.query_params.multi_items())


def _grouped(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """`include` may be repeated or hold commas; an empty value counts as not given."""
    options: dict[str, Any] = {}
    for key, value in pairs:
        if key == "include":
            options.setdefault(key, []).extend(part.strip() for part in value.split(",") if part.strip())
        elif value:
            options[key] = value
    return options


def _options(given: dict[str, Any]) -> JobOptions:
    include = given.get("include")
    if isinstance(include, str):
        include = given["include"] = [part.strip() for part in include.split(",") if part.strip()]
    parts = include if isinstance(include, list) else []
    if max(len(given), len(parts)) > _MOST:  # of which pydantic would describe each
        raise InvalidRequest(f"More than {_MOST} options or parts are not accepted.")
    if not all(isinstance(part, str) for part in parts):  # pydantic would print them, however deep they go
        raise InvalidRequest("include: the names of parts are text.")
    if parts:
        given["include"] = list(dict.fromkeys(parts))
    try:
        return JobOptions.model_validate(given)
    except ValidationError as error:
        known = ", ".join(JobOptions.model_fields)
        raise InvalidRequest(f"{describe(error.errors())} Options are {known}.") from error
