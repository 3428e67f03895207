"""The header reader of AAC in ADTS frames, as Android and broadcasts have it. ISO/IEC 13818-7, annex A."""

from shared.audio.containers.tags import tag_size
from shared.audio.headers import Decoder, Header, step

_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)  # Hz
_CHAIN = 3  # consecutive frames that make random bytes improbable
_MAX_LEAD_IN = 65_536  # bytes before the first frame
_SAMPLES = 1_024  # of a raw data block


def find_adts(data: bytes, start: int) -> int | None:
    """The position of the first of several consecutive frames; None where there are none.

    At the start one whole frame before the end is enough: a short recording, or one that was cut.
    """
    if _is_chain(data, start, 1):
        return start
    at = data.find(b"\xff", start)
    while 0 <= at < start + _MAX_LEAD_IN:
        if _is_chain(data, at):
            return at
        at = data.find(b"\xff", at + 1)
    return None


def _size(data: bytes, at: int) -> int:
    """Bytes of the frame that begins there; 0 where none does."""
    head = data[at : at + 7]
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 >= len(_RATES):
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size > 7 else 0


def _is_chain(data: bytes, at: int, fewest: int = _CHAIN) -> bool:
    """Whether consecutive frames begin there: three, or so many whole ones and then the end of the stream."""
    for link in range(_CHAIN):
        step()
        size = _size(data, at)
        if not size:
            return link >= fewest and (at >= len(data) or tag_size(data, at) > 0)
        if at + size > len(data):  # cut
            return link >= fewest
        at += size
    return True


def read_adts_header(data: bytes, start: int) -> Header:
    """Counts the frames. `find_adts` has found some."""
    at = offset = find_adts(data, start) or start
    seconds, truncated = 0.0, ""
    while at < len(data):
        step()
        size = _size(data, at)
        if not size:
            following = data.find(b"\xff", at + 1) if not tag_size(data, at) else -1
            while 0 <= following <= at + _MAX_LEAD_IN and not _is_chain(data, following, 1):
                following = data.find(b"\xff", following + 1)
            if not 0 <= following <= at + _MAX_LEAD_IN:
                break
            at = following
            continue
        if at + size > len(data):
            truncated, at = "The AAC stream ends inside a frame.", len(data)
            break
        seconds += _SAMPLES * ((data[at + 6] & 3) + 1) / _RATES[data[at + 2] >> 2 & 15]
        at += size
    rate = _RATES[data[offset + 2] >> 2 & 15]
    channels = (data[offset + 2] & 1) << 2 | data[offset + 3] >> 6
    return Header(
        "AAC", "AAC", rate, 8 if channels == 7 else channels, round(seconds * rate), offset, decoder=Decoder.PYAV,
        end=at, truncated=truncated,
    )  # fmt: skip
