"""Sizes in the headers of uncompressed sound that are wrong, and what stands behind the samples."""

import struct

import numpy as np
import pytest

from otoscope.errors import AudioTruncated
from shared.audio.decode import Decoded, decode
from shared.audio.probe import probe
from tests.support.sounds import aiff, chirp, chunk, difference, encode, riff, wav_format

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
_WHOLE = ("WAV", "AIFF", "W64")  # these also state the size of the whole file
JUNK = np.random.default_rng(5).bytes(5_120)
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
    assert codes(decoded) == codes(decode(_UNCOMPRESSED[name], RATE), *([] if name in _WHOLE else ["truncated"]))
    assert decode(bytes(file + file), RATE).seconds == 1.0


@pytest.mark.parametrize("name", ["WAV", *_UNCOMPRESSED])
@pytest.mark.parametrize("junk", [JUNK, JUNK[:400], b"<html>" + b"not found. " * 100])
def test_junk_behind_samples_is_no_sound(name: str, junk: bytes) -> None:
    """Where the size of the whole file says that it is none; elsewhere it is read. A warning says which."""
    file = encode(WAVE, RATE, name)
    decoded = decode(file + junk, RATE)
    assert "truncated" in codes(decoded)
    rest = 0 if name in _WHOLE else len(junk) // 2
    assert len(decoded.waveform) == probe(file + junk).frames == len(WAVE) + rest
    (detail,) = (warning.detail for warning in decoded.warnings if warning.code == "truncated")
    assert ("left out" in detail) == (name in _WHOLE)
    with pytest.raises(AudioTruncated):
        decode(file + junk, RATE, strict=True)
    assert decode(file + junk + file, RATE).seconds == pytest.approx(1.0 + rest / RATE)


@pytest.mark.parametrize("name", ["WAV", *_UNCOMPRESSED])
def test_a_file_behind_one_that_was_cut(name: str) -> None:
    """Its header is no sound of the first one, whose size reaches into it."""
    file = encode(WAVE, RATE, name)
    decoded = decode(file[:-4_000] + file, RATE)
    assert len(decoded.waveform) == 2 * len(WAVE) - 2_000
    np.testing.assert_array_equal(decoded.waveform[-len(WAVE) :], decode(file, RATE).waveform)
    (detail,) = (warning.detail for warning in decoded.warnings if warning.code == "truncated")
    assert "125 ms are missing" in detail


def test_junk_behind_a_wav_file_of_unknown_size_is_read() -> None:
    """With a warning, where it has the size of its samples and none of the whole file."""
    file = encode(WAVE, RATE)
    for size in (0, 8, 0xFFFFFFFF):
        decoded = decode(file[:4] + struct.pack("<I", size) + file[8:] + JUNK, RATE)
        assert len(decoded.waveform) == len(WAVE) + len(JUNK) // 2
        assert codes(decoded) == ["truncated"]


def test_a_size_that_was_never_corrected_and_junk() -> None:
    """The size of the whole file says where the samples end."""
    file = riff(wav_format(RATE), chunk(b"data", PCM, size=3_000))
    decoded = decode(file + JUNK, RATE)
    assert len(decoded.waveform) == len(WAVE)
    assert difference(decoded.waveform, WAVE[:, 0], RATE) < 1e-4
    assert codes(decoded) == codes(decode(file, RATE), "truncated")


@pytest.mark.parametrize("name", ["WAV", "AIFF", "W64", "CAF"])
def test_a_file_that_was_cut_behind_its_samples(name: str) -> None:
    """Its sound is complete: half a chunk is neither sound nor a loss."""
    file = encode(WAVE, RATE, name)
    if name in ("WAV", "AIFF"):
        order = ">" if name == "AIFF" else "<"
        file += chunk(b"ANNO", JUNK, order=order)
        file = file[:4] + struct.pack(f"{order}I", len(file) - 8) + file[8:]
    else:
        file += _BEHIND[name]
    decoded = decode(file[:-1_000], RATE)
    assert len(decoded.waveform) == len(WAVE)
    assert codes(decoded) == ["narrow_band"]


def test_aiff_whose_frames_confirm_the_size_of_its_samples() -> None:
    """Junk is left out also where the size of the whole file is wrong."""
    file = bytearray(_UNCOMPRESSED["AIFF"])
    struct.pack_into(">I", file, 4, 0)
    assert len(decode(bytes(file) + JUNK, RATE).waveform) == len(WAVE)


def codes(decoded: Decoded, *more: str) -> list[str]:
    return sorted([*more, *(warning.code for warning in decoded.warnings)])


HALF = len(PCM) // 2


@pytest.mark.parametrize("kind", ["plain", "odd", "RIFX", "RF64", "list", "empty first", "A-law"])
def test_wav_with_several_data_chunks(kind: str) -> None:
    """Each is sound, as FFmpeg reads them: programs that record on append one."""
    order, fmt, first, second = "<", wav_format(RATE), PCM[:HALF], PCM[HALF:]
    between, before = chunk(b"LIST", bytes(30)), b""
    if kind == "odd":
        first += b"x"  # a sample that is not whole
    elif kind == "RIFX":
        order, between = ">", chunk(b"LIST", bytes(30), order=">")
        fmt = chunk(b"fmt ", struct.pack(">HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16), order=">")
        first, second = (np.frombuffer(part, "<i2").astype(">i2").tobytes() for part in (first, second))
    elif kind == "RF64":
        size = 4 + 36 + len(fmt) + 8 + HALF + len(between) + 8 + len(second)
        before = chunk(b"ds64", struct.pack("<QQQI", size, HALF, len(WAVE), 0))
    elif kind == "empty first":
        first, second = b"", PCM
    elif kind == "A-law":
        body = encode(WAVE, RATE, "WAV", "ALAW")[-len(WAVE) :]
        fmt, first, second = wav_format(RATE, tag=6, bits=8, block=1), body[:4_000], body[4_000:]
    chunks = [chunk(b"data", first, order=order), between, chunk(b"data", second, order=order)]
    if kind == "list":
        chunks = [chunk(b"LIST", b"wavl" + b"".join(chunks))]
    magic = {"RIFX": b"RIFX", "RF64": b"RF64"}.get(kind, b"RIFF")
    file = riff(before, fmt, *chunks, between, magic=magic)
    if kind == "RIFX":
        file = file[:4] + file[4:8][::-1] + file[8:]
    decoded = decode(file, RATE)
    assert len(decoded.waveform) == len(WAVE)
    assert difference(decoded.waveform, WAVE[:, 0], RATE) < 0.05 if kind == "A-law" else 1e-4
    assert "truncated" not in codes(decoded)
    assert probe(file).seconds == 0.5
    assert decode(file * 2, RATE).seconds == 1.0


def test_wav_with_a_second_data_chunk_that_is_cut_or_missing() -> None:
    """The samples that are present are read, with a warning."""
    for size, kept in ((HALF, HALF // 2), (HALF, 0), (0xFFFFFFFF, HALF)):
        file = riff(wav_format(RATE), chunk(b"data", PCM), chunk(b"data", PCM[:kept], size=size))
        decoded = decode(file, RATE)
        assert len(decoded.waveform) == len(WAVE) + kept // 2
        assert ("truncated" in codes(decoded)) == (size == HALF)


def test_wav_of_hundreds_of_data_chunks() -> None:
    """After 256 of them the rest is left out, with a warning."""
    decoded = decode(riff(wav_format(RATE), *[chunk(b"data", PCM[:1_000])] * 300), RATE)
    assert len(decoded.waveform) == 256 * 500
    assert "more than 256 sounds" in next(each.detail for each in decoded.warnings if each.code == "truncated")


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
