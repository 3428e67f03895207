"""WebM and Matroska: damage between blocks of sound is found, and what stands behind a file is not part of it."""

import struct

import numpy as np
import pytest

from shared.audio.containers.matroska import read_matroska_header
from shared.audio.decode import Decoded, decode
from tests.support.sounds import encode, noise, remux

RATE = 48_000
OGG = encode(noise(12.0, RATE, level=0.3), RATE, "OGG", "OPUS")
FILES = {"of a browser": remux(OGG, "webm", live="1"), "with its length": remux(OGG, "webm")}
JUNK = np.random.default_rng(5).bytes(5_120)


def truncated(decoded: Decoded) -> bool:
    return any(warning.code == "truncated" for warning in decoded.warnings)


def element(name: bytes, body: bytes) -> bytes:
    return name + struct.pack(">Q", 1 << 56 | len(body)) + body


@pytest.mark.parametrize("part", [0.2, 0.5, 0.97])
@pytest.mark.parametrize("kind", FILES)
def test_damage_inside_a_cluster(kind: str, part: float) -> None:
    """Bytes that are missing, and bytes that were overwritten: the decoder goes on at the next cluster."""
    file, at = FILES[kind], int(len(FILES[kind]) * part)
    for size in (30, 700):
        assert truncated(decode(file[:at] + file[at + size :], RATE))
    decoded = decode(file[:at] + np.random.default_rng(1).bytes(700) + file[at + 700 :], RATE)
    assert truncated(decoded)
    assert decoded.seconds > 6


@pytest.mark.parametrize("kind", FILES)
def test_what_is_behind_the_file_is_no_damage(kind: str) -> None:
    """Junk, tags, empty blocks of a card, and elements that are padding or unknown to this reader."""
    file = FILES[kind]
    for behind in (JUNK, b"\r\n", bytes(9_000), b"TAG" + bytes(125)):
        decoded = decode(file + behind, RATE)
        np.testing.assert_array_equal(decoded.waveform, decode(file, RATE).waveform)
        assert not truncated(decoded)
    assert not truncated(decode(file + file, RATE))


def test_padding_and_unknown_elements_are_no_damage() -> None:
    """A Void element of zeros, which muxers reserve for tags, and one of a later specification."""
    file = FILES["of a browser"]
    at = file.index(bytes.fromhex("1f43b675"))
    for name in (b"\xec", bytes.fromhex("1b538667")):
        padding = element(name, bytes(500))
        for made in (file[:at] + padding + file[at:], file + padding):
            assert not truncated(decode(made, RATE))
            assert decode(made, RATE).seconds == decode(file, RATE).seconds


def test_a_cut_file_and_another_one() -> None:
    """The second one is read; the first has a warning."""
    for file in FILES.values():
        decoded = decode(file[: len(file) // 2] + file, RATE)
        assert decoded.seconds == pytest.approx(18.0, abs=1.5)
        assert truncated(decoded)


def test_damage_behind_two_hours_of_blocks() -> None:
    """360,000 blocks of 20 ms in one cluster of unknown size are walked to their end."""
    at = FILES["of a browser"].index(bytes.fromhex("1f43b675"))
    blocks = (
        FILES["of a browser"][:at]
        + bytes.fromhex("1f43b67501ffffffffffffffe78100")
        + b"\xa3\x85\x81\0\0\x80x" * 360_000
    )
    assert not read_matroska_header(blocks, 0).truncated
    damaged = blocks[:-70] + JUNK[:10] + blocks[-60:]
    assert read_matroska_header(damaged, 0).truncated == f"The Matroska file is damaged at byte {len(blocks) - 70:,}."
