"""Uploads: the body of a submission (a form, base64 in JSON, or the file itself), read and checked under limits."""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from api.http.base64_text import decode_base64, too_large
from api.http.bodies import ENVELOPE_BYTES, media_type_of, parse_json, read_chunks, read_encoded, too_many
from api.http.forms import BASE64, FILE, URL, group_options, options_of, parse_urlencoded, parsed_form
from api.http.options import MAX_OPTIONS, validate_options
from api.threads import in_upload_thread
from otoscope.errors import (
    AudioChannels,
    InvalidBase64,
    InvalidRequest,
    NotAudio,
    RequestTimeout,
    UnsupportedMediaType,
)
from otoscope.types import AudioInfo, JobOptions, Part
from shared import tracing
from shared.audio.formats import identify
from shared.audio.headers import Decoder
from shared.audio.limits import NO_FULL_SPECTROGRAM, WHOLE_SECONDS, AudioLimits
from shared.audio.probe import probe
from shared.config.settings import Settings
from shared.sound_sources import SoundSources

MAX_JSON_TOKENS = 256  # of each comma and opening bracket: base64 has none of them, text seldom many
SMALL_BYTES = 256 * 1024  # an upload up to this size is processed in a millisecond or two: a thread would cost more
_QUICK_MAGIC = (b"RIFF", b"FORM", b"fLaC", b"OggS")
"""Magic bytes of formats that are recognised at once. A search for MPEG frames can take long in a hostile file."""
_MULTIPART, _JSON, _URLENCODED = "multipart/form-data", "application/json", "application/x-www-form-urlencoded"
_RAW_TYPES = ("audio/", "video/", "application/octet-stream", "binary/octet-stream", "application/ogg")
_ACCEPTED_FORMS = (
    "Send multipart/form-data with the sound in the field 'file', JSON with base64 in 'audio_data',"
    " or the file itself with an audio/* content type."
)
_BOM = b"\xef\xbb\xbf"  # in front of UTF-8 text from Windows
_MAX_TEXT = 1_024  # bytes of an upload that may be the name of a file instead of its content
_STRIPPED_BY_CURL = b"\r\n\0"  # bytes that `curl -d @file` leaves out, without which hardly any sound is

T = TypeVar("T")


@dataclass(frozen=True)
class Upload:
    """An upload that was read and probed."""

    body: bytes
    audio: AudioInfo
    options: JobOptions


async def read_upload(
    request: Request, settings: Settings, limits: AudioLimits, fixed: JobOptions | None = None
) -> Upload:
    """Read, decode and probe the upload of a submission; with `fixed` the options of the request are ignored.

    Raises PayloadTooLarge as soon as the limit is passed, RequestTimeout, UnsupportedMediaType, InvalidRequest,
    InvalidBase64, or an AudioError.
    """
    limit = settings.max_upload_bytes
    media_type = media_type_of(request)
    options = group_options(request.query_params.multi_items())
    name: str | None = None
    try:
        async with asyncio.timeout(settings.upload_seconds):
            if media_type == _MULTIPART:
                body, name, fields = await _multipart(request, limit)
            elif media_type.startswith(_RAW_TYPES):
                body, fields = b"".join([chunk async for chunk in read_chunks(request, limit, limit)]), {}
            else:
                text = await read_encoded(request, limit)
                body, fields = await run_in_thread_if(len(text) > SMALL_BYTES, _parse_text, text, media_type, limit)
    except TimeoutError as error:
        raise RequestTimeout(f"The upload did not arrive within {settings.upload_seconds:g} s.") from error
    except ClientDisconnect as error:
        raise InvalidRequest("The connection was closed before the upload was complete.") from error
    url = fields.pop(URL, None)
    job_options = fixed or validate_options(options, fields)
    if url is not None:
        return by_address(url, job_options, settings)
    return await check_upload(body, name, job_options, limits, media_type)


def by_address(url: object, options: JobOptions, settings: Settings, name: str | None = None) -> Upload:
    """The upload of a sound that the worker fetches: its address takes the place of the file. Raises UrlNotAllowed or
    InvalidRequest."""
    if not isinstance(url, str):
        raise InvalidRequest("audio_url must be a string.")
    if options.keep_sound:
        raise InvalidRequest("A sound by address is not kept: leave out keep_sound, or submit the sound itself.")
    address = SoundSources(settings.sources).check(url)
    return Upload(url.encode(), AudioInfo(name=name or address.name, bytes=0, container="", codec="", url=url), options)


async def check_upload(
    body: bytes, name: str | None, options: JobOptions, limits: AudioLimits, media_type: str = ""
) -> Upload:
    """The upload, once its header is checked. Raises InvalidRequest, UnsupportedMediaType or an AudioError."""
    slow = len(body) > SMALL_BYTES or not body.startswith(_QUICK_MAGIC)
    try:
        audio = await run_in_thread_if(slow, describe_audio, body, name, limits, options)
    except NotAudio as error:
        if reference := file_reference(body):
            raise InvalidRequest(_not_a_file(reference)) from error
        if media_type and not media_type.startswith((_MULTIPART, _JSON, *_RAW_TYPES)):
            raise UnsupportedMediaType(f"Content-Type {media_type} is not accepted. {_ACCEPTED_FORMS}") from error
        raise
    tracing.set_attributes({tracing.BYTES: len(body), tracing.FORMAT: audio.container})
    return Upload(body, audio, options)


async def run_in_thread_if(slow: bool, function: Callable[..., T], *arguments: Any) -> T:
    """Run in a thread what would block the event loop for long; the rest directly, to save the thread's overhead."""
    return await in_upload_thread(function, *arguments) if slow else function(*arguments)


def describe_audio(body: bytes, name: str | None, limits: AudioLimits, options: JobOptions) -> AudioInfo:
    """The properties that the header of a file states. Raises an AudioError or InvalidRequest."""
    header = probe(body, limits, strict=options.strict)
    if isinstance(options.channel, int) and header.decoder is not Decoder.PYAV and options.channel > header.channels:
        raise AudioChannels(f"Channel {options.channel} was requested; the file has {header.channels}.")
    if Part.FULL_SPECTROGRAM in options.include and (header.seconds or 0.0) > WHOLE_SECONDS:
        raise InvalidRequest(NO_FULL_SPECTROGRAM)
    return AudioInfo(
        name=name,
        bytes=len(body),
        container=header.container,
        codec=header.codec,
        sample_rate=header.rate or None,
        channels=header.channels or None,
        duration=round(header.seconds, 6) if header.seconds else None,
    )


async def _multipart(request: Request, limit: int) -> tuple[bytes, str | None, dict[str, Any]]:
    if "boundary=" not in request.headers["content-type"].lower():
        raise InvalidRequest(
            "Content-Type multipart/form-data has no boundary; let the library that makes the form set this header."
        )
    chunks = read_chunks(request, limit, limit + ENVELOPE_BYTES)
    parsed = parsed_form(request, chunks, max_files=2, max_fields=MAX_OPTIONS, max_part_size=ENVELOPE_BYTES)
    async with parsed as form:
        files = [(key, value) for key, value in form if isinstance(value, UploadFile)]
        stray = [key for key, _ in files if key not in (FILE, BASE64)]
        if stray:
            raise InvalidRequest(f"The sound must be in the field 'file', not in {stray[0]!r}.")
        if not files and (options := options_of(form)).get(URL):
            return b"", None, options
        if len(files) != 1:
            raise InvalidRequest(f"The field 'file' must hold one file; {len(files)} were sent.")
        ((key, file),) = files
        body, name = await file.read(), file.filename or None
        encoding = file.headers.get("content-transfer-encoding", "").strip().lower()
        if key == BASE64 or encoding == "base64":
            body = decode_base64(body.decode("latin-1"), limit)
        elif name is None:
            body = _file_or_text(body, limit)
        if len(body) > limit:
            raise too_large(limit)
        return body, name, _without_address(options_of(form))


def _file_or_text(body: bytes, limit: int) -> bytes:
    """The sound in a field without a file name: the file itself, or base64 of it. Raises InvalidRequest."""
    if not body or re.search(rb"[^\t\n\r -~]", body[:_MAX_TEXT]):
        return body
    with suppress(InvalidBase64):
        decoded = decode_base64(body.decode("latin-1"), limit)
        if identify(decoded)[0] is not None:
            return decoded
    raise InvalidRequest(_not_a_file(file_reference(body) or body[:80].decode("latin-1")))


def file_reference(body: bytes) -> str:
    """The name or address of a file, if the body is one and not its content."""
    try:
        text = body.decode().strip() if len(body) <= _MAX_TEXT else ""
    except UnicodeDecodeError:
        return ""
    name = re.compile(r"@.+|https?://\S+|s3://\S+|[^\n]*[^\n\s.]\.[A-Za-z][A-Za-z0-9]{1,4}|\[object \w+\]")
    return text if text.isprintable() and name.fullmatch(text) else ""


def _not_a_file(text: str) -> str:
    if "://" in text:
        return f"The request has the address {text!r} in place of a sound; it belongs in the field 'audio_url'."
    return (
        f"The request has the text {text!r} in place of the content of a file. With curl, the name of the file follows"
        " an @: -F file=@dog.wav, or --data-binary @dog.wav."
    )


def _parse_text(text: bytearray, media_type: str, limit: int) -> tuple[bytes, dict[str, Any]]:
    """JSON, a urlencoded form, or a file whose content type does not name it: what HTTP clients send by default."""
    if text.startswith(_BOM):
        del text[: len(_BOM)]
    if media_type == _JSON or text[:16].lstrip().startswith(b"{"):
        return _parse_json(text, limit)
    if media_type == _URLENCODED:
        if re.match(rb"[\w\[\]]{1,64}=", text):
            return _parse_form(text, limit)
        if len(text) > _MAX_TEXT and not any(byte in text for byte in _STRIPPED_BY_CURL):
            raise InvalidRequest(
                "The file has no line breaks and no zero bytes: `curl -d @file` leaves them out. Use -F file=@FILE, or"
                " --data-binary @FILE."
            )
    if len(text) > limit:
        raise too_large(limit)
    return bytes(text), {}


def _parse_form(text: bytearray, limit: int) -> tuple[bytes, dict[str, Any]]:
    try:
        encoded, options = parse_urlencoded(text, MAX_OPTIONS)
    except (ValueError, UnicodeError) as error:
        raise InvalidRequest(f"The form cannot be parsed; at most {MAX_OPTIONS} fields are accepted.") from error
    if encoded is None and options.get(URL):
        return b"", options
    if encoded is None:
        raise UnsupportedMediaType(f"The form has no field 'audio_data' with base64. {_ACCEPTED_FORMS}")
    text.clear()
    return decode_base64(encoded, limit), _without_address(options)


def _parse_json(text: bytearray, limit: int) -> tuple[bytes, dict[str, Any]]:
    if too_many(MAX_JSON_TOKENS, text):
        raise InvalidRequest("The JSON body has too many elements; a sound and its options are accepted.")
    tree = parse_json(text)
    text.clear()  # from here on the encoded sound is in memory once
    if not isinstance(tree, dict):
        raise InvalidRequest("The JSON body must be an object with the base64 sound in 'audio_data'.")
    encoded = tree.pop(BASE64, None)
    if encoded is None and tree.get(URL) is not None:
        return b"", tree
    if not isinstance(encoded, str):
        raise InvalidRequest("The JSON body must have a base64 string in 'audio_data', or an address in 'audio_url'.")
    if len(encoded) <= _MAX_TEXT and (reference := file_reference(encoded.encode(errors="replace"))):
        raise InvalidRequest(_not_a_file(reference))
    return decode_base64(encoded, limit), _without_address(tree)


def _without_address(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a request that has a sound. Raises InvalidRequest if it has an address, too."""
    if options.pop(URL, None):
        raise InvalidRequest("The request has a sound and an address in 'audio_url'; send one of them.")
    return options
