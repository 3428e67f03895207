"""What stands behind the sound of a file is neither sound nor damage, and silence at its end is sound."""

import struct
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from shared.audio.decode import Decoded, decode
from tests.support.odd_files import ape
from tests.support.sounds import AV_FORMS, chirp, encode_av

RATE = 16_000
BEHIND = {
    "zeros": bytes(9_000),
    "erased blocks": b"\xff" * 9_000,
    "zeros of more than a gap": bytes(200_000),
    "ID3v1": b"TAGSong title".ljust(128, b"\0"),
    "APEv2 and zeros": ape() + bytes(9_000),
    "ID3v1 and zeros": b"TAGSong title".ljust(128, b"\0") + bytes(9_000),
    "junk": np.random.default_rng(5).bytes(5_120),
}
FORMS = (
    "MPEG layer II", "M4A AAC", "MOV PCM", "Matroska PCM", "ADTS AAC", "CAF ALAC", "WMA 2", "AVI PCM", "AVI MP3",
    "FLV AAC", "FLV MP3", "MPEG-TS AAC", "MPEG-TS AC-3", "MPEG-TS MPEG layer II", "MPEG-PS AC-3", "MPEG-PS PCM",
    "WavPack", "AC-3",
)  # fmt: skip


@cache
def made(name: str) -> bytes:
    return encode_av(chirp(2.0, AV_FORMS[name].rate), AV_FORMS[name])


def truncated(decoded: Decoded) -> list[str]:
    return [warning.detail for warning in decoded.warnings if warning.code == "truncated"]


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("name", FORMS)
def test_what_is_behind_the_sound_changes_nothing(name: str, behind: str) -> None:
    """Nor has it a warning."""
    decoded = decode(made(name) + BEHIND[behind], RATE)
    np.testing.assert_array_equal(decoded.waveform, decode(made(name), RATE).waveform)
    assert not truncated(decoded)


JOINED = (
    *FORMS, "AIFF-C IMA ADPCM", "CAF IMA ADPCM", "WAV IMA ADPCM", "WAV MP3", "FLV Nellymoser",
    "MPEG-PS MPEG layer II", "AMR-NB", "W64 MP3", "AU G.722",
)  # fmt: skip


@pytest.mark.parametrize("name", JOINED)
def test_two_files_behind_one_another_are_one_sound(name: str) -> None:
    """Without a warning."""
    alone, decoded = decode(made(name), RATE), decode(made(name) * 2, RATE)
    assert decoded.seconds == pytest.approx(2 * alone.seconds, abs=0.1)
    assert not truncated(decoded)


@pytest.mark.parametrize("name", ["FLV AAC", "FLV MP3", "MPEG-TS AAC", "MPEG-TS AC-3", "MPEG-PS AC-3", "MPEG-PS PCM"])
def test_a_stream_without_a_length_that_is_cut(name: str) -> None:
    """Inside of a packet, which is where most are cut."""
    file = made(name)
    for part in (0.4, 0.7):
        at = int(len(file) * part)
        at += 60 if name.startswith("MPEG-TS") and at % 188 in (0, 187) else 0
        assert truncated(decode(file[:at], RATE))


def test_flash_video_with_damage() -> None:
    """Its tags go on behind it."""
    file = made("FLV MP3")
    middle = len(file) // 2
    decoded = decode(file[:middle] + b"\xff" * 900 + file[middle + 900 :], RATE)
    assert truncated(decoded)
    assert decoded.seconds == pytest.approx(2.0, abs=0.3)


def test_a_transport_stream_with_a_gap_is_read_on() -> None:
    """Blocks of a card that were never written, of more than a demuxer searches at once."""
    for name in ("MPEG-TS AAC", "MPEG-TS AC-3"):
        decoded = decode(made(name) + bytes(188 * 800) + made(name), RATE)
        assert decoded.seconds == pytest.approx(2 * decode(made(name), RATE).seconds, abs=0.1)


def test_silence_at_the_end_of_a_movie_is_sound(tmp_path: Path) -> None:
    """Zeros inside of a box are no padding behind the file, with the index in front of them as on the web."""
    path = tmp_path / "fast.mov"
    with av.open(path, "w", options={"movflags": "faststart"}) as movie:
        stream = movie.add_stream("pcm_s16le", rate=RATE, layout="mono")
        samples = np.repeat(np.int16([[9_000, 0]]), RATE, axis=1)
        frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        frame.sample_rate = RATE
        movie.mux([*stream.encode(frame), *stream.encode(None)])
    file = path.read_bytes()
    for behind in (b"", bytes(9_000)):
        decoded = decode(file + behind, RATE)
        assert len(decoded.waveform) == 2 * RATE
        assert not truncated(decoded)
    assert truncated(decode(file[:-9_000], RATE))


def test_padding_at_the_end_of_an_mp4_file_is_no_damage() -> None:
    """A `free` box of zeros, which phones reserve."""
    decoded = decode(made("M4A AAC") + struct.pack(">I4s", 2_000, b"free") + bytes(1_992), RATE)
    assert not truncated(decoded)
