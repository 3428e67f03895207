"""Compressed sound that was cut or damaged: what is left is read, and a warning says what is missing."""

import numpy as np
import pytest

from otoscope.errors import AudioTruncated
from shared.audio.decode import Decoded, decode
from tests.support.sounds import AV_FORMS, checksummed, chirp, difference, encode, encode_av, noise, ogg_pages

RATE = 16_000
MP3 = encode(chirp(2.0, RATE), RATE, "MP3", "MPEG_LAYER_III")


def codes(decoded: Decoded) -> list[str]:
    return [warning.code for warning in decoded.warnings]


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("behind", [b"", b"Og", b"\r\n", bytes(500)])
def test_ogg_cut_between_its_pages(codec: str, behind: bytes) -> None:
    """Also where a bit of the next page, or zeros, are left."""
    whole = ogg_pages(encode(noise(10.0, 16_000), 16_000, "OGG", codec))
    decoded = decode(b"".join(whole[:-1]) + behind, RATE)
    assert 7 < decoded.seconds < 10
    assert codes(decoded) == ["truncated"]


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_ogg_behind_a_page_that_was_cut(codec: str) -> None:
    """The page reaches into the next stream, which is not lost with it."""
    whole = encode(noise(10.0, 16_000), 16_000, "OGG", codec)
    for part in (0.45, 0.6, 0.75):
        cut = whole[: int(len(whole) * part)]
        decoded = decode(cut + whole, RATE)
        assert decoded.seconds == pytest.approx(decode(cut, RATE).seconds + 10.0, abs=0.1)
        assert codes(decoded) == ["truncated"]


def test_a_damaged_ogg_page_is_skipped() -> None:
    """A lossy file with a broken page is decoded without it, as players do."""
    file = bytearray(encode(noise(20.0, 48_000), 48_000, "OGG", "VORBIS"))
    file[len(file) // 2] ^= 0xFF
    assert 18 < decode(bytes(file), 48_000).seconds < 20


def test_opus_without_a_last_page() -> None:
    """A recording that was never finished: where its last position cuts off samples, libsndfile gives up."""
    whole = encode(chirp(4.0, RATE), RATE, "OGG", "OPUS")
    last = len(whole) - len(ogg_pages(whole)[-1])
    file = checksummed(whole[: last + 5] + bytes([whole[last + 5] & ~4]) + whole[last + 6 :])
    decoded = decode(file, RATE)
    assert decoded.seconds == pytest.approx(4.0, abs=0.03)
    assert difference(decoded.waveform, decode(whole, RATE).waveform, RATE) < 0.1


def test_mp3_cut_out_of_a_stream() -> None:
    """A beginning inside a frame loses that frame and the one that depends on it."""
    assert decode(MP3[1_000:], RATE).seconds == pytest.approx(decode(MP3, RATE).seconds, abs=0.4)


def test_mp3_is_read_on_behind_damage() -> None:
    """libsndfile gives up behind a thousand damaged bytes; what follows them is not lost."""
    whole = encode(noise(6.0, 48_000), 48_000, "MP3", "MPEG_LAYER_III")
    middle = len(whole) // 2
    file = whole[:middle] + np.random.default_rng(3).bytes(1_000) + whole[middle + 1_000 :]
    decoded = decode(file, 48_000)
    assert 5.7 < decoded.seconds < 6.1
    assert codes(decoded) == ["truncated"]


def test_flac_cut_inside_a_picture() -> None:
    """It was cut, and is not corrupt."""
    file = encode(chirp(0.5, RATE), RATE, "FLAC")
    with pytest.raises(AudioTruncated, match="ends inside its metadata"):
        decode(file[:42] + b"\x06" + (9_000).to_bytes(3, "big") + bytes(5_000), RATE)


def test_amr_with_damage_in_the_middle() -> None:
    """Nothing says where the next frame begins: several are searched that begin as those before them."""
    whole = encode_av(chirp(2.0, 8_000), AV_FORMS["AMR-NB"])
    damaged = whole[:1_606] + b"\xff" * 40 + whole[1_646:]
    decoded = decode(damaged, 8_000)
    assert decoded.seconds == pytest.approx(2.0, abs=0.1)
    (warning,) = decoded.warnings
    assert warning.detail == "From byte 1,606 on the AMR file is damaged."
    assert "truncated" not in codes(decode(whole + whole, 8_000))
    junk = decode(whole + np.random.default_rng(5).bytes(5_000), 8_000)
    assert junk.seconds == pytest.approx(2.0, abs=0.1)
    assert "no frames" in junk.warnings[0].detail


def test_amr_behind_one_that_was_cut() -> None:
    """The last frame of the first file reaches into the header of the second."""
    whole = encode_av(chirp(2.0, 8_000), AV_FORMS["AMR-NB"])
    for cut in (5, 20, 31):
        decoded = decode(whole[:-cut] + whole, 8_000)
        assert decoded.seconds == pytest.approx(4.0, abs=0.1)
        assert codes(decoded) == ["truncated"]
