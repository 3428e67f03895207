"""The header reader of WavPack: the first block. https://www.wavpack.com/WavPack5FileFormat.pdf"""

from struct import unpack_from

from otoscope.errors import AudioTruncated
from shared.audio.containers.tags import tag_size
from shared.audio.headers import Decoder, Header, step

_RATES = (
    6_000, 8_000, 9_600, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000,
    192_000,
)  # fmt: skip
_UNKNOWN = 0xFFFFFFFF
_INITIAL = 0x800  # the first of the blocks of several channels


def read_wavpack_header(data: bytes, start: int) -> Header:
    """Walks the blocks. Raises AudioTruncated."""
    total, flags = unpack_from("<I8xI", data, start + 12)
    at = end = start
    truncated, begun = "", False
    while at + 8 <= len(data):
        step()
        if size := tag_size(data, at):
            at += size
            continue
        if data[at : at + 4] != b"wvpk":
            following = data.find(b"wvpk", at)
            if following < 0:  # junk
                break
            truncated, at = f"The WavPack file is damaged at byte {at:,}.", following
        first = at + 32 <= len(data) and _is_first(data, at)
        if first and begun:  # another file
            break
        begun = begun or first
        after = at + 8 + unpack_from("<I", data, at + 4)[0]
        if after > len(data):
            truncated = f"The WavPack file ends inside the block at byte {at:,}."
            break
        at = end = after
    if end == start:
        raise AudioTruncated("The WavPack file ends inside its first block.")
    index = flags >> 23 & 15
    rate = _RATES[index] if index < len(_RATES) else 0
    frames = None if total == _UNKNOWN or not rate else total
    return Header(
        "WavPack", "WavPack", rate, 0, frames, start, decoder=Decoder.PYAV, end=end, truncated=truncated,
    )  # fmt: skip


def _is_first(data: bytes, at: int) -> bool:
    """Whether the block there has the first samples of a file."""
    index, samples, flags = unpack_from("<III", data, at + 16)
    return index == 0 and samples > 0 and bool(flags & _INITIAL)
