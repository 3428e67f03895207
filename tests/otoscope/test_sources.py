"""Sound for `otoscope listen`: what comes out of a pipe or a file, block by block."""

import io
import struct
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from otoscope.errors import AudioCorrupt, AudioEmpty, AudioUnsupported
from otoscope.sources import from_file, from_pipe

RATE = 8_000


def wav_bytes(samples: NDArray[np.generic], channels: int = 1, rate: int = RATE) -> bytes:
    """A PCM WAV of interleaved samples."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(samples.itemsize)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def heard(body: bytes, rate: int = 16_000) -> tuple[int, NDArray[np.float32]]:
    found, blocks = from_pipe(io.BytesIO(body), rate)
    return found, np.concatenate(list(blocks))


def test_raw_samples() -> None:
    """16-bit PCM at the rate that was given; half a sample at the end is left out."""
    samples = np.arange(-5_000, 5_000, dtype="<i2")
    rate, found = heard(samples.tobytes() + b"\0", 22_050)
    assert rate == 22_050
    np.testing.assert_allclose(found, samples / 32_768, atol=1e-7)


@pytest.mark.parametrize("type_", ["u1", "<i2", "<i4"])
def test_a_wav_in_a_pipe(type_: str) -> None:
    """Its own rate and format; channels are averaged."""
    half = {"u1": 192, "<i2": 16_384, "<i4": 2**30}[type_]
    zero = 128 if type_ == "u1" else 0
    samples = np.array([[half, zero]] * 2_000, type_)
    rate, found = heard(wav_bytes(samples, channels=2))
    assert (rate, found.shape) == (RATE, (2_000,))
    np.testing.assert_allclose(found, 0.25, atol=1e-6)


def test_a_recording_of_24_bits(tmp_path: Path) -> None:
    """As field recorders write it, in a file and in a pipe."""
    samples = np.arange(-2_000_000, 2_000_000, 4_001, "<i4")
    body = bytearray(wav_bytes(np.zeros(3 * len(samples), "u1")))
    body[32:36] = struct.pack("<HH", 3, 24)
    body[44:] = np.delete(samples.view("u1"), np.s_[3::4]).tobytes()
    (tmp_path / "field.wav").write_bytes(body)
    rate, blocks = from_file(tmp_path / "field.wav")
    for found in (heard(bytes(body))[1], np.concatenate(list(blocks))):
        np.testing.assert_allclose(found, samples / 2**23, atol=1e-7)
    assert rate == RATE


@pytest.mark.parametrize("subtype", ["ALAW", "ULAW", "DOUBLE"])
def test_other_encodings(tmp_path: Path, subtype: str) -> None:
    """Of telephones, and of programs that compute: in a file and in a pipe as libsndfile decodes them."""
    path = tmp_path / "call.wav"
    soundfile.write(path, np.sin(np.arange(1_000) / 5), RATE, subtype)
    rate, blocks = from_file(path)
    expected = soundfile.read(path, dtype="float32")[0]
    for found in (heard(path.read_bytes())[1], np.concatenate(list(blocks))):
        np.testing.assert_array_equal(found, expected)
    assert rate == RATE


def test_a_wav_without_a_length() -> None:
    """As programs write it that cannot go back in a pipe: everything up to its end is sound."""
    body = bytearray(wav_bytes(np.zeros(3_000, "<i2")))
    body[40:44] = struct.pack("<I", 0xFFFFFFFF)
    assert len(heard(bytes(body))[1]) == 3_000


def test_a_wav_with_other_chunks() -> None:
    """They are skipped, odd lengths included."""
    body = wav_bytes(np.zeros(1_000, "<i2"))
    chunk = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    assert len(heard(body[:12] + chunk + body[12:])[1]) == 1_000


@pytest.mark.parametrize(("channels", "rate"), [(1, 2**32 - 1), (65_535, 2**32 - 1), (65_535, 8_000)])
def test_a_block_is_bounded(channels: int, rate: int) -> None:
    """Whatever the header states: the service has to see the rate before it can refuse it."""
    layout = struct.pack("<HHIIHH", 1, channels, rate, 0, 0, 16)
    head = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + layout + b"data\0\0\0\0"
    file = io.BytesIO(head + bytes(8_000_000))
    next(from_pipe(file, RATE)[1])
    assert file.tell() <= len(head) + 2**20


def test_what_is_no_usable_wav() -> None:
    """Is an error with the reason, not noise."""
    body = bytearray(wav_bytes(np.zeros(1_000, "<i2")))
    body[34:36] = struct.pack("<H", 64)
    with pytest.raises(AudioUnsupported, match="64 bits"):
        from_pipe(io.BytesIO(bytes(body)), RATE)
    with pytest.raises(AudioCorrupt, match="no usable format"):
        from_pipe(io.BytesIO(b"RIFF\0\0\0\0WAVE"), RATE)
    with pytest.raises(AudioEmpty, match="Nothing has come out of the pipe"):
        from_pipe(io.BytesIO(b""), RATE)
    with pytest.raises(AudioCorrupt, match="first 64 KB"):
        from_pipe(io.BytesIO(b"RIFF\0\0\0\0WAVEjunk" + struct.pack("<I", 10**9)), RATE)


@pytest.mark.parametrize(
    "start", [b"fLaC", b"OggS", b"ID3", b"FORM\0\0\0\0AIFF", b"\0\0\0\x20ftypM4A ", b"\x1aE\xdf\xa3"]
)
def test_a_file_of_another_format_in_a_pipe(start: bytes) -> None:
    """Is no PCM: it would be heard as noise."""
    with pytest.raises(AudioUnsupported, match="ffmpeg"):
        from_pipe(io.BytesIO(start + bytes(100)), RATE)


def test_a_file_takes_as_long_as_it_plays(tmp_path: Path) -> None:
    """All of its samples, at their own speed."""
    samples = (np.sin(np.arange(2_000)) * 20_000).astype("<i2")
    (tmp_path / "sound.wav").write_bytes(wav_bytes(samples))
    rate, blocks = from_file(tmp_path / "sound.wav")
    began = time.monotonic()
    found = np.concatenate(list(blocks))
    assert rate == RATE
    np.testing.assert_allclose(found, samples / 32_768, atol=1e-6)
    assert time.monotonic() - began >= 0.2
