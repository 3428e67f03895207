"""The body of a batch: a ZIP archive, a form with several files, or JSON with base64, read under limits."""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from api.http.archives import MAX_NAME, Member, archive_members, check_name, is_archive
from api.http.base64_text import decode_base64, too_large
from api.http.bodies import ENVELOPE_BYTES, media_type_of, parse_json, read_chunks, read_encoded, too_many
from api.http.forms import FILE, group_options, options_of, parsed_form
from api.http.options import MAX_OPTIONS, validate_options
from api.threads import in_upload_thread
from otoscope.errors import InvalidRequest, RequestTimeout, UnsupportedMediaType
from otoscope.types import MAX_BATCH, JobOptions
from shared.config.settings import Settings
from shared.validation import describe_validation_errors

_ZIP_TYPES = ("application/zip", "application/x-zip-compressed", "application/octet-stream")
_ACCEPTED = (
    "Send a ZIP archive as application/zip, multipart/form-data with several files in the field 'file', or JSON with"
    ' {"sounds": [{"name": …, "audio_data": base64}, {"audio_url": …}, …]}.'
)


class ManifestSound(BaseModel):
    """A sound in the JSON of a batch."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("", max_length=MAX_NAME)
    audio_data: str | None = Field(None, description="base64")
    audio_url: str | None = Field(None, description="the address of a sound, of a source that the service allows")


class BatchRequest(JobOptions):
    """The JSON of a batch: its sounds, and the options of all of them."""

    sounds: list[ManifestSound] = Field(min_length=1, max_length=MAX_BATCH)


async def read_batch(request: Request, settings: Settings) -> tuple[list[Member], JobOptions]:
    """The sounds of a batch and their options. All of them together, compressed, may be as large as one upload.

    Raises InvalidRequest, PayloadTooLarge, RequestTimeout or UnsupportedMediaType.
    """
    limit, media_type = settings.max_upload_bytes, media_type_of(request)
    options = group_options(request.query_params.multi_items())
    fields: dict[str, Any] = {}
    try:
        async with asyncio.timeout(settings.upload_seconds):
            if media_type == "multipart/form-data":
                members, fields = await _form(request, limit)
            elif media_type == "application/json":
                text = await read_encoded(request, limit)
                members, fields = await in_upload_thread(_manifest, text, limit)
            elif media_type in _ZIP_TYPES:
                body = b"".join([chunk async for chunk in read_chunks(request, limit, limit)])
                members = await in_upload_thread(_archive, body, limit)
            else:
                raise UnsupportedMediaType(f"Content-Type {media_type or '(none)'} is not accepted. {_ACCEPTED}")
    except TimeoutError as error:
        raise RequestTimeout(f"The upload did not arrive within {settings.upload_seconds:g} s.") from error
    except ClientDisconnect as error:
        raise InvalidRequest("The connection was closed before the upload was complete.") from error
    if not 1 <= len(members) <= MAX_BATCH:
        raise InvalidRequest(f"The batch has {len(members)} sounds; 1 to {MAX_BATCH} are accepted.")
    return members, validate_options(options, fields)


def _archive(body: bytes, limit: int) -> list[Member]:
    if not is_archive(body):
        raise InvalidRequest(f"The body is not a ZIP archive. {_ACCEPTED}")
    return archive_members(body, limit)


async def _form(request: Request, limit: int) -> tuple[list[Member], dict[str, Any]]:
    chunks = read_chunks(request, limit, limit + MAX_BATCH * 1_024 + ENVELOPE_BYTES)
    parsed = parsed_form(request, chunks, max_files=MAX_BATCH, max_fields=MAX_OPTIONS, max_part_size=ENVELOPE_BYTES)
    async with parsed as form:
        files = [(key, value) for key, value in form if isinstance(value, UploadFile)]
        if stray := [key for key, _ in files if key not in (FILE, "file[]", "files", "files[]")]:
            raise InvalidRequest(f"The sounds must be in the field 'file', not in {stray[0]!r}.")
        bodies = [(file.filename or f"sound-{index}", await file.read()) for index, (_, file) in enumerate(files, 1)]
        if len(bodies) == 1 and is_archive(bodies[0][1]):
            return await in_upload_thread(archive_members, bodies[0][1], limit), options_of(form)
        if sum(len(body) for _, body in bodies) > limit:
            raise too_large(limit)
        return [Member(check_name(name), _returns(body)) for name, body in bodies], options_of(form)


def _manifest(text: bytearray, limit: int) -> tuple[list[Member], dict[str, Any]]:
    if too_many(8 * MAX_BATCH, text):
        raise InvalidRequest(f"The JSON body has too many elements; at most {MAX_BATCH} sounds are accepted.")
    tree = parse_json(text)
    text.clear()
    sounds = tree.pop("sounds", None) if isinstance(tree, dict) else None
    if not isinstance(sounds, list):
        raise InvalidRequest(f"The JSON body must have a list 'sounds'. {_ACCEPTED}")
    members = []
    for index, sound in enumerate(sounds[: MAX_BATCH + 1], 1):
        try:
            parsed = ManifestSound.model_validate(sound)
        except ValidationError as error:
            message = describe_validation_errors(error.errors(include_input=False))
            raise InvalidRequest(f"sounds, number {index}: {message}") from error
        if (parsed.audio_data is None) == (parsed.audio_url is None):
            raise InvalidRequest(f"sounds, number {index}: one of 'audio_data' and 'audio_url' is needed.")
        name = check_name(parsed.name or f"sound-{index}")
        if parsed.audio_url is not None:
            members.append(Member(name, _returns(parsed.audio_url.encode()), parsed.audio_url))
        else:
            members.append(Member(name, _decodes(parsed.audio_data or "", limit)))
    return members, tree


def _returns(body: bytes) -> Callable[[], bytes]:
    return lambda: body


def _decodes(encoded: str, limit: int) -> Callable[[], bytes]:
    return lambda: decode_base64(encoded, limit)
