"""The header reader of AMR, narrowband and wideband, as telephones record it. RFC 4867, section 5."""

import re
from dataclasses import replace

from otoscope.errors import AudioTruncated, AudioUnsupported
from shared.audio.containers.iff import is_stray
from shared.audio.containers.tags import strip_tags
from shared.audio.headers import Decoder, Header, step

_FRAMES = {  # by magic: rate in Hz, bytes of a frame by its type, without the byte that has the type
    b"#!AMR\n": ("AMR-NB", 8_000, (12, 13, 15, 17, 19, 20, 26, 31, 5, 6, 5, 5, 0, 0, 0, 0)),
    b"#!AMR-WB\n": ("AMR-WB", 16_000, (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, 5, 0, 0, 0, 0, 0)),
}
_MAGIC = b"#!AMR"
_CHAIN = 5  # consecutive frames that make random bytes improbable
_MAX_DAMAGE = 65_536  # bytes in which the next ones must begin
_UNUSED = 0x83  # bits of the first byte of a frame that are always zero
_EMPTY: dict[tuple[int, ...], re.Pattern[bytes]] = {  # frames of one byte, where nothing was sent, by the sizes
    sizes: re.compile(
        b"[%b]+" % re.escape(bytes(8 * kind | bit for kind, size in enumerate(sizes) if not size for bit in (0, 4)))
    )
    for _, _, sizes in _FRAMES.values()
}


def read_amr_header(data: bytes, start: int) -> Header:
    """Counts the frames of 20 ms. Raises AudioUnsupported or AudioTruncated."""
    magic = next((magic for magic in _FRAMES if data.startswith(magic, start)), None)
    if magic is None:
        raise AudioUnsupported("AMR with several channels is not accepted; with one it is.")
    codec, rate, sizes = _FRAMES[magic]
    stop, damage = strip_tags(data, start), ""
    parts: list[Header] = []  # between damage
    seen: set[int] = set()  # how the frames begin
    following: int | None = start + len(magic)
    while following is not None:
        begin, following = following, None
        at, last, count = _walk(data, begin, stop, sizes, seen)
        another = data.find(_MAGIC, last + 1, at)
        if another >= 0:  # behind a file that was cut
            at, count, damage = last, count - 1, damage or "The AMR file ends inside a frame."
        elif at < stop and not data[at] & _UNUSED:
            damage = damage or ("The AMR file ends inside a frame." if data[at:stop].strip(b"\0") else "")
        elif at < stop and not data.startswith(_MAGIC, at) and not is_stray(data, at):
            following = _next_frames(data, at, stop, sizes, seen)
            what = "is damaged" if following else "has no frames"
            damage = damage or f"From byte {at:,} on the AMR file {what}."
        if count:
            frames = count * rate // 50
            parts.append(Header("AMR", codec, rate, 1, frames, begin, magic, decoder=Decoder.PYAV, end=at))
    if not parts:
        raise AudioTruncated("The AMR file ends before its first frame.")
    return replace(parts[0], truncated=damage, more=tuple(parts[1:]))


def _walk(data: bytes, at: int, stop: int, sizes: tuple[int, ...], seen: set[int]) -> tuple[int, int, int]:
    """(position behind the whole frames that begin there, that of the last one, their number)."""
    last, count = at, 0
    while at < stop and not data[at] & _UNUSED:  # else it is no frame: junk, damage or the next file
        step()
        if run := _EMPTY[sizes].match(data, at, stop):
            seen.update(run[0])
            count += run.end() - at
            at, last = run.end(), run.end() - 1
            continue
        after = at + 1 + sizes[data[at] >> 3 & 15]
        if after > stop:
            break
        seen.add(data[at])
        at, last, count = after, at, count + 1
    return at, last, count


def _next_frames(data: bytes, at: int, stop: int, sizes: tuple[int, ...], seen: set[int]) -> int | None:
    """Where several frames follow one another, which begin as others of the file do."""
    for place in range(at + 1, min(at + _MAX_DAMAGE, stop)):
        step()
        following = place
        for _ in range(_CHAIN):
            if following >= stop or data[following] not in seen:
                break
            following += 1 + sizes[data[following] >> 3 & 15]
        else:
            return place
    return None
