"""The header reader of AC-3 and E-AC-3, as television recordings have them. ETSI TS 102 366, sections 4.4 and E.1.3."""

from shared.audio.containers.tags import tag_size
from shared.audio.headers import Decoder, Header, step

_RATES = (48_000, 44_100, 32_000)  # Hz
_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_CHAIN = 3  # consecutive frames that make random bytes improbable
_MAX_LEAD_IN = 65_536  # bytes before the first frame
_SYNC = b"\x0b\x77"
_BLOCK = 256  # samples


def find_ac3(data: bytes, start: int) -> int | None:
    """The position of the first of several consecutive frames; None where there are none."""
    at = data.find(_SYNC, start)
    while 0 <= at < start + _MAX_LEAD_IN:
        if _is_chain(data, at):
            return at
        at = data.find(_SYNC, at + 1)
    return None


def _frame(data: bytes, at: int) -> tuple[int, int, int] | None:
    """(bytes, samples, rate) of the frame that begins there."""
    step()
    head = data[at : at + 8]
    if len(head) < 8 or head[:2] != _SYNC:
        return None
    rate_index = head[4] >> 6
    version = head[5] >> 3
    if version <= 10:
        size_index = head[4] & 0x3F
        if rate_index == 3 or size_index >= 2 * len(_KBITS):
            return None
        kbits, rate = _KBITS[size_index >> 1], _RATES[rate_index] >> max(version - 8, 0)
        words = kbits * 96_000 // _RATES[rate_index] + (size_index & 1 if rate_index == 1 else 0)
        return 2 * words, 6 * _BLOCK, rate
    if version > 16:
        return None
    blocks = 6 if rate_index == 3 else (1, 2, 3, 6)[head[4] >> 4 & 3]
    if rate_index == 3 and head[4] >> 4 & 3 == 3:
        return None
    rate = _RATES[head[4] >> 4 & 3] // 2 if rate_index == 3 else _RATES[rate_index]
    dependent = head[2] >> 6 == 1  # further channels of the frame before
    return 2 * (((head[2] & 7) << 8 | head[3]) + 1), 0 if dependent else blocks * _BLOCK, rate


def _is_chain(data: bytes, at: int) -> bool:
    for link in range(_CHAIN):
        frame = _frame(data, at)
        if frame is None:
            return link > 1 and at >= len(data)
        at += frame[0]
    return True


def read_ac3_header(data: bytes, start: int) -> Header:
    """Counts the frames. `find_ac3` has found some."""
    at = offset = find_ac3(data, start) or start
    first = _frame(data, offset)
    assert first is not None  # nosec B101  # `find_ac3` has parsed it
    codec = "AC-3" if data[offset + 5] >> 3 <= 10 else "E-AC-3"
    seconds, truncated = 0.0, ""
    while at < len(data):
        frame = _frame(data, at)
        if frame is None:
            following = data.find(_SYNC, at + 1) if not tag_size(data, at) else -1
            while 0 <= following <= at + _MAX_LEAD_IN and _frame(data, following) is None:
                following = data.find(_SYNC, following + 1)
            if not 0 <= following <= at + _MAX_LEAD_IN:
                break
            at = following
            continue
        size, samples, rate = frame
        if at + size > len(data):
            truncated, at = f"The {codec} stream ends inside a frame.", len(data)
            break
        seconds += samples / rate
        at += size
    return Header(
        "AC-3", codec, first[2], 0, round(seconds * first[2]), offset, decoder=Decoder.PYAV, end=at,
        truncated=truncated,
    )  # fmt: skip
