"""Castagnoli's CRC-32, vectorised: the checksum of TensorFlow's files (RFC 3720, appendix B.4)."""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # bits reversed
_CHUNK_BYTES = 1 << 20


def crc32c(data: bytes) -> int:
    """The checksum of `data`.

    The register after two parts is that of the first part, shifted by the length of the second, XOR that of the second
    part alone; so neighbouring parts are joined in pairs, all pairs at once.
    """
    register = np.array([0xFFFFFFFF], np.uint32)
    for start in range(0, len(data), _CHUNK_BYTES):
        chunk = np.frombuffer(data[start : start + _CHUNK_BYTES], np.uint8)
        parts = np.concatenate([register, _SHIFT_BY_BYTE[0][chunk]])
        shift = _SHIFT_BY_BYTE
        while len(parts) > 1:
            if len(parts) % 2:
                parts = np.concatenate([np.zeros(1, np.uint32), parts])  # zeros in front change nothing
            parts = _shifted(parts[0::2], shift) ^ parts[1::2]
            shift = _shifted(shift, shift)
        register = parts
    return int(register[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """The checksum as LevelDB and TensorFlow store it, so that checksums of data with checksums remain useful."""
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _shifted(registers: Words, shift: Words) -> Words:
    """Registers of any shape after a number of zero bytes; shift is (4, 256), for each byte of a register its part."""
    result = np.zeros_like(registers)
    for number, table in enumerate(shift):
        result ^= table[registers >> np.uint32(8 * number) & np.uint32(0xFF)]
    return result


def _shift_by_byte() -> Words:
    """The shift (4, 256) by one zero byte; its first row is the register after one byte that is not zero."""
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = row >> np.uint32(1) ^ np.uint32(_POLYNOMIAL) * (row & np.uint32(1))
    return np.stack([row, *(np.arange(256, dtype=np.uint32) << np.uint32(8 * byte) for byte in range(3))])


_SHIFT_BY_BYTE = _shift_by_byte()
