"""Audio input of any supported kind -> the bytes of an audio file. Needs numpy only, since the client is small."""

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from otoscope.types import MAX_CHANNELS

AudioInput = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | NDArray[Any]
    | Sequence[float]
    | tuple[NDArray[Any], int]
)
"""A path, the bytes of an audio file, an open file, samples (with `rate=`), or a pair of samples and rate."""

_IEEE_FLOAT = 3  # WAVE format tag
_MOST_BYTES = 2**29  # of a value in Redis, and so of an upload; a device or a pipe may have no end
_MOST_RATE = (2**32 - 1) // (4 * MAX_CHANNELS)  # Hz: the header of a WAV states the bytes of a second


def load(sound: AudioInput, rate: int | None = None) -> tuple[str, bytes]:
    """A file name for the upload, and its bytes. An open file is read from its position on.

    Raises OSError, TypeError or ValueError.
    """
    if isinstance(sound, str) and (address := re.match(r"[a-z][a-z0-9+]+://", sound, re.IGNORECASE)):
        raise ValueError(f"{address[0]}… is an address; download the sound, and pass its bytes or the path of the file")
    if isinstance(sound, (str, os.PathLike)):
        path = Path(sound)
        with path.open("rb") as file:
            body = file.read() if path.is_file() else file.read(_MOST_BYTES + 1)
        if len(body) > _MOST_BYTES:
            raise ValueError(f"{printable(str(path))} has more than {_MOST_BYTES:,} bytes, which no service stores")
        return printable(path.name), body
    if isinstance(sound, (bytes, bytearray, memoryview)):
        return "sound", bytes(sound)
    if callable(read := getattr(sound, "read", None)):
        body = read()
        if not isinstance(body, bytes):
            raise TypeError(f"the open file returns {type(body).__name__}, not bytes; open it with open(path, 'rb')")
        name = getattr(sound, "name", None)
        return (printable(Path(name).name) if isinstance(name, str) else "sound"), body
    samples: Any = sound
    if isinstance(samples, tuple):
        if len(samples) != 2 or np.ndim(samples[1]) != 0:
            raise TypeError("a tuple must be (samples, rate); scipy.io.wavfile.read returns (rate, samples)")
        samples, rate = samples
    if not isinstance(samples, list) and not hasattr(samples, "__array__"):
        raise TypeError(
            f"a sound is a path, the bytes of a file, an open file, or samples with rate=; not {type(sound).__name__}"
        )
    if rate is None:
        raise TypeError("samples need their rate: classify(samples, rate=16000)")
    return "samples.wav", wav(np.asarray(samples), rate)


def printable(name: str) -> str:
    """A file name as text: bytes of it that are not UTF-8 are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


def wav(samples: NDArray[Any], rate: int) -> bytes:
    """A 32-bit float WAV file of samples in -1..1; integers are scaled from the full range of their type.

    Integers of 64 bits are refused: no recording has them, but a list of smaller ones becomes them.

    `samples` has the shape (frames,), (frames, channels) or (channels, frames); the last one is assumed where the
    second axis is too long to be channels. Axes of length 1 in front are left out. `rate` is in Hz.

    Raises TypeError or ValueError.
    """
    given = samples.shape
    while samples.ndim > 2 and len(samples) == 1:  # a batch of one
        samples = samples[0]
    if samples.ndim not in (1, 2):
        raise ValueError(f"samples must have the shape (frames,) or (frames, channels) of one sound, not {given}")
    if not samples.size:
        raise ValueError(f"there are no samples; the shape is {given}")
    if not 0 < rate <= _MOST_RATE or rate != int(rate):
        raise ValueError(f"the rate must be a positive whole number of Hz up to {_MOST_RATE}, not {rate}")
    frames = _as_float(samples).reshape(len(samples), -1)  # (frames, channels)
    if frames.shape[1] > MAX_CHANNELS >= frames.shape[0]:
        frames = frames.T
    count, channels = frames.shape
    if channels > MAX_CHANNELS:
        raise ValueError(f"samples of the shape {given} have {channels} channels; at most {MAX_CHANNELS} are accepted")
    body = np.ascontiguousarray(frames, "<f4").tobytes()
    layout = struct.pack("<HHIIHHH", _IEEE_FLOAT, channels, int(rate), int(rate) * 4 * channels, 4 * channels, 32, 0)
    return riff((b"fmt ", layout), (b"fact", struct.pack("<I", count)), (b"data", body))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WAV file of chunks, name and content each."""
    body = b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def _as_float(samples: NDArray[Any]) -> NDArray[np.float32]:
    kind = samples.dtype.kind
    if kind == "f":
        return samples.astype(np.float32)
    if kind in "iu" and samples.dtype.itemsize > 4:
        raise TypeError(
            f"samples are {samples.dtype}, of which the full scale is not known; for 16-bit samples,"
            " pass numpy.asarray(samples, 'int16'), or floats in -1..1"
        )
    if kind == "i":
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    if kind == "u":  # silence in unsigned samples is the middle of their range, as in 8-bit WAV
        middle = (int(np.iinfo(samples.dtype).max) + 1) / 2
        return ((samples - middle) / middle).astype(np.float32)
    raise TypeError(f"samples must be real numbers, not {samples.dtype}")
