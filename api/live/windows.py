"""From the messages of a stream to windows: one every hop, of the last seconds of sound at the rate of the model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from api.live.resample import Resampler
from otoscope.errors import InvalidRequest
from otoscope.types import AudioInfo, SampleFormat
from shared.audio.containers.wav import mono_header

_TYPES: dict[SampleFormat, str] = {"s16le": "<i2", "f32le": "<f4"}
_CODECS: dict[SampleFormat, str] = {"s16le": "PCM 16 bit", "f32le": "float 32 bit"}
_TAGS: dict[SampleFormat, int] = {"s16le": 1, "f32le": 3}  # WAVE format tags
_MIN_SECONDS = 0.05  # of sound: a shorter one is not classified


@dataclass(frozen=True)
class LiveWindow:
    """A window of a stream. `start` and `end` are seconds from its first sample; `arrived` is of the monotonic
    clock."""

    start: float
    end: float
    arrived: float
    samples: bytes  # at the rate of the model, in the format of the stream


class WindowCutter:
    """Cuts a stream into windows. At its beginning, a window is what there is so far."""

    def __init__(self, source_rate: int, rate: int, format: SampleFormat, window_seconds: float, hop: float) -> None:
        """`source_rate` is that of the stream, `rate` that of the model, in Hz; the rest in seconds."""
        self._rate, self._format, self._type = rate, format, np.dtype(_TYPES[format])
        self._source_rate = source_rate
        self._resampler = None if source_rate == rate else Resampler(source_rate, rate)
        self._size, self._hop = round(window_seconds * rate), max(1, round(hop * rate))
        # The last samples, of which the oldest are removed when it is full: a message may be a single sample.
        self._buffer: NDArray[np.generic] = np.zeros(2 * self._size, self._type)
        self._piece = max(1, self._size // 4)  # samples that are added at once
        self._filled = 0
        self._received = self._total = 0  # samples of the stream, and at the rate of the model
        self._next = self._hop  # where the next window ends

    @property
    def seconds(self) -> float:
        """Of the sound that has arrived."""
        return self._received / self._source_rate

    @property
    def buffer_bytes(self) -> int:
        """That it holds at most, beside one message."""
        return self._buffer.nbytes

    def add(self, message: bytes, arrived: float) -> tuple[LiveWindow | None, int]:
        """The last window that ends in the sound of a message, and how many end before it there.

        Raises InvalidRequest for a message that is not a whole number of samples.
        """
        if len(message) % self._type.itemsize:
            raise InvalidRequest(
                f"A message has {len(message)} bytes, which is not a whole number of samples of {self._format}"
                f" ({self._type.itemsize} bytes each)."
            )
        samples = np.frombuffer(message, self._type)
        self._received += len(samples)
        new = samples if self._resampler is None else self._stored(self._resampler.add(self._floats(samples)))
        window, ended = None, 0
        for at in range(0, len(new), self._piece):
            self._append(new[at : at + self._piece])
            count = max(0, (self._total - self._next) // self._hop + 1)
            if count:
                self._next += count * self._hop
                window = self._window(self._next - self._hop, arrived)
                ended += count
        return window, max(0, ended - 1)

    def rest(self, arrived: float) -> LiveWindow | None:
        """The window at the end of the sound; None if there is too little sound, or nothing after the last window."""
        if self._total < _MIN_SECONDS * self._rate:
            return None
        return self._window(self._total, arrived)

    def _append(self, samples: NDArray[np.generic]) -> None:
        if self._filled + len(samples) > len(self._buffer):
            # A window that ends in these samples begins at most its length before them.
            kept = self._size
            self._buffer[:kept] = self._buffer[self._filled - kept : self._filled]
            self._filled = kept
        self._buffer[self._filled : self._filled + len(samples)] = samples
        self._filled += len(samples)
        self._total += len(samples)

    def _window(self, end: int, arrived: float) -> LiveWindow:
        start = max(0, end - self._size)
        offset = self._total - self._filled  # index of the first sample in the buffer
        samples = self._buffer[start - offset : end - offset].tobytes()
        return LiveWindow(round(start / self._rate, 6), round(end / self._rate, 6), arrived, samples)

    def _floats(self, samples: NDArray[np.generic]) -> NDArray[np.float32]:
        scale = np.float32(1 if self._format == "f32le" else 1 / 32_768)
        floats: NDArray[np.float32] = samples.astype(np.float32) * scale
        return floats

    def _stored(self, samples: NDArray[np.float32]) -> NDArray[np.generic]:
        """Resampled sound in the format of the stream."""
        if self._format == "f32le":
            return samples.astype(self._type)
        return np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype(self._type)


def wav_file(window: LiveWindow, rate: int, format: SampleFormat) -> tuple[bytes, AudioInfo]:
    """A window as the upload of a job, and its description."""
    width = np.dtype(_TYPES[format]).itemsize
    size = len(window.samples)
    body = mono_header(_TAGS[format], rate, width, size) + window.samples
    info = AudioInfo(
        name=None, bytes=len(body), container="WAV", codec=_CODECS[format], url=None, sample_rate=rate, channels=1,
        duration=round(size / width / rate, 6),
    )  # fmt: skip
    return body, info
