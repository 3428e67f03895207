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

from otoscope.errors import AudioCorrupt, AudioUnsupported
from otoscope.recordings import open_recording

Samples = NDArray[np.float32]
Readable = io.RawIOBase | io.BufferedIOBase

BLOCK_SECONDS = 0.1
_MOST_HEADER = 64 * 1024  # bytes in front of the samples of a WAV in a pipe
_MOST_BLOCK = 2**20  # bytes, whatever rate and channels a header states
_OTHER_FORMATS = re.compile(rb"fLaC|OggS|ID3|FORM|\x1aE\xdf\xa3|.{4}ftyp", re.DOTALL)
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # WAVE format tags


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
    `rate`. Raises AudioCorrupt or AudioUnsupported."""
    head = _read(file, 12)
    if _OTHER_FORMATS.match(head):
        raise AudioUnsupported(
            "The pipe has neither WAV nor 16-bit PCM; `ffmpeg -re -i FILE -f wav - | otoscope listen -` has."
        )
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return rate, _pcm_blocks(file, head, rate, 1, _PCM, 16)
    tag, channels, rate, bits = _wav_format(file)
    return rate, _pcm_blocks(file, b"", rate, channels, tag, bits)


def _wav_format(file: Readable) -> tuple[int, int, int, int]:
    """Format tag, channels, rate in Hz and bits of a WAV, which is read up to its samples."""
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
    if (found[0], found[3]) not in _CONVERTERS or not found[1] or not found[2]:
        raise AudioUnsupported(
            f"The WAV has the format {found[0]} with {found[3]} bits; PCM of 8, 16, 24 or 32 bits and float"
            " of 32 are accepted."
        )
    return found


def _pcm_blocks(file: Readable, begun: bytes, rate: int, channels: int, tag: int, bits: int) -> Iterator[Samples]:
    type_, scale, zero = _CONVERTERS[tag, bits]
    frame = channels * bits // 8
    size = max(1, min(round(BLOCK_SECONDS * rate), _MOST_BLOCK // frame)) * frame
    while True:
        body = begun + _read(file, size - len(begun))
        begun = b""
        frames = len(body) // frame
        if frames:
            if bits == 24:  # as the upper bytes of 32 bits
                body = np.pad(np.frombuffer(body, "u1", frames * frame).reshape(-1, 3), ((0, 0), (1, 0))).tobytes()
            samples = (np.frombuffer(body, type_, frames * channels).astype(np.float32) - zero) * scale
            yield samples.reshape(frames, channels).mean(axis=1, dtype=np.float32)
        if frames < size // frame:
            return


_CONVERTERS: dict[tuple[int, int], tuple[str, np.float32, np.float32]] = {
    (_PCM, 8): ("u1", np.float32(1 / 128), np.float32(128)),
    (_PCM, 16): ("<i2", np.float32(1 / 32_768), np.float32(0)),
    (_PCM, 24): ("<i4", np.float32(1 / 2**31), np.float32(0)),
    (_PCM, 32): ("<i4", np.float32(1 / 2**31), np.float32(0)),
    (_FLOAT, 32): ("<f4", np.float32(1), np.float32(0)),
}
"""Format tag and bits -> type of the samples, and how they become floats: (sample - zero) * scale."""


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
        tag, channels, rate, bits = _wav_format(file)
        return np.concatenate(list(_pcm_blocks(file, b"", rate, channels, tag, bits)))
    import soundfile  # it has decoded the recording, too

    samples: NDArray[Any] = soundfile.read(io.BytesIO(body), dtype="float32", always_2d=True)[0]  # (frames, channels)
    mono: Samples = samples.mean(axis=1, dtype=np.float32)
    return mono
