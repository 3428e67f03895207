"""Sizes in the headers of uncompressed sound that are wrong, and what stands behind the samples."""

import struct

import numpy as np
import pytest

from shared.audio.decode import decode
from shared.audio.probe import probe
from tests.support.sounds import aiff, chirp, chunk, difference, encode

RATE = 16_000
WAVE = chirp(0.5, RATE)
PCM = (WAVE[:, 0] * 32_767).astype("<i2").tobytes()

_UNCOMPRESSED = {name: encode(WAVE, RATE, name) for name in ("AIFF", "AU", "CAF", "W64")}
_SIZES = {  # where the size of the samples is stated, and how
    "AIFF": (_UNCOMPRESSED["AIFF"].index(b"SSND") + 4, ">I"),
    "AU": (8, ">I"),
    "CAF": (_UNCOMPRESSED["CAF"].index(b"data") + 4, ">q"),
    "W64": (_UNCOMPRESSED["W64"].index(b"data") + 16, "<q"),
}
_BEHIND = {  # a chunk
    "AIFF": chunk(b"ANNO", bytes(2_000), order=">"),
    "CAF": struct.pack(">4sq", b"info", 2_000) + bytes(2_000),
    "W64": b"bext" + bytes.fromhex("f3acd3118cd100c04f8edb8a") + struct.pack("<q", 2_024) + bytes(2_000),
}


@pytest.mark.parametrize("name", _UNCOMPRESSED)
def test_a_size_that_was_never_corrected(name: str) -> None:
    """More samples than the header states, and no chunk behind them: the sound reaches to the end of the file, or to
    the next one."""
    file, (at, order) = bytearray(_UNCOMPRESSED[name]), _SIZES[name]
    struct.pack_into(order, file, at, struct.unpack_from(order, file, at)[0] - len(PCM) // 2)
    decoded = decode(bytes(file), RATE)
    assert probe(bytes(file)).frames == len(WAVE)
    assert difference(decoded.waveform, WAVE[:, 0], RATE) < 1e-4
    assert decoded.warnings == decode(_UNCOMPRESSED[name], RATE).warnings
    assert decode(bytes(file + file), RATE).seconds == 1.0


@pytest.mark.parametrize("name", _UNCOMPRESSED)
def test_what_stands_behind_samples_is_no_sound(name: str) -> None:
    """Empty and erased blocks of a card, and chunks."""
    file = _UNCOMPRESSED[name]
    for behind in (bytes(2**20), b"\xff" * 9_000, _BEHIND.get(name, b""), _BEHIND.get(name, b"") + bytes(2**20)):
        decoded = decode(file + behind, RATE)
        assert len(decoded.waveform) == len(WAVE)
        assert decoded.warnings == decode(file, RATE).warnings


def test_aiff_from_a_pipe() -> None:
    """FFmpeg leaves zero frames and a chunk of zero bytes there; digital silence is no series of empty chunks."""
    body = np.r_[np.zeros(100_000), WAVE[:, 0] * 32_767].astype(">i2").tobytes()
    for size in (0, 8):
        file = aiff(body, 0)
        at = file.index(b"SSND") + 4
        file = file[:at] + struct.pack(">I", size) + file[at + 4 :]
        assert len(decode(file, RATE).waveform) == probe(file).frames == 100_000 + len(WAVE)
