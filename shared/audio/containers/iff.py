"""Chunks of IFF files, of which WAV (RIFF) and AIFF are kinds."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import unpack_from

from otoscope.errors import AudioCorrupt

_MAX_CHUNKS = 10_000  # real files have up to a few dozen
_MAX_STRAY = 128  # bytes behind a sound that are not worth reading on: the boundary of a form, line breaks
_REPEATED = re.compile(rb"(.)\1*", re.DOTALL)
_PRINTABLE = frozenset(range(0x20, 0x7F))
UNFINISHED = 0x7FFFF000
"""From here up: sizes that programs leave which write into a pipe, where they cannot seek back to correct them."""


def iter_chunks(data: bytes, start: int, order: str, stop: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(id, offset, claimed size) of each chunk before `stop`; `order` is struct's byte order of the sizes.

    A chunk of an odd size is followed by a padding byte, which some programs leave out.
    """
    at, stop = start, len(data) if stop is None else stop
    for _ in range(_MAX_CHUNKS):
        if at + 8 > stop:
            return
        name, size = unpack_from(f"{order}4sI", data, at)
        yield name, at + 8, size
        at += 8 + size
        if size & 1 and not (is_chunk_id(data[at : at + 4]) and not is_chunk_id(data[at + 1 : at + 5])):
            at += 1
    raise AudioCorrupt(f"The file has more than {_MAX_CHUNKS:,} chunks.")


def is_chunk_id(name: bytes) -> bool:
    """Whether these four bytes can be the name of a chunk."""
    return len(name) == 4 and all(byte in _PRINTABLE for byte in name)


def chunks_follow(data: bytes, at: int, order: str, whole: int = 0) -> bool:
    """Whether the rest of a file is chunks, or nothing but `is_stray`. They are complete, but for a file that was cut:
    there they fit into the `whole` file, which ends there by its header."""
    end = max(len(data), whole if whole < UNFINISHED else 0)
    for begin in (at, at + 1):
        if is_chunk_id(data[begin : begin + 4]) and len(data) >= begin + 8:
            size = unpack_from(f"{order}I", data, begin + 4)[0]
            if begin + 8 + size <= end + 1:
                return True
    return is_stray(data, at)


def is_stray(data: bytes, at: int, stop: int | None = None) -> bool:
    """Whether the rest of a file, or what is before `stop`, is nothing but tags, one value repeated (empty or erased
    blocks of a card) or a few stray bytes."""
    stop = len(data) if stop is None else stop
    tagged = any(data.startswith((b"ID3", b"TAG", b"APETAGEX"), begin) for begin in (at, at + 1))
    if tagged or stop - at <= _MAX_STRAY:
        return True
    repeated = _REPEATED.match(data, at, stop)
    return repeated is not None and repeated.end() == stop


@dataclass(frozen=True)
class Extent:
    """How far the samples of a file reach."""

    size: int  # bytes
    doubt: str = ""  # a sentence, where the header does not settle it


def extent_of_sound(
    name: str,
    data: bytes,
    at: int,
    stated: int | None,
    whole: int | None,
    belongs: Callable[[int], bool],
    magic: re.Pattern[bytes],
) -> Extent:
    """Of the samples that begin there, in a format of that name.

    They are as many bytes as the header has `stated`, if what is behind them `belongs` to the file. If not, that size
    was never corrected, or what is behind them is no part of the file: then the header's end of the `whole` file
    decides, where it is not before the sound and not behind the file. Else the sound reaches up to the next file, which
    begins with the magic bytes, or to the end. `stated` is None of an unknown size, and so is `whole`. A next file that
    begins earlier than stated was put behind one that is cut.
    """
    known = stated is not None and at + stated <= len(data)
    end = at + (stated or 0) if known else at
    if stated is not None and known and belongs(end):
        return Extent(stated)
    following = magic.search(data, at + 1)
    limit = following.start() if following else max(len(data), at)
    if end == at or limit < end:
        return Extent(limit - at)
    if is_stray(data, end, limit):
        return Extent(end - at)
    if whole is None or not end <= whole <= limit:
        follow = f"{limit - end:,} more bytes follow, which were read as sound."
        return Extent(limit - at, f"The {name} header announces {end - at:,} bytes of samples; {follow}")
    if whole == end + 1:  # a byte of padding
        whole = end
    if whole > end and (belongs(whole) or is_stray(data, whole, limit)):
        return Extent(whole - at)
    left = f"{limit - whole:,} more bytes follow, which were left out."
    return Extent(whole - at, f"The {name} header announces {whole - at:,} bytes of samples; {left}")
