"""The sounds of a batch: a ZIP archive, several files of a form, or base64 in JSON, read under limits."""

import io
import re
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from otoscope.errors import InvalidRequest, PayloadTooLarge
from otoscope.types import MAX_BATCH

MAX_EXPANSION = 8
"""All sounds of an archive may take so many times the largest upload. Deflate saves about half of a sound."""
MAX_NAME = 1_024  # characters

_ENTRY = b"PK\x01\x02"  # of the central directory
_ARCHIVE_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"BZh", b"\xfd7zXZ")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Member:
    """A sound of a batch. `read` returns its bytes, and raises InvalidRequest where they are damaged."""

    name: str
    read: Callable[[], bytes]
    url: str = ""  # of a sound that the worker fetches; `read` returns it, too


def is_archive(body: bytes) -> bool:
    """Whether a file is a ZIP archive."""
    return body.startswith(_ARCHIVE_MAGIC[:2])


def archive_members(body: bytes, limit: int) -> list[Member]:
    """The files of a ZIP archive in memory, each at most `limit` bytes; hidden files and metadata are left out.

    Nothing is written to a disk, and one file at a time is decompressed. Raises InvalidRequest or PayloadTooLarge.
    """
    if body.count(_ENTRY) > 4 * MAX_BATCH:  # zipfile would make an object of each
        raise InvalidRequest(f"The archive has too many entries; at most {MAX_BATCH} sounds are accepted.")
    try:
        archive = zipfile.ZipFile(io.BytesIO(body))
        entries = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_metadata(entry.filename)]
        for entry in entries:
            _check(entry, limit)
        if sum(entry.file_size for entry in entries) > MAX_EXPANSION * limit:
            raise PayloadTooLarge(
                f"The files of the archive are larger than {MAX_EXPANSION * limit:,} bytes; send several batches."
            )
        for entry in entries:
            with suppress(zipfile.BadZipFile, zlib.error, EOFError), archive.open(entry) as file:  # fails on its own
                if file.read(8).startswith(_ARCHIVE_MAGIC):
                    raise InvalidRequest(f"{entry.filename!r} is an archive in the archive; send it on its own.")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OverflowError, OSError) as error:
        raise InvalidRequest(f"The ZIP archive cannot be read: {error}.") from error
    return [Member(entry.filename.replace("\\", "/"), _reader(archive, entry, limit)) for entry in entries]


def check_name(name: str) -> str:
    """The name of a member. Raises InvalidRequest for one that leads out of a directory, or cannot be shown."""
    plain = name.replace("\\", "/")
    if not plain or len(plain) > MAX_NAME or not plain.isprintable():
        raise InvalidRequest(f"The name {name[:80]!r} is empty, too long, or has control characters.")
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain) or ".." in plain.split("/"):
        raise InvalidRequest(f"The name {name[:80]!r} leads out of its directory.")
    return plain


def _check(entry: zipfile.ZipInfo, limit: int) -> None:
    check_name(entry.orig_filename)
    if entry.flag_bits & 0x1:
        raise InvalidRequest(f"{entry.filename!r} is encrypted.")
    if entry.compress_type not in _METHODS:
        raise InvalidRequest(f"{entry.filename!r} is compressed by another method than deflate.")
    if (entry.external_attr >> 16) & 0o170000 == 0o120000:
        raise InvalidRequest(f"{entry.filename!r} is a symbolic link.")
    if entry.file_size > limit:
        raise PayloadTooLarge(f"{entry.filename!r} is larger than the accepted {limit:,} bytes.")


def _is_metadata(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "__MACOSX" or (parts[-1].startswith(".") and parts[-1] != "..") or parts[-1] == "Thumbs.db"


def _reader(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            with archive.open(entry) as file:
                return file.read(limit + 1)  # checks the CRC at the end of the file
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
            raise InvalidRequest(f"{entry.filename!r} is damaged in the archive: {error}.") from error

    return read
