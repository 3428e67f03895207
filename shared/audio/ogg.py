"""The header reader of Ogg: one stream of Vorbis or Opus.

Pages: RFC 3533. Opus in Ogg: RFC 7845. Vorbis: https://xiph.org/vorbis/doc/Vorbis_I_spec.html.
"""

from struct import Struct, unpack_from

from otoscope.errors import AudioTruncated, AudioUnsupported
from shared.audio.headers import Header

_PAGE = Struct("<4sBBqIIIB")  # capture pattern, version, flags, granule position, serial, number, checksum, segments
_OTHER_CODECS = {
    b"\x7fFLAC": "FLAC", b"Speex   ": "Speex", b"\x80theora": "Theora video", b"fishead\0": "a skeleton",
    b"\x80kate": "Kate subtitles", b"PCM     ": "PCM", b"BBCD\0": "Dirac video",
}  # fmt: skip
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # Hz of the decoder; granule positions are always at 48 kHz


def read_ogg_header(data: bytes, start: int) -> Header:
    """Raises AudioUnsupported or AudioTruncated."""
    packet = start + 27 + data[start + 26]  # behind the segment table
    first = data[packet : packet + 19]
    if first[:7] == b"\x01vorbis":
        channels, rate = unpack_from("<BI", first, 11)
        begin, end = _span(data, start, rate)
        return Header("Ogg", "Vorbis", rate, channels, end - begin, start)
    if first[:8] == b"OpusHead":
        channels, skip, input_rate = unpack_from("<BHI", first, 9)
        begin, end = _span(data, start, 48_000)
        rate = next((rate for rate in _OPUS_RATES if rate >= input_rate), 48_000)
        return Header("Ogg", "Opus", rate, channels, max(end - begin - skip, 0) * rate // 48_000, start)
    found = next((name for magic, name in _OTHER_CODECS.items() if first.startswith(magic)), "an unknown codec")
    raise AudioUnsupported(f"Ogg with {found} is not accepted; Ogg with Vorbis or Opus is.")


def _span(data: bytes, at: int, second: int) -> tuple[int, int]:
    """(first, last) granule position of the stream, in samples; checks that every page is complete.

    `second` is a second in samples. Recordings of a running broadcast do not begin at position 0: their true beginning
    follows from their first two pages of sound.
    """
    serial, end = data[at + 14 : at + 18], 0
    early: list[tuple[int, int]] = []  # position and packets of these two
    while at < len(data):
        if at + 27 > len(data) or data[at : at + 4] != b"OggS":
            raise AudioTruncated(f"The Ogg stream breaks off at byte {at:,} of {len(data):,}.")
        _, _, _, position, _, _, _, segments = _PAGE.unpack_from(data, at)
        if data[at + 14 : at + 18] != serial:
            raise AudioUnsupported("Ogg files with more than one stream are not accepted.")
        table = data[at + 27 : at + 27 + segments]
        size = 27 + segments + sum(table)
        if at + size > len(data):
            raise AudioTruncated(f"The Ogg stream breaks off inside the page at byte {at:,}.")
        if position > 0 and len(early) < 2:
            early.append((position, segments - table.count(255)))
        end = max(end, position)
        at += size
    if len(early) < 2:
        return 0, end
    (one, packets), (two, others) = early
    begin = one - (two - one) * packets // max(others, 1)
    return (begin if second < begin < end else 0), end
