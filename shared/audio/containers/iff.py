"""Chunks of IFF files, of which WAV (RIFF) and AIFF are kinds."""

import re
from collections.abc import Callable, Iterator
from struct import unpack_from

from otoscope.errors import AudioCorrupt

_MAX_CHUNKS = 10_000  # real files have up to a few dozen
_MAX_STRAY = 128  # bytes behind a sound that are not worth reading on: the boundary of a form, line breaks
_PRINTABLE = frozenset(range(0x20, 0x7F))


def iter_chunks(data: bytes, start: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(id, offset, claimed size) of each chunk; `order` is struct's byte order of the sizes.

    A chunk of an odd size is followed by a padding byte, which some programs leave out.
    """
    at = start
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
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


def chunks_follow(data: bytes, at: int, order: str) -> bool:
    """Whether the rest of a file is chunks, complete ones but for the last, or nothing but `is_stray`."""
    for begin in (at, at + 1):
        if is_chunk_id(data[begin : begin + 4]) and len(data) >= begin + 8:
            size = unpack_from(f"{order}I", data, begin + 4)[0]
            if begin + 8 + size <= len(data) + 1:
                return True
    return is_stray(data, at)


def is_stray(data: bytes, at: int) -> bool:
    """Whether the rest of a file is nothing but tags, one value repeated (empty or erased blocks of a card) or a few
    stray bytes."""
    tagged = any(data.startswith((b"ID3", b"TAG", b"APETAGEX"), begin) for begin in (at, at + 1))
    return tagged or len(data) - at <= _MAX_STRAY or data.count(data[at], at) == len(data) - at


def bytes_of_sound(
    data: bytes, at: int, stated: int | None, belongs: Callable[[int], bool], magic: re.Pattern[bytes]
) -> int:
    """Bytes of samples from there: as many as the header states, if what is behind them `belongs` to the file; else up
    to the next file, which begins with the magic bytes, or to the end. `stated` is None of an unknown size."""
    start = at
    if stated is not None and at + stated <= len(data):
        if belongs(at + stated):
            return stated
        start = at + stated  # a size that was never corrected
    following = magic.search(data, start)
    return (following.start() if following else max(len(data), at)) - at
