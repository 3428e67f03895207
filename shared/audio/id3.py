"""ID3v2 tags, which may precede a stream of any format. See https://id3.org/id3v2.4.0-structure."""

from otoscope.errors import AudioEmpty, AudioTruncated


def skip_id3(data: bytes) -> int:
    """The position after the ID3v2 tags at the start of a file. Raises AudioTruncated or AudioEmpty."""
    at = 0
    while data[at : at + 3] == b"ID3":
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += 20 + size if data[at + 5] & 0x10 else 10 + size  # that flag: a footer repeats the ten bytes of header
        if at > len(data):
            raise AudioTruncated(f"The file ends inside its ID3 tag of {at:,} bytes; the upload has {len(data):,}.")
        if at == len(data):
            raise AudioEmpty("The file consists of an ID3 tag and no sound.")
    return at
