"""Chunks of IFF files, of which WAV (RIFF) and AIFF are kinds."""

from collections.abc import Iterator
from struct import unpack_from

from otoscope.errors import AudioCorrupt

_MAX_CHUNKS = 10_000  # real files have up to a few dozen


def iter_chunks(data: bytes, start: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(id, offset, claimed size) of each chunk; `order` is struct's byte order of the sizes."""
    at = start + 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        name, size = unpack_from(f"{order}4sI", data, at)
        yield name, at + 8, size
        at += 8 + size + (size & 1)
    raise AudioCorrupt(f"The file has more than {_MAX_CHUNKS:,} chunks.")
