"""The header reader of Ogg: the sound of one link of a chain, also beside video.

Pages: RFC 3533. Opus in Ogg: RFC 7845. Vorbis: https://xiph.org/vorbis/doc/Vorbis_I_spec.html. Speex:
https://www.speex.org/docs/manual/speex-manual. FLAC in Ogg: RFC 9639, section 10.1.
"""

import zlib
from dataclasses import dataclass, field
from struct import Struct, pack, unpack_from

from otoscope.errors import AudioTruncated, AudioUnsupported
from shared.audio.headers import Decoder, Header, step

_PAGE = Struct("<4sBBqIIIB")  # capture pattern, version, flags, granule position, serial, number, checksum, segments
_LINK = b"OggS\0\x02"  # how the first page of a link begins
_FIRST, _LAST = 2, 4  # flags of a page
_OTHER_CODECS = {
    b"\x80theora": "Theora video", b"fishead\0": "a skeleton", b"\x80kate": "Kate subtitles", b"PCM     ": "PCM",
    b"BBCD\0": "Dirac video", b"\x01video": "OGM video", b"CELT    ": "CELT",
}  # fmt: skip
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # Hz of the decoder; granule positions are always at 48 kHz


@dataclass
class _Stream:
    """A logical stream: its first packet, and where its pages of sound begin and end."""

    first: bytes
    end: int = 0  # the last granule position
    early: list[tuple[int, int]] = field(default_factory=list)  # position and packets of the first two pages of sound
    ended: bool = False  # its last page is marked as such

    def span(self, second: int) -> tuple[int, int]:
        """(first, last) granule position of the stream, in samples; `second` is a second in samples.

        Recordings of a running broadcast do not begin at position 0: their true beginning follows from their first two
        pages of sound.
        """
        if len(self.early) < 2:
            return 0, self.end
        (one, packets), (two, others) = self.early
        begin = one - (two - one) * packets // max(others, 1)
        return (begin if second < begin < self.end else 0), self.end


def read_ogg_header(data: bytes, start: int) -> Header:
    """Raises AudioUnsupported or AudioTruncated."""
    streams, end, broken, rest = _read_link(data, start)
    for stream in streams.values():
        found = _describe(stream)
        if found is not None:
            codec, rate, channels, frames = found
            break
    else:
        names = [name for each in streams.values() for magic, name in _OTHER_CODECS.items() if magic in each.first[:8]]
        what = names[0] if names else "an unknown codec"
        raise AudioUnsupported(f"Ogg with {what} is not accepted; Ogg with Vorbis, Opus, FLAC or Speex is.")
    unstated = codec == "Opus" and stream.first[12:16] == bytes(4)  # a rate of 0, for which libsndfile takes 8 kHz
    alone = len(streams) == 1 and codec in ("Vorbis", "Opus") and not unstated
    if not broken and not stream.ended and data.find(b"OggS\0", end) < 0:
        broken = "The Ogg stream has no last page: it was cut, or its recording was not finished."
    decoder = Decoder.SNDFILE if alone else Decoder.PYAV
    return Header("Ogg", codec, rate, channels, frames, start, suffix=rest, decoder=decoder, end=end, truncated=broken)


def _describe(stream: _Stream) -> tuple[str, int, int, int | None] | None:
    """(codec, rate, channels, frames) of a stream of sound."""
    first = stream.first
    if first[:7] == b"\x01vorbis":
        channels, rate = unpack_from("<BI", first, 11)
        begin, end = stream.span(rate)
        return "Vorbis", rate, channels, end - begin
    if first[:8] == b"OpusHead":
        channels, skip, input_rate = unpack_from("<BHI", first, 9)
        begin, end = stream.span(48_000)
        rate = next((rate for rate in _OPUS_RATES if rate >= (input_rate or 48_000)), 48_000)
        return "Opus", rate, channels, max(end - begin - skip, 0) * rate // 48_000
    if first[:5] == b"\x7fFLAC":
        packed = int.from_bytes(first[27:35], "big")
        rate = packed >> 44
        begin, end = stream.span(rate)
        return "FLAC", rate, (packed >> 41 & 7) + 1, end - begin
    if first[:8] == b"Speex   ":
        rate, channels = unpack_from("<I8xI", first, 36)
        begin, end = stream.span(rate)
        return "Speex", rate, channels, end - begin
    return None


def _read_link(data: bytes, at: int) -> tuple[dict[bytes, _Stream], int, str, bytes]:
    """(streams by serial number, end of this link of the chain, what is missing, the page that replaces a cut one)."""
    streams: dict[bytes, _Stream] = {}
    sound = False  # pages behind the first ones of the streams have been seen
    lost = 0  # bytes that are no page
    stop = len(data)
    while True:
        step()
        if data[at : at + 4] != b"OggS":
            following = data.find(b"OggS\0", at)
            if following < 0:
                break
            if sound and data[following + 5 : following + 6] in (b"\x02", b"\x06"):  # junk before the next link
                return streams, at, _damage(lost), b""
            lost += following - at
            at = following
        if at + 27 > len(data):
            break
        _, _, flags, position, _, _, _, segments = _PAGE.unpack_from(data, at)
        table = data[at + 27 : at + 27 + segments]
        body = at + 27 + segments
        size = sum(table)
        if body + size > len(data):
            break
        serial = data[at + 14 : at + 18]
        following = data.find(_LINK, at + 27, body + size)
        if sound and following >= 0:  # a link behind a page that was cut
            stop = following
            break
        if flags & _FIRST:
            if sound:  # the next link
                return streams, at, _damage(lost), b""
            streams.setdefault(serial, _Stream(data[body : body + min(size, 80)]))
        elif serial in streams:
            stream = streams[serial]
            sound = True
            if position > 0 and len(stream.early) < 2:
                stream.early.append((position, segments - table.count(255)))
            stream.end = max(stream.end, position)
            stream.ended = bool(flags & _LAST)
        at = body + size
    if not streams:
        raise AudioTruncated(f"The Ogg stream breaks off inside the page at byte {at:,}.")
    if data[at : at + 4] == b"OggS":
        broken = f"The Ogg stream breaks off inside the page at byte {at:,}."
        cut = streams.get(data[at + 14 : at + 18])
        return streams, at, broken, _shortened_page(data[at:stop], cut) if cut else b""
    return streams, at, _damage(lost), b""


def _shortened_page(page: bytes, stream: _Stream) -> bytes:
    """A page that was cut, without the packets that are missing; empty if none is whole. A page has up to a second of
    sound or more, and decoders drop one that is cut."""
    segments = page[26] if len(page) > 27 else 0
    table = page[27 : 27 + segments]
    body = page[27 + segments :]
    kept = size = at = 0  # segments and bytes of whole packets
    for index, length in enumerate(table, 1):
        at += length
        if at > len(body):
            break
        if length < 255:
            kept, size = index, at
    packets, whole = (len(part) - part.count(255) for part in (table, table[:kept]))
    position = unpack_from("<q", page, 6)[0] if kept else 0
    if position <= stream.end:
        return b""
    stream.end += (position - stream.end) * whole // packets
    head = page[:5] + bytes([page[5] & ~_LAST]) + pack("<q", stream.end) + page[14:22]
    rest = bytes([kept]) + table[:kept] + body[:size]
    return head + pack("<I", _checksum(head + bytes(4) + rest)) + rest


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _checksum(page: bytes) -> int:
    """CRC-32 of that polynomial without reflection, starting at zero."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def _damage(lost: int) -> str:
    return f"The Ogg stream is damaged: {lost:,} bytes of it are no part of a page." if lost else ""
