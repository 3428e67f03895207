"""What surrounds a sound in a file: tags, zeros and line breaks, in front of it and behind it.

ID3v1 and ID3v2: https://id3.org/id3v2.4.0-structure. APEv2: https://wiki.hydrogenaud.io/index.php?title=APEv2_specification.
"""

import re

from otoscope.errors import AudioEmpty, AudioTruncated
from shared.audio.headers import step

_BLANK = re.compile(rb"[\0\r\n\t ]*")
_MIN_ZEROS = 64  # at the end of a file that are padding; compressed sound ends with fewer
_APE = 32  # bytes of the header and of the footer of an APE tag


def tag_size(data: bytes, at: int) -> int:
    """Bytes of the ID3 or APE tag that begins there; 0 where none does."""
    if data[at : at + 3] == b"ID3" and len(data) >= at + 10:
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        return 20 + size if data[at + 5] & 0x10 else 10 + size  # that flag: a footer repeats ten bytes of header
    if data[at : at + 8] == b"APETAGEX":
        return _APE + int.from_bytes(data[at + 12 : at + 16], "little")
    return 128 if data[at : at + 3] == b"TAG" else 0


def skip_tags(data: bytes, at: int = 0) -> int:
    """The position after tags, zeros and white space that begin there. Raises AudioTruncated or AudioEmpty."""
    start, tagged = at, 0
    while at < len(data):
        step()
        size = tag_size(data, at)
        if size:
            tagged = at = at + size
            continue
        blank = _BLANK.match(data, at)
        if blank is None or blank.end() == at:
            return at
        at = blank.end()
    if not tagged:
        return start
    if tagged > len(data):
        length = f"{tagged - start:,} bytes"
        raise AudioTruncated(f"The file ends inside its ID3 or APE tag of {length}; it has {len(data):,}.")
    raise AudioEmpty("The file consists of an ID3 or APE tag and no sound.")


def strip_tags(data: bytes, start: int = 0) -> int:
    """The position of the tags and the zeros at the end of a file; not before `start`."""
    end = len(data)
    while end > start:
        step()
        last = data[max(start, end - 128) : end]
        if len(last) == 128 and last[:3] == b"TAG":
            end -= 128
        elif len(last) >= _APE and last[-_APE:-24] == b"APETAGEX":
            size = int.from_bytes(last[-20:-16], "little")  # with the footer, without the header
            header = _APE if int.from_bytes(last[-12:-8], "little") >> 31 else 0
            if not _APE <= size <= end - start - header:
                break
            end -= size + header
        elif not any(last[-_MIN_ZEROS:]) and len(last) >= _MIN_ZEROS:
            stripped = _before_zeros(data, start, end)
            tag = _end_of_tag(data, start, stripped)
            end = tag if tag < end else stripped
        else:
            break
    return end


def _before_zeros(data: bytes, start: int, end: int) -> int:
    """The position of the zeros before `end`; not before `start`. Of a large file, only what it needs is copied."""
    size = 4_096
    while end > start:
        begin = max(start, end - size)
        if kept := len(data[begin:end].rstrip(b"\0")):
            return begin + kept
        end, size = begin, 2 * size
    return start


def _end_of_tag(data: bytes, start: int, stripped: int) -> int:
    """The position behind the tag that ends with some of the zeros from `stripped` on, else that position."""
    for magic, size in ((b"APETAGEX", _APE), (b"TAG", 128)):
        at = data.rfind(magic, max(start, stripped - size), stripped)
        if at >= 0:
            return at + size
    return stripped
