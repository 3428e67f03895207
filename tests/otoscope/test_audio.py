"""Samples are encoded as an audio file that the service decodes to the same samples."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from otoscope import demo_sound
from otoscope.audio import load, wav
from shared.audio.decode import decode
from shared.audio.probe import probe


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, shape).astype(np.float32)


def test_float_samples_are_encoded_exactly() -> None:
    """The service decodes exactly the caller's samples; rate and length are in the header."""
    samples = _noise(16_000)
    name, data = load((samples, 16_000))
    header = probe(data)
    assert (header.container, header.rate, header.channels, header.frames) == ("WAV", 16_000, 1, 16_000)
    np.testing.assert_array_equal(decode(data, 16_000).waveform, samples)
    assert name.endswith(".wav")


@pytest.mark.parametrize("shape", [(16_000, 2), (2, 16_000)])
def test_either_axis_may_be_the_channels(shape: tuple[int, int]) -> None:
    """soundfile's (frames, channels) and torchaudio's (channels, frames) are both accepted."""
    samples = _noise(*shape)
    decoded = decode(wav(samples, 16_000), 16_000)
    assert decoded.channels == 2
    np.testing.assert_allclose(decoded.waveform, samples.mean(axis=shape.index(2)), atol=1e-6)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint8])
def test_integers_are_scaled_from_their_full_range(kind: type) -> None:
    """Integer samples, as read by other libraries, map to -1..1."""
    limits = np.iinfo(kind)
    samples: NDArray[Any] = np.array([limits.min, limits.max] * 1_000, dtype=kind)
    decoded = decode(wav(samples, 16_000), 16_000).waveform
    np.testing.assert_allclose(decoded[:2], [-1, 1], atol=0.01)


def test_invalid_input_is_refused() -> None:
    """Invalid samples are a TypeError or ValueError before anything is sent."""
    for bad, kind in (
        (np.zeros((2, 2, 2)), ValueError),
        (np.zeros(9, complex), TypeError),
        (np.zeros(9, np.int64), TypeError),
        (np.zeros(9, np.uint64), TypeError),
    ):
        with pytest.raises(kind):
            wav(bad, 16_000)
    with pytest.raises(TypeError, match="int16"):
        load([0, 20_000, -20_000], 16_000)
    for rate in (0, -1, 0.5, 2**24, 2**40, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="rate"):
            wav(np.zeros(9), rate)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="samples, rate"):
        load((16_000, np.zeros(9)))  # type: ignore[arg-type]


def test_paths_and_bytes_are_sent_unchanged(tmp_path: Path) -> None:
    """Files are not decoded by the client: the service supports more formats."""
    path = tmp_path / "a.flac"
    path.write_bytes(b"fLaC")
    assert load(path) == load(str(path)) == ("a.flac", b"fLaC")
    assert load(memoryview(b"OggS"))[1] == b"OggS"
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.wav")
    assert io.BytesIO(load(b"RIFF")[1]).read() == b"RIFF"


def test_a_device_without_an_end_is_refused() -> None:
    """And so is a pipe, once it has more than any service stores."""
    with pytest.raises(ValueError, match="zero has more than 536,870,912 bytes"):
        load("/dev/zero")


def test_a_pipe_is_read_to_its_end() -> None:
    """Bash passes `<(cat x.wav)` as its path."""
    reader, writer = os.pipe()
    os.write(writer, b"RIFF")
    os.close(writer)
    assert load(f"/dev/fd/{reader}")[1] == b"RIFF"
    os.close(reader)


def test_open_files_and_sequences_are_accepted(tmp_path: Path) -> None:
    """A file opened as bytes, io.BytesIO, a list of numbers, and a batch of one sound as torch has it."""
    path = tmp_path / "a.flac"
    path.write_bytes(b"fLaC")
    with path.open("rb") as file:
        assert load(file) == ("a.flac", b"fLaC")
    assert load(io.BytesIO(b"OggS")) == ("sound", b"OggS")
    assert probe(load([0.0, 0.5] * 8_000, 16_000)[1]).frames == 16_000
    header = probe(wav(_noise(1, 2, 16_000), 16_000))
    assert (header.channels, header.frames) == (2, 16_000)


@pytest.mark.parametrize(
    ("sound", "kind", "words"),
    [
        ("https://example.org/dog.wav", ValueError, "download"),
        ("s3://bucket/dog.wav", ValueError, "download"),
        (io.StringIO("RIFF"), TypeError, "'rb'"),
        (None, TypeError, "not NoneType"),
        (7, TypeError, "not int"),
        (np.zeros(9), TypeError, "rate="),
        ((np.zeros((1_000, 1_000)), 16_000), ValueError, "1000 channels"),
        ((np.zeros((0, 2)), 16_000), ValueError, "no samples"),
        ((np.zeros((3, 2, 9)), 16_000), ValueError, r"\(3, 2, 9\)"),
    ],
)
def test_the_error_names_what_was_passed(sound: Any, kind: type[Exception], words: str) -> None:
    """And what is accepted in its place."""
    with pytest.raises(kind, match=words):
        load(sound)


def test_the_demo_sound_is_deterministic() -> None:
    """Five seconds without clipping, the same on every machine."""
    sound = demo_sound.alarm_clock()
    assert len(sound) == 5 * demo_sound.RATE
    assert 0.1 < np.abs(sound).max() < 1.0
    np.testing.assert_array_equal(sound, demo_sound.alarm_clock())
