"""Sound for `otoscope listen`: blocks of samples from a file at the speed at which it plays, or from a pipe."""

import io
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otoscope.errors import AudioCorrupt, AudioEmpty, AudioUnsupported
from otoscope.pcm import to_float
from otoscope.recordings import open_recording

Samples = NDArray[np.float32]
Readable = io.RawIOBase | io.BufferedIOBase

BLOCK_SECONDS = 0.1
_MOST_HEADER = 64 * 1024  # bytes in front of the samples of a WAV in a pipe
_MOST_BLOCK = 2**20  # bytes, whatever rate and channels a header states
_OTHER_FORMATS = re.compile(rb"fLaC|OggS|ID3|FORM|\x1aE\xdf\xa3|.{4}ftyp", re.DOTALL)
_EXTENSIBLE = 0xFFFE  # WAVE format tag


def from_file(path: Path) -> tuple[int, Iterator[Samples]]:
    """The rate of a sound file in Hz, and its samples in real time. Raises OSError, AudioCorrupt or
    AudioUnsupported."""
    recording = open_recording(path)
    size = max(1, round(BLOCK_SECONDS * recording.rate))

    def blocks() -> Iterator[Samples]:
        at, began = 0, time.monotonic()
        try:
            while True:
                body, frames = recording.part(at, size)
                if frames:
                    yield _part_samples(body)
                at += frames
                if frames < size:
                    return
                time.sleep(max(0.0, began + at / recording.rate - time.monotonic()))
        finally:
            recording.close()

    return recording.rate, blocks()


def from_pipe(file: Readable, rate: int) -> tuple[int, Iterator[Samples]]:
    """The rate in Hz, and samples as they come: of a WAV, as `arecord` writes it, or else 16-bit PCM of one channel at
    `rate`. Raises AudioEmpty, AudioCorrupt or AudioUnsupported."""
    head = _read(file, 12)
    if not head:
        raise AudioEmpty("Nothing has come out of the pipe: the program that records into it has ended.")
    if _OTHER_FORMATS.match(head):
        raise AudioUnsupported(
            "The pipe has neither WAV nor 16-bit PCM; `ffmpeg -re -i FILE -f wav - | otoscope listen -` has."
        )
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return rate, _pcm_blocks(file, head, rate, 1, 2, "<i2")
    channels, rate, width, sample_format = _wav_format(file)
    return rate, _pcm_blocks(file, b"", rate, channels, width, sample_format)


def _wav_format(file: Readable) -> tuple[int, int, int, str]:
    """Channels, rate in Hz, bytes of a sample and sample format of a WAV, which is read up to its samples."""
    found: tuple[int, int, int, int] | None = None
    taken = 12
    while len(header := _read(file, 8)) == 8:
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            break
        taken += 8 + size + size % 2
        if taken > _MOST_HEADER:
            raise AudioCorrupt("The WAV has no samples in its first 64 KB.")
        content = _read(file, size + size % 2)
        if name == b"fmt " and len(content) >= 16:
            tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", content)
            if tag == _EXTENSIBLE and len(content) >= 26:
                (tag,) = struct.unpack_from("<H", content, 24)
            found = tag, channels, rate, bits
    if found is None:
        raise AudioCorrupt("The WAV has no usable format.")
    tag, channels, rate, bits = found
    if (tag, bits) not in _SAMPLE_FORMATS or not channels or not rate:
        raise AudioUnsupported(
            f"The WAV has the format {tag} with {bits} bits; PCM of 8, 16, 24 or 32 bits, float of 32 or 64, A-law and"
            " µ-law are accepted."
        )
    return channels, rate, bits // 8, _SAMPLE_FORMATS[tag, bits]


def _pcm_blocks(
    file: Readable, begun: bytes, rate: int, channels: int, width: int, sample_format: str
) -> Iterator[Samples]:
    frame = channels * width
    size = max(1, min(round(BLOCK_SECONDS * rate), _MOST_BLOCK // frame)) * frame
    while True:
        body = begun + _read(file, size - len(begun))
        begun = b""
        frames = len(body) // frame
        if frames:
            samples = to_float(np.frombuffer(body, np.uint8, frames * frame), sample_format)
            yield samples.reshape(frames, channels).mean(axis=1, dtype=np.float32)
        if frames < size // frame:
            return


_SAMPLE_FORMATS = {
    (1, 8): "u1", (1, 16): "<i2", (1, 24): "<i3", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8", (6, 8): "alaw",
    (7, 8): "ulaw",
}  # fmt: skip
"""WAVE format tag and bits -> `sample_format` of `to_float`."""


def _read(file: Readable, size: int) -> bytes:
    """So many bytes; fewer at the end."""
    pieces: list[bytes] = []
    while size > 0 and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _part_samples(body: bytes) -> Samples:
    """(samples,) of a part of a recording, which is a small WAV or FLAC file."""
    if body[:4] == b"RIFF":
        file = io.BytesIO(body)
        file.seek(12)
        channels, rate, width, sample_format = _wav_format(file)
        return np.concatenate(list(_pcm_blocks(file, b"", rate, channels, width, sample_format)))
    import soundfile  # it has decoded the recording, too

    samples: NDArray[Any] = soundfile.read(io.BytesIO(body), dtype="float32", always_2d=True)[0]  # (frames, channels)
    mono: Samples = samples.mean(axis=1, dtype=np.float32)
    return mono
