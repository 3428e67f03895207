"""FLAC whose stream information does not tell how long it is: its frames do, also to the gateway."""

import numpy as np
import pytest

from shared.audio.decode import Decoded, decode
from shared.audio.probe import probe
from tests.support.sounds import chirp, difference, encode

RATE = 16_000
FRAMES = 2 * RATE
SHORT = chirp(0.05, RATE)


def codes(decoded: Decoded) -> list[str]:
    return [warning.code for warning in decoded.warnings]


def with_length(file: bytes, frames: int) -> bytes:
    """With another number of frames in its header."""
    packed = int.from_bytes(file[18:26], "big") >> 36 << 36 | frames
    return file[:18] + packed.to_bytes(8, "big") + file[26:]


def bare(file: bytes) -> bytes:
    """Without metadata but the stream information."""
    return b"fLaC\x80" + file[5:42] + file[file.index(b"\xff\xf8", 42) :]


@pytest.mark.parametrize("claimed", [0, 1, RATE, FRAMES - 1])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("behind", [b"", b"TAG" + bytes(125), np.random.default_rng(0).bytes(3_000)])
def test_a_length_that_was_not_updated(claimed: int, channels: int, behind: bytes) -> None:
    """A recording is read to its end, whatever it announces, and without what is behind it."""
    wave = chirp(2.0, RATE, channels)
    file = with_length(encode(wave, RATE, "FLAC"), claimed) + behind
    decoded = decode(file, RATE)
    assert probe(file).frames == len(decoded.waveform) == FRAMES
    assert difference(decoded.waveform, wave[:, 0], RATE) < 1e-4
    assert "truncated" not in codes(decoded)


@pytest.mark.parametrize("wave", [SHORT, np.zeros_like(SHORT)])
def test_a_sound_of_one_frame(wave: np.ndarray) -> None:
    """Silence takes fewer bytes than the longest header of a frame."""
    file = with_length(encode(wave, RATE, "FLAC"), 0)
    assert probe(file).frames == len(decode(file, RATE).waveform) == len(wave)


def test_a_single_sample_that_is_missing() -> None:
    """Is missing."""
    file = with_length(encode(chirp(2.0, RATE), RATE, "FLAC"), FRAMES + 1)
    assert "truncated" in codes(decode(file, RATE))


def test_a_recording_that_begins_on_the_way() -> None:
    """Its first frame has a number, too."""
    file = with_length(encode(chirp(4.0, RATE), RATE, "FLAC"), 0)
    first = file.index(b"\xff\xf8", 42)
    fifth = file.index(file[first : first + 4] + b"\x05", first)
    size = 4_096
    assert file[first + 2] >> 4 == 12  # the code of 4,096 samples
    assert probe(bare(file)[:42] + file[fifth:]).frames == 4 * RATE - 5 * size


def test_two_files_without_further_metadata() -> None:
    """The second one is found by its stream information alone."""
    file = bare(encode(chirp(2.0, RATE), RATE, "FLAC"))
    assert [each.frames for each in probe(file + file).all] == [FRAMES, FRAMES]
    assert "truncated" not in codes(decode(file + file, RATE))
