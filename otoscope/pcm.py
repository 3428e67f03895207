"""Uncompressed samples of any type as float32, for the decoder of the service and for `otoscope listen`. Needs numpy
only."""

import numpy as np
from numpy.typing import NDArray


def to_float(raw: NDArray[np.uint8], sample_format: str) -> NDArray[np.float32]:
    """(samples,) from their bytes, scaled to -1..1; floats are left as they are.

    `sample_format` is a numpy type, "<i3" or ">i3" of 24 bits, or "alaw" or "ulaw" (ITU-T G.711).
    """
    sample = sample_format
    if sample in _G711:
        return _G711[sample][raw]
    if sample == "u1":
        return (raw.astype(np.float32) - np.float32(128)) / np.float32(128)
    if sample[1] == "f":
        with np.errstate(over="ignore", invalid="ignore"):  # out of float32's range becomes infinite: refused
            return raw.view(sample).astype(np.float32)
    if sample[1:] == "i3":
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, slice(1, 4) if sample[0] == "<" else slice(0, 3)] = raw.reshape(-1, 3)
        raw, sample = padded.reshape(-1), f"{sample[0]}i4"
    whole = raw.view(sample)
    scaled: NDArray[np.float32] = np.multiply(whole, np.float32(2.0 ** (1 - 8 * whole.itemsize)), dtype=np.float32)
    return scaled


def _alaw() -> NDArray[np.float32]:
    code = np.arange(256) ^ 0x55
    exponent, size = code >> 4 & 7, (code & 15) * 16 + 8
    size = np.where(exponent > 0, size + 256 << np.maximum(exponent - 1, 0), size)
    return (np.where(code & 128, size, -size) / 32_768).astype(np.float32)


def _ulaw() -> NDArray[np.float32]:
    code = np.arange(256) ^ 0xFF
    size = ((code & 15) * 8 + 132 << (code >> 4 & 7)) - 132
    return (np.where(code & 128, -size, size) / 32_768).astype(np.float32)


_G711 = {"alaw": _alaw(), "ulaw": _ulaw()}
