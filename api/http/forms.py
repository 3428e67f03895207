"""Forms: multipart/form-data (RFC 7578) and application/x-www-form-urlencoded, as clients send them."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from otoscope.errors import InvalidRequest

FILE, BASE64, URL = "file", "audio_data", "audio_url"
"""The three fields that may have the sound: as it is, as base64, and its address."""

UNSET = ("", "null", "undefined")
"""Values that clients send for an option without one."""

_EXTENDED_NAME = re.compile(rb"filename\*\s*=\s*\"?(?P<charset>[\w-]{1,40})'[^']*'(?P<name>[^;\"\s]{1,4096})", re.I)


class SoundForm(MultiPartParser):
    """Keeps parts in memory: their size was limited before, and a disk is slower and can be full.

    The sound may come without a file name, which otherwise distinguishes files from fields.
    """

    spool_max_size = 2**40

    def on_headers_finished(self) -> None:
        """Give a part with the sound a file name, the one of `filename*` (RFC 8187) where it has that."""
        part = self._current_part
        disposition = part.content_disposition or b""
        _, options = parse_options_header(disposition)
        extended = _EXTENDED_NAME.search(disposition)
        is_sound = options.get(b"name", b"").decode("latin-1") in (FILE, BASE64)
        if b"filename" not in options and (is_sound or extended):
            part.content_disposition = disposition + b'; filename=""'
        super().on_headers_finished()
        if part.file is not None and extended:
            charset = "latin-1" if extended["charset"].lower() == b"iso-8859-1" else "utf-8"
            part.file.filename = unquote_to_bytes(extended["name"]).decode(charset, errors="replace")

    def close(self) -> None:
        """Close every file, including that of an unfinished part, which the form does not hold."""
        for file in self._files_to_close_on_error:
            file.close()


@asynccontextmanager
async def parsed_form(
    request: Request, chunks: AsyncGenerator[bytes, None], *, max_files: int, max_fields: int, max_part_size: int
) -> AsyncIterator[list[tuple[str, UploadFile | str]]]:
    """The fields of a multipart body, whose files are closed at the end of the block. Raises InvalidRequest."""
    parser = SoundForm(request.headers, chunks, max_files=max_files, max_fields=max_fields, max_part_size=max_part_size)
    try:
        yield (await parser.parse()).multi_items()
    except MultiPartException as error:
        raise InvalidRequest(f"The multipart body cannot be parsed: {error.message}") from error
    except (KeyError, ValueError, UnicodeError) as error:
        raise InvalidRequest("The multipart body cannot be parsed.") from error
    finally:
        parser.close()


def group_options(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Options by name: `include` may be repeated or comma-separated, also as `include[]`; an unset value counts as
    absent."""
    options: dict[str, Any] = {}
    for key, value in pairs:
        if re.fullmatch(r"include(\[\d{0,2}\])?", key):
            options.setdefault("include", []).extend(part.strip() for part in value.split(",") if part.strip())
        elif value not in UNSET:
            options[key] = value
    return options


def options_of(form: list[tuple[str, str | UploadFile]]) -> dict[str, Any]:
    """The options among the parts of a form."""
    return group_options([(key, value) for key, value in form if isinstance(value, str)])


def parse_urlencoded(text: bytearray, max_fields: int) -> tuple[str | None, dict[str, Any]]:
    """The base64 of a urlencoded form, or None, and its options. A `+` in base64 stays one. Raises ValueError."""
    encoded: str | None = None
    others: list[str] = []
    for field in text.split(b"&", max_fields):
        key, _, value = field.partition(b"=")
        if key == BASE64.encode():
            encoded = value.decode("ascii")
        else:
            others.append(field.decode())
    return encoded, group_options(parse_qsl("&".join(others), keep_blank_values=True, max_num_fields=max_fields))
