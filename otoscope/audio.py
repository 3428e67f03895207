"""Audio input of any supported kind -> the bytes of an audio file. Needs numpy only, since the client is small."""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

AudioInput = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[Any] | tuple[NDArray[Any], int]
"""A path, the bytes of an audio file, samples (with `rate=`), or a pair of samples and rate."""

MAX_CHANNELS = 8  # what the service accepts; decides which axis of a matrix is the channels

_IEEE_FLOAT = 3  # WAVE format tag


def load(sound: AudioInput, rate: int | None = None) -> tuple[str, bytes]:
    """A file name for the upload, and its bytes. Raises OSError, TypeError or ValueError."""
    if isinstance(sound, (str, os.PathLike)):
        path = Path(sound)
        return path.name, path.read_bytes()
    if isinstance(sound, (bytes, bytearray, memoryview)):
        return "sound", bytes(sound)
    if isinstance(sound, tuple):
        if len(sound) != 2 or np.ndim(sound[1]) != 0:
            raise TypeError("a tuple must be (samples, rate)")
        sound, rate = sound
    if rate is None:
        raise TypeError("samples need their rate: classify(samples, rate=16000)")
    return "samples.wav", wav(np.asarray(sound), rate)


def wav(samples: NDArray[Any], rate: int) -> bytes:
    """A 32-bit float WAV file of samples in -1..1; integers are scaled from the full range of their type.

    `samples` has the shape (frames,) or (frames, channels), as soundfile reads it; (channels, frames) is accepted
    where the second axis is too long to be channels. `rate` is in Hz. Raises TypeError or ValueError.
    """
    if samples.ndim not in (1, 2):
        raise ValueError(f"samples must be a vector or a matrix; these have {samples.ndim} axes")
    if rate != int(rate) or rate <= 0:
        raise ValueError(f"the rate must be a positive whole number of Hz, not {rate}")
    frames = _as_float(samples).reshape(len(samples), -1)  # (frames, channels)
    if frames.shape[1] > MAX_CHANNELS >= frames.shape[0]:
        frames = frames.T
    count, channels = frames.shape
    body = np.ascontiguousarray(frames, "<f4").tobytes()
    layout = struct.pack("<HHIIHHH", _IEEE_FLOAT, channels, int(rate), int(rate) * 4 * channels, 4 * channels, 32, 0)
    chunks = b"".join(
        name + struct.pack("<I", len(content)) + content
        for name, content in ((b"fmt ", layout), (b"fact", struct.pack("<I", count)), (b"data", body))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def _as_float(samples: NDArray[Any]) -> NDArray[np.float32]:
    kind = samples.dtype.kind
    if kind == "f":
        return samples.astype(np.float32)
    if kind == "i":
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    if kind == "u":  # silence in unsigned samples is the middle of their range, as in 8-bit WAV
        middle = (int(np.iinfo(samples.dtype).max) + 1) / 2
        return ((samples - middle) / middle).astype(np.float32)
    raise TypeError(f"samples must be real numbers, not {samples.dtype}")
