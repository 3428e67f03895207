"""Recordings that are read part by part: WAV in place, everything else by a decoder that may not be installed.

A day of sound fits into neither memory nor an upload. `open_recording` reads any stretch of it as a small audio file.
"""

import io
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from otoscope.audio import riff, wav
from otoscope.errors import AudioCorrupt, AudioUnsupported

_BY_FRAME = (1, 3, 6, 7)  # WAVE format tags of PCM, float, A-law and µ-law: a frame has a fixed number of bytes
_EXTENSIBLE = 0xFFFE
_UNKNOWN_SIZE = (0, 0xFFFFFFFF)  # of files that were written into a pipe, or are longer than 4 GB
_MAX_FMT_BYTES = 1_024
_FLAC_CHANNELS = 8  # that a FLAC file may have
_FLAC_ANY_RATE, _FLAC_RATE = 65_535, 655_350  # Hz that its frames can state: any up to this, multiples of 10 up to that


class Recording(ABC):
    """A sound in a file. Frames are counted from its beginning."""

    rate: int  # Hz
    frames: int | None  # None where it is known at the end only
    frame_bytes: int  # of a part, for each frame; at most

    @abstractmethod
    def part(self, start: int, count: int) -> tuple[bytes, int]:
        """An audio file of at most `count` frames from `start` on, and how many there are; fewer at the end.

        Starts must not go back by more than `count` frames. Raises OSError or an AudioError.
        """

    @abstractmethod
    def close(self) -> None: ...

    def _undecodable(self, start: int) -> AudioCorrupt:
        return AudioCorrupt(f"The recording cannot be decoded at {start / self.rate:g} s.")


def open_recording(path: Path) -> Recording:
    """Raises OSError, AudioCorrupt, or AudioUnsupported if the file has to be decoded and no decoder is installed."""
    if recording := _Wav.open(path):
        return recording
    try:
        import soundfile
    except (ImportError, OSError):  # the package, or its libsndfile
        soundfile = None
    if soundfile is not None:
        try:
            return _SoundFile(soundfile, path)
        except soundfile.LibsndfileError:
            pass  # such as M4A; PyAV may know it
    try:
        import av
    except ImportError as error:
        known = "" if soundfile is None else ", and none that soundfile decodes"
        raise AudioUnsupported(
            f"{path.name} is no uncompressed WAV{known}; to decode it here, install a decoder:"
            f" pip install {'soundfile' if soundfile is None else 'av'}."
        ) from error
    try:
        return _PyAV(av, path)
    except av.FFmpegError as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise AudioUnsupported(f"{path.name} is no recording that FFmpeg decodes: {error.strerror}.") from error


def wav_seconds(path: Path) -> float | None:
    """The duration of a WAV file; None for any other file. Raises OSError."""
    recording = _Wav.open(path)
    if recording is None:
        return None
    recording.close()
    return recording.frames / recording.rate


class _Wav(Recording):
    """Parts are copied: the samples stay as they are."""

    frames: int

    def __init__(self, file: BinaryIO, layout: bytes, start: int, size: int) -> None:
        self._file, self._layout, self._start = file, layout, start
        _, _, self.rate, _, self.frame_bytes, _ = struct.unpack_from("<HHIIHH", layout)
        self.frames = size // self.frame_bytes

    @classmethod
    def open(cls, path: Path) -> "_Wav | None":
        """None if it is no WAV, or one whose samples are compressed in blocks."""
        file = path.open("rb")
        try:
            found = _find_samples(file)
        except (AudioCorrupt, struct.error, OSError):
            file.close()
            raise
        if found is None:
            file.close()
            return None
        return cls(file, *found)

    def part(self, start: int, count: int) -> tuple[bytes, int]:
        count = max(0, min(count, self.frames - start))
        self._file.seek(self._start + start * self.frame_bytes)
        samples = self._file.read(count * self.frame_bytes)
        frames = len(samples) // self.frame_bytes
        return riff((b"fmt ", self._layout), (b"data", samples[: frames * self.frame_bytes])), frames

    def close(self) -> None:
        self._file.close()


def _find_samples(file: BinaryIO) -> tuple[bytes, int, int] | None:
    """The `fmt ` chunk, where the samples begin, and their bytes. WAV, and RF64 for more than 4 GB (EBU Tech 3306).

    Recorders that were switched off leave sizes that are wrong: what there is counts. Raises AudioCorrupt.
    """
    header = file.read(12)
    if header[:4] not in (b"RIFF", b"RF64", b"BW64") or header[8:] != b"WAVE":
        return None
    end = file.seek(0, io.SEEK_END)
    at, layout, long_size = 12, b"", None
    while at + 8 <= end:
        file.seek(at)
        name, size = struct.unpack("<4sI", file.read(8))
        if name == b"data":
            if not _is_by_frame(layout):
                return None
            held = end - at - 8
            if size in _UNKNOWN_SIZE:
                size = held if long_size is None else long_size
            return layout, at + 8, min(size, held)
        if name == b"ds64" and at + 24 <= end:
            long_size = struct.unpack_from("<QQ", file.read(16))[1]
        elif name == b"fmt ":
            layout = file.read(min(size, _MAX_FMT_BYTES))
        at += 8 + size + size % 2
    raise AudioCorrupt("The WAV file has no samples.")


def _is_by_frame(layout: bytes) -> bool:
    if len(layout) < 16:
        raise AudioCorrupt("The WAV file has no usable format chunk.")
    tag, channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", layout)
    if tag == _EXTENSIBLE and len(layout) >= 26:
        (tag,) = struct.unpack_from("<H", layout, 24)
    return tag in _BY_FRAME and rate > 0 and frame_bytes == channels * (bits // 8) > 0


class _SoundFile(Recording):
    """Decoded by libsndfile: FLAC, Ogg, MP3, AIFF and more. Parts are FLAC, without a loss where that is possible."""

    def __init__(self, soundfile: Any, path: Path) -> None:
        self._soundfile, self._file = soundfile, soundfile.SoundFile(path)
        self.rate, channels = self._file.samplerate, self._file.channels
        self.frames = self._file.frames if 0 < self._file.frames < 2**62 and self._file.seekable() else None
        wide = self._file.subtype in ("PCM_24", "PCM_32")
        has_rate = self.rate <= _FLAC_ANY_RATE or (self.rate <= _FLAC_RATE and self.rate % 10 == 0)
        self._flac = has_rate and channels <= _FLAC_CHANNELS and self._file.subtype not in ("FLOAT", "DOUBLE")
        self._subtype, self.frame_bytes = ("PCM_24", 3 * channels) if wide else ("PCM_16", 2 * channels)
        # Lossy codecs have no integers: libsndfile would convert some of them without scaling.
        self._dtype = "int32" if self._flac and self._file.subtype.startswith("PCM") else "float32"
        if not self._flac:
            self.frame_bytes = 4 * channels

    def part(self, start: int, count: int) -> tuple[bytes, int]:
        try:
            if self._file.tell() != start:
                self._file.seek(start if self.frames is None else min(start, self.frames))
            samples = self._file.read(count, dtype=self._dtype, always_2d=True)  # (frames, channels)
        except self._soundfile.LibsndfileError as error:
            raise self._undecodable(start) from error
        if not self._flac:
            return wav(samples, self.rate) if len(samples) else b"", len(samples)
        buffer = io.BytesIO()
        self._soundfile.write(buffer, samples, self.rate, format="FLAC", subtype=self._subtype)
        return buffer.getvalue(), len(samples)

    def close(self) -> None:
        self._file.close()


class _PyAV(Recording):
    """Decoded by FFmpeg from the beginning to the end; parts are 32-bit float WAV."""

    def __init__(self, av: Any, path: Path) -> None:
        self._av, self._container = av, av.open(str(path), metadata_errors="ignore")
        stream = next(iter(self._container.streams.audio), None)
        # A stream without a decoder has no context; where nothing could be decoded, the numbers are 0.
        if not (stream and stream.codec_context and stream.rate and stream.channels):
            self._container.close()
            raise AudioUnsupported(f"{path.name} has no sound.")
        self.rate, self.frames, self.frame_bytes = stream.rate, None, 4 * stream.channels
        self._blocks = self._decode(av.AudioResampler(format="fltp"), stream)
        self._at = 0  # frame at which the buffer begins
        self._buffer: NDArray[np.float32] = np.zeros((0, stream.channels), np.float32)

    def _decode(self, resampler: Any, stream: Any) -> Iterator[NDArray[np.float32]]:
        for frame in self._container.decode(stream):
            frame.pts = None  # gaps in the time stamps are not filled
            for plane in resampler.resample(frame):
                yield plane.to_ndarray().T

    def part(self, start: int, count: int) -> tuple[bytes, int]:
        pieces = [self._buffer]
        held = len(self._buffer)
        try:
            while self._at + held < start + count and (block := next(self._blocks, None)) is not None:
                pieces.append(block)
                held += len(block)
                if self._at + held <= start:  # skipped: what an earlier run has classified
                    self._at, pieces, held = self._at + held, [], 0
        except (self._av.FFmpegError, ValueError) as error:  # of the resampler, where the layout changes
            raise self._undecodable(start) from error
        self._buffer = np.concatenate(pieces) if pieces else self._buffer[:0]
        self._buffer = self._buffer[max(0, start - self._at) :].copy()
        self._at = start
        samples = self._buffer[:count]
        return wav(samples, self.rate) if len(samples) else b"", len(samples)

    def close(self) -> None:
        self._container.close()
