"""Sounds and sound files for tests: synthesised, encoded in every accepted form, or assembled byte by byte.

Waveforms are (frames, channels) float32 within -1..1. Everything is deterministic.
"""

import io
import itertools
import re
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

Wave = NDArray[np.float32]  # (frames, channels)


# --- waveforms ------------------------------------------------------------------------------------------------------


def tone(seconds: float = 1.0, rate: int = 44_100, channels: int = 1, hz: float = 440.0, level: float = 0.5) -> Wave:
    """A sine, the same in every channel."""
    time = np.arange(round(seconds * rate)) / rate
    return spread(level * np.sin(2 * np.pi * hz * time), channels)


def chirp(
    seconds: float = 1.0,
    rate: int = 44_100,
    channels: int = 1,
    low: float = 200.0,
    high: float = 3_000.0,
    level: float = 0.5,
) -> Wave:
    """A sine that rises from `low` to `high` Hz and fades in and out: no two sections are equal."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (low * time + (high - low) * time**2 / (2 * seconds))
    return spread(level * np.sin(phase) * np.sin(np.pi * time / seconds) ** 0.5, channels)


def noise(seconds: float = 1.0, rate: int = 44_100, channels: int = 1, level: float = 0.1, seed: int = 0) -> Wave:
    """White noise, different in every channel."""
    samples = np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    return np.clip(level * samples, -1, 1).astype(np.float32)


def spread(samples: NDArray[np.floating], channels: int) -> Wave:
    """The same samples in that many channels."""
    return np.repeat(samples.astype(np.float32)[:, None], channels, axis=1)


def difference(heard: NDArray[np.floating], sent: NDArray[np.floating], rate: int, *, exact: bool = True) -> float:
    """RMS of the difference over RMS of the sound, of two mono signals (samples,) that begin together.

    With `exact=False` of their magnitude spectra in steps of 20 ms, since lossy codecs do not keep the phase.
    """
    count = min(len(heard), len(sent))
    heard, sent = heard[:count], sent[:count]
    if not exact:
        step = rate // 50
        shape = (count // step, step)
        heard, sent = (
            np.abs(np.fft.rfft(samples[: shape[0] * step].reshape(shape) * np.hanning(step)))
            for samples in (heard, sent)
        )
    return float(np.sqrt(np.mean((heard - sent) ** 2) / np.mean(sent**2)))


# --- files, encoded -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """A container with a codec, and the tolerance of the decoded sound (as `difference` measures it)."""

    container: str
    subtype: str
    tolerance: float
    endian: str = "FILE"
    channels: tuple[int, ...] = (1, 2, 8)
    rates: tuple[int, ...] = (8_000, 16_000, 22_050, 44_100, 48_000, 96_000)  # Hz

    @property
    def exact(self) -> bool:
        """Whether samples are kept but for rounding."""
        return self.container != "MP3" and self.subtype not in ("VORBIS", "OPUS")


FORMS: dict[str, Form] = {
    "WAV 8 bit": Form("WAV", "PCM_U8", 0.02),
    "WAV 16 bit": Form("WAV", "PCM_16", 1e-4),
    "WAV 24 bit": Form("WAV", "PCM_24", 1e-6),
    "WAV 32 bit": Form("WAV", "PCM_32", 1e-6),
    "WAV float": Form("WAV", "FLOAT", 1e-6),
    "WAV double": Form("WAV", "DOUBLE", 1e-6),
    "WAV A-law": Form("WAV", "ALAW", 0.03),
    "WAV µ-law": Form("WAV", "ULAW", 0.03),
    "WAVEX 16 bit": Form("WAVEX", "PCM_16", 1e-4),
    "WAVEX float": Form("WAVEX", "FLOAT", 1e-6),
    "RF64 24 bit": Form("RF64", "PCM_24", 1e-6),
    "AIFF 8 bit": Form("AIFF", "PCM_S8", 0.02),
    "AIFF 16 bit": Form("AIFF", "PCM_16", 1e-4),
    "AIFF 24 bit": Form("AIFF", "PCM_24", 1e-6),
    "AIFF 32 bit": Form("AIFF", "PCM_32", 1e-6),
    "AIFF-C unsigned": Form("AIFF", "PCM_U8", 0.02),
    "AIFF-C little-endian": Form("AIFF", "PCM_16", 1e-4, "LITTLE"),
    "AIFF-C little-endian 24": Form("AIFF", "PCM_24", 1e-6, "LITTLE"),
    "AIFF-C little-endian 32": Form("AIFF", "PCM_32", 1e-6, "LITTLE"),
    "AIFF-C float": Form("AIFF", "FLOAT", 1e-6),
    "AIFF-C double": Form("AIFF", "DOUBLE", 1e-6),
    "AIFF-C A-law": Form("AIFF", "ALAW", 0.03),
    "AIFF-C µ-law": Form("AIFF", "ULAW", 0.03),
    "RIFX 16 bit": Form("WAV", "PCM_16", 1e-4, "BIG"),
    "AU 16 bit": Form("AU", "PCM_16", 1e-4),
    "AU float": Form("AU", "FLOAT", 1e-6),
    "AU µ-law": Form("AU", "ULAW", 0.03),
    "CAF 24 bit": Form("CAF", "PCM_24", 1e-6),
    "CAF float": Form("CAF", "FLOAT", 1e-6),
    "W64 16 bit": Form("W64", "PCM_16", 1e-4),
    "W64 float": Form("W64", "FLOAT", 1e-6),
    "FLAC 8 bit": Form("FLAC", "PCM_S8", 0.02),
    "FLAC 16 bit": Form("FLAC", "PCM_16", 1e-4),
    "FLAC 24 bit": Form("FLAC", "PCM_24", 1e-6),
    "Ogg Vorbis": Form("OGG", "VORBIS", 0.1),
    # Of 8 channels of Opus the last one carries bass only.
    "Ogg Opus": Form("OGG", "OPUS", 0.15, rates=(8_000, 12_000, 16_000, 24_000, 48_000)),
    "MP3": Form("MP3", "MPEG_LAYER_III", 0.1, channels=(1, 2), rates=(8_000, 16_000, 22_050, 44_100, 48_000)),
}


def encode(
    wave: Wave,
    rate: int,
    container: str = "WAV",
    subtype: str = "PCM_16",
    *,
    endian: str = "FILE",
    bitrate_mode: str | None = None,
) -> bytes:
    """The file as libsndfile encodes it; `bitrate_mode` is for MP3: CONSTANT, AVERAGE or VARIABLE."""
    file = io.BytesIO()
    level = None if bitrate_mode is None else 0.5
    soundfile.write(
        file, wave, rate, subtype, endian, container, compression_level=level, bitrate_mode=bitrate_mode
    )  # fmt: skip
    return file.getvalue()


@dataclass(frozen=True)
class AvForm:
    """A container with a codec as FFmpeg writes it, what the header reader calls both, and a tolerance as of `Form`."""

    muxer: str
    encoder: str
    container: str
    codec: str
    tolerance: float = 0.25
    rate: int = 48_000  # Hz
    exact: bool = False  # samples are kept but for rounding
    bit_rate: int | None = None  # bits per second


AV_FORMS: dict[str, AvForm] = {
    "M4A AAC": AvForm("ipod", "aac", "M4A", "AAC"),
    "M4A ALAC": AvForm("ipod", "alac", "M4A", "ALAC", 1e-4, exact=True),
    "MP4 Opus": AvForm("mp4", "libopus", "M4A", "Opus"),
    "MP4 MP3": AvForm("mp4", "libmp3lame", "M4A", "MPEG layer III"),
    "MOV PCM": AvForm("mov", "pcm_s16le", "M4A", "PCM", 1e-4, exact=True),
    "MOV PCM 24 bit": AvForm("mov", "pcm_s24be", "M4A", "PCM", 1e-6, exact=True),
    "MOV AC-3": AvForm("mov", "ac3", "M4A", "AC-3"),
    "MP4 E-AC-3": AvForm("mp4", "eac3", "M4A", "E-AC-3"),
    "MOV MPEG layer II": AvForm("mov", "mp2", "M4A", "MPEG layer II"),
    "3GP AAC": AvForm("3gp", "aac", "M4A", "AAC"),
    "3GP AMR-NB": AvForm("3gp", "libopencore_amrnb", "M4A", "AMR-NB", 0.6, 8_000, bit_rate=12_200),
    "WebM Opus": AvForm("webm", "libopus", "WebM", "Opus"),
    "Matroska AAC": AvForm("matroska", "aac", "WebM", "AAC"),
    "Matroska AC-3": AvForm("matroska", "ac3", "WebM", "AC-3"),
    "Matroska PCM": AvForm("matroska", "pcm_s16le", "WebM", "PCM", 1e-4, exact=True),
    "ADTS AAC": AvForm("adts", "aac", "AAC", "AAC"),
    "AMR-NB": AvForm("amr", "libopencore_amrnb", "AMR", "AMR-NB", 0.6, 8_000, bit_rate=12_200),
    "CAF ALAC": AvForm("caf", "alac", "CAF", "ALAC", 1e-4, exact=True),
    "CAF IMA ADPCM": AvForm("caf", "adpcm_ima_qt", "CAF", "IMA ADPCM"),
    "CAF AC-3": AvForm("caf", "ac3", "CAF", "AC-3"),
    "CAF MPEG layer II": AvForm("caf", "mp2", "CAF", "MPEG layer II"),
    "CAF Microsoft ADPCM": AvForm("caf", "adpcm_ms", "CAF", "Microsoft ADPCM"),
    "CAF PCM": AvForm("caf", "pcm_s16be", "CAF", "PCM 16 bit", 1e-4, exact=True),
    "AIFF-C IMA ADPCM": AvForm("aiff", "adpcm_ima_qt", "AIFF", "IMA ADPCM"),
    "WAV IMA ADPCM": AvForm("wav", "adpcm_ima_wav", "WAV", "IMA ADPCM"),
    "WAV Microsoft ADPCM": AvForm("wav", "adpcm_ms", "WAV", "Microsoft ADPCM"),
    "WAV MP3": AvForm("wav", "libmp3lame", "WAV", "MPEG layer III"),
    "WAV MPEG layer II": AvForm("wav", "mp2", "WAV", "MPEG layer II"),
    "WAV AC-3": AvForm("wav", "ac3", "WAV", "AC-3"),
    "WAV E-AC-3": AvForm("wav", "eac3", "WAV", "E-AC-3"),
    "WAV raw AAC": AvForm("wav", "aac", "WAV", "AAC"),
    "WAV AMR-NB": AvForm("wav", "libopencore_amrnb", "WAV", "AMR-NB", 0.6, 8_000, bit_rate=12_200),
    "WAV G.722": AvForm("wav", "g722", "WAV", "G.722 ADPCM", 0.4, 16_000),
    "WAV G.723.1": AvForm("wav", "g723_1", "WAV", "G.723.1", 0.8, 8_000, bit_rate=6_300),
    "WAV G.726": AvForm("wav", "g726", "WAV", "G.726 ADPCM", 0.4, 8_000),
    "WAV Yamaha ADPCM": AvForm("wav", "adpcm_yamaha", "WAV", "Yamaha ADPCM"),
    "WAV Flash ADPCM": AvForm("wav", "adpcm_swf", "WAV", "Flash ADPCM", rate=44_100),
    "WAV Windows Media 2": AvForm("wav", "wmav2", "WAV", "Windows Media 2", bit_rate=128_000),
    "W64 MP3": AvForm("w64", "libmp3lame", "W64", "MPEG layer III"),
    "AU G.722": AvForm("au", "g722", "AU", "G.722 ADPCM", 0.4, 16_000),
    "AU G.721": AvForm("au", "g726le", "AU", "G.721 ADPCM", 0.4, 8_000),
    "MPEG layer II": AvForm("mp2", "mp2", "MP3", "MPEG layer II"),
    "WMA 1": AvForm("asf", "wmav1", "WMA", "Windows Media 1", bit_rate=128_000),
    "WMA 2": AvForm("asf", "wmav2", "WMA", "Windows Media 2", bit_rate=128_000),
    "WMA with MP3": AvForm("asf", "libmp3lame", "WMA", "MPEG layer III"),
    "WMA with PCM": AvForm("asf", "pcm_s16le", "WMA", "PCM", 1e-4, exact=True),
    "AC-3": AvForm("ac3", "ac3", "AC-3", "AC-3"),
    "E-AC-3": AvForm("eac3", "eac3", "AC-3", "E-AC-3"),
    "AVI PCM": AvForm("avi", "pcm_s16le", "AVI", "PCM", 1e-4, exact=True),
    "AVI MP3": AvForm("avi", "libmp3lame", "AVI", "MPEG layer III"),
    "AVI AC-3": AvForm("avi", "ac3", "AVI", "AC-3"),
    "FLV AAC": AvForm("flv", "aac", "FLV", "AAC"),
    "FLV MP3": AvForm("flv", "libmp3lame", "FLV", "MPEG layer III", rate=44_100),
    "FLV Nellymoser": AvForm("flv", "nellymoser", "FLV", "Nellymoser", 0.4, 44_100),
    "MPEG-TS AAC": AvForm("mpegts", "aac", "MPEG-TS", "AAC"),
    "MPEG-TS AC-3": AvForm("mpegts", "ac3", "MPEG-TS", "AC-3"),
    "MPEG-TS Opus": AvForm("mpegts", "libopus", "MPEG-TS", "Opus"),
    "MPEG-TS MPEG layer II": AvForm("mpegts", "mp2", "MPEG-TS", "MPEG layer II"),
    "MPEG-PS MPEG layer II": AvForm("mpeg", "mp2", "MPEG-PS", "MPEG layer II"),
    "MPEG-PS AC-3": AvForm("vob", "ac3", "MPEG-PS", "AC-3"),
    "MPEG-1 AC-3": AvForm("mpeg", "ac3", "MPEG-PS", "AC-3"),
    "MPEG-PS PCM": AvForm("vob", "pcm_s16be", "MPEG-PS", "PCM", 1e-4, exact=True),
    "WavPack": AvForm("wv", "wavpack", "WavPack", "WavPack", 0.02, exact=True),  # of 8 bits
}
"""What phones, browsers and recorders make."""


def remux(file: bytes, muxer: str, **options: str) -> bytes:
    """The sound of a file in another container, without encoding it again; `options` are FFmpeg's of the muxer."""
    import av

    made = io.BytesIO()
    with av.open(io.BytesIO(file)) as source, av.open(made, "w", format=muxer, options=options) as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:  # the one at the end that flushes the decoder has none
                packet.stream = stream
                target.mux(packet)
    return made.getvalue()


def encode_av(wave: Wave, form: AvForm) -> bytes:
    """The file as FFmpeg writes it; `wave` is at the rate of the form."""
    import av

    file = io.BytesIO()
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[wave.shape[1]]
    with av.open(file, "w", format=form.muxer) as container:
        stream: Any = container.add_stream(form.encoder, rate=form.rate, layout=layout)
        if form.bit_rate:
            stream.bit_rate = form.bit_rate
        frame = av.AudioFrame(format="fltp", layout=layout, samples=len(wave))
        # For eight channels PyAV counts one plane too many.
        for plane, channel in zip(frame.planes, wave.T, strict=False):
            plane.update(np.ascontiguousarray(channel))
        frame.sample_rate = form.rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def encode_m4a(wave: Wave, rate: int, codec: str = "aac") -> bytes:
    """An M4A file with AAC or ALAC ("alac")."""
    return encode_av(wave, AvForm("ipod", codec, "M4A", codec.upper(), rate=rate))


# --- files, byte by byte
# -------------------------------------------------------------------------------------------------


def chunk(name: bytes, body: bytes, *, size: int | None = None, order: str = "<") -> bytes:
    """A chunk of a WAV ("<") or AIFF (">") file, padded to an even size; `size` is the claimed size where it is
    wrong."""
    claimed = len(body) if size is None else size
    return struct.pack(f"{order}4sI", name, claimed) + body + b"\0" * (len(body) & 1)


def wav_format(
    rate: int = 16_000, channels: int = 1, *, tag: int = 1, bits: int = 16, block: int | None = None
) -> bytes:
    """A WAV format chunk."""
    block = channels * bits // 8 if block is None else block
    speed = min(rate * block, 0xFFFFFFFF)
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, speed, block, bits))


def riff(*chunks: bytes, magic: bytes = b"RIFF") -> bytes:
    """A WAV file of these chunks."""
    body = b"WAVE" + b"".join(chunks)
    return magic + struct.pack("<I", min(len(body), 0xFFFFFFFF)) + body


def aiff(
    body: bytes,
    frames: int,
    channels: int = 1,
    bits: int = 16,
    *,
    rate: bytes = b"\x40\x0c\xfa" + bytes(7),
    kind: bytes = b"",
    lead: int = 0,
    before: bytes = b"",
) -> bytes:
    """An AIFF file, or AIFF-C with a `kind`; `rate` is an 80-bit float (16 kHz), `lead` bytes precede the samples."""
    common = chunk(b"COMM", struct.pack(">hIh", channels, frames, bits) + rate + kind, order=">")
    sound = chunk(b"SSND", struct.pack(">II", lead, 0) + bytes(lead) + body, order=">")
    chunks = (b"AIFC" if kind else b"AIFF") + before + common + sound
    return b"FORM" + struct.pack(">I", len(chunks)) + chunks


def flac_of_silence(seconds: float, rate: int, channels: int, *, claimed: int | None = None) -> bytes:
    """Minimal FLAC: about 30 bytes for 65,535 frames of 8 channels. The header announces `claimed` frames."""
    block = 65_535
    frames = round(seconds * rate)
    info = struct.pack(">HH6x", block, block)
    info += (rate << 44 | (channels - 1) << 41 | 15 << 36 | (frames if claimed is None else claimed)).to_bytes(8, "big")
    parts = [b"fLaC\x80\x00\x00\x22", info, bytes(16)]
    for number in range(-(-frames // block)):
        # Fixed blocks of a 16-bit size, rate from the header, 16 bits per sample; one constant subframe per channel.
        count = min(block, frames - number * block)
        head = b"\xff\xf8\x70" + bytes([(channels - 1) << 4 | 8]) + _utf8(number) + struct.pack(">H", count - 1)
        head += bytes([_crc(head, 8, 0x07)])
        body = head + b"\0\0\0" * channels
        parts += [body, struct.pack(">H", _crc(body, 16, 0x8005))]
    return b"".join(parts)


def ogg_page(packet: bytes, *, position: int = 0, serial: int = 1, number: int = 0, flags: int = 2) -> bytes:
    """An Ogg page with one packet of up to 65,025 bytes, and its checksum."""
    table = b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255])
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, position, serial, number, 0, len(table))
    return checksummed(head + table + packet)


def ogg_pages(file: bytes) -> list[bytes]:
    """The pages of an Ogg file."""
    found, at = [], 0
    while at < len(file):
        size = 27 + file[at + 26] + sum(file[at + 27 : at + 27 + file[at + 26]])
        found.append(file[at : at + size])
        at += size
    return found


def checksummed(file: bytes) -> bytes:
    """An Ogg or FLAC file with the checksums of its pages or frames recomputed; any other file unchanged."""
    if file[:4] == b"fLaC":
        return _flac_checksummed(file)
    at, parts = 0, []
    while file[at : at + 4] == b"OggS" and at + 27 <= len(file):
        size = 27 + file[at + 26] + sum(file[at + 27 : at + 27 + file[at + 26]])
        page = file[at : at + 22] + bytes(4) + file[at + 26 : at + size]
        parts.append(page[:22] + struct.pack("<I", _crc(page, 32, 0x04C11DB7)) + page[26:])
        at += size
    return b"".join(parts) + file[at:]


def _flac_checksummed(file: bytes) -> bytes:
    syncs = [match.start() for match in re.finditer(rb"\xff[\xf8\xf9].[^\xff]", file, re.DOTALL)]
    # Samples can look like a frame header, but hardly with the rate and the size of the first one.
    starts = [at for at in syncs if all(file[at + n] & 15 == file[syncs[0] + n] & 15 for n in (2, 3))]
    parts = [file[: starts[0]] if starts else file]
    for start, end in itertools.pairwise([*starts, len(file)]):
        frame = bytearray(file[start:end])
        if len(frame) > 20:  # the longest header has 15 bytes and a checksum
            block, rate, number = frame[2] >> 4, frame[2] & 15, f"{frame[4]:08b}".index("0") if frame[4] < 255 else 0
            head = 4 + max(number, 1) + {6: 1, 7: 2}.get(block, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
            frame[head] = _crc(frame[:head], 8, 0x07)
            frame[-2:] = struct.pack(">H", _crc(frame[:-2], 16, 0x8005))
        parts.append(bytes(frame))
    return b"".join(parts)


def id3(size: int = 300) -> bytes:
    """An ID3v2 tag with that many zero bytes after its header."""
    return b"ID3\x04\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + b"\0" * size


def _utf8(number: int) -> bytes:
    return chr(number).encode() if not 0xD800 <= number <= 0xDFFF else bytes(
        [0xE0 | number >> 12, 0x80 | number >> 6 & 63, 0x80 | number & 63]
    )  # fmt: skip


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    """Plain CRC, most significant bit first, as FLAC and Ogg use it."""
    value, mask, table = 0, (1 << bits) - 1, _crc_table(bits, polynomial)
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> (bits - 8) ^ byte]
    return value


@cache
def _crc_table(bits: int, polynomial: int) -> list[int]:
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = value << 1 ^ (polynomial | 1 << bits if value >> (bits - 1) else 0)
        table.append(value)
    return table
