"""Unusual but valid sound files: they must be decoded completely."""

import struct

import numpy as np
import pytest

from otoscope.errors import AudioTruncated
from shared.audio.decode import Decoded, decode, is_plain
from shared.audio.limits import AudioLimits
from shared.audio.probe import probe
from tests.support.sounds import (
    Wave,
    aiff,
    checksummed,
    chirp,
    chunk,
    difference,
    encode,
    id3,
    noise,
    ogg_pages,
    riff,
    tone,
    wav_format,
)

RATE = 16_000
WAVE = chirp(0.5, RATE)
PCM = (WAVE[:, 0] * 32_767).astype("<i2").tobytes()
MP3 = encode(chirp(2.0, RATE), RATE, "MP3", "MPEG_LAYER_III")
MP3_BARE = MP3[MP3.index(b"\xff\xf3", 4) :]  # without its first frame, which holds the Xing tag and no sound


def same(file: bytes, wave: Wave = WAVE, rate: int = RATE) -> None:
    decoded = decode(file, rate)
    assert probe(file).frames == len(decoded.waveform) == len(wave)
    assert difference(decoded.waveform, wave[:, 0], rate) < 1e-4


def codes(decoded: Decoded) -> list[str]:
    return [warning.code for warning in decoded.warnings]


@pytest.mark.parametrize(
    "before",
    [
        chunk(b"LIST", b"INFOISFT\x05\0\0\0tool\0\0"),
        chunk(b"JUNK", bytes(1_001)),
        chunk(b"bext", bytes(602)) + chunk(b"fact", struct.pack("<I", 8_000)),
        chunk(b"id3 ", id3(77)),
        chunk(b"odd ", b"x"),
    ],
)
def test_wav_with_other_chunks_before_its_samples(before: bytes) -> None:
    """Unrelated chunks are skipped, odd sizes with their padding."""
    same(riff(before, wav_format(RATE), before, chunk(b"data", PCM), before))


def test_wav_with_a_larger_format_chunk() -> None:
    """Trailing bytes in the format chunk, as some recorders write them, do no harm."""
    fmt = chunk(b"fmt ", wav_format(RATE)[8:] + struct.pack("<H", 0))
    same(riff(fmt, chunk(b"data", PCM)))


def test_wav_with_a_second_format_chunk() -> None:
    """The first one counts, and the others are not parsed: ten thousand of them would take long."""
    same(riff(wav_format(RATE), wav_format(48_000), chunk(b"fmt ", b""), chunk(b"data", PCM)))


def test_wav_whose_outer_size_is_wrong() -> None:
    """The size in the first eight bytes is often stale; the chunks count."""
    file = riff(wav_format(RATE), chunk(b"data", PCM))
    for size in (0, 36, 0xFFFFFFFF):
        same(file[:4] + struct.pack("<I", size) + file[8:])


def test_wav_with_half_a_sample_at_its_end() -> None:
    """A data chunk that is not whole frames loses the rest of one frame, no more."""
    same(riff(wav_format(RATE), chunk(b"data", PCM + b"\x01")))


@pytest.mark.parametrize("size", [2, 30, 600, 0x7FFFFFFF])
def test_wav_with_a_wrong_size_before_its_samples(size: int) -> None:
    """A chunk that ends elsewhere than it states hides the samples; they are searched."""
    same(riff(wav_format(RATE), chunk(b"LIST", bytes(100), size=size), chunk(b"data", PCM)))


@pytest.mark.parametrize(("tag", "bits"), [(6, 16), (7, 0)])
def test_g711_in_wav_has_8_bits_whatever_it_states(tag: int, bits: int) -> None:
    """Telephone systems write the bits of the decoded sample, or none."""
    body = encode(WAVE, RATE, "WAV", "ALAW" if tag == 6 else "ULAW")[-len(WAVE) :]
    file = riff(wav_format(RATE, tag=tag, bits=bits, block=1), chunk(b"data", body))
    assert difference(decode(file, RATE).waveform, WAVE[:, 0], RATE) < 0.05


def test_mp3_in_wav_behind_its_own_tag() -> None:
    """A file that was put into WAV with its ID3 tag: the tag is no damaged sound."""
    fmt = wav_format(RATE, tag=0x55, bits=0, block=1)
    plain, tagged = (riff(fmt, chunk(b"data", body)) for body in (MP3, id3(500) + MP3))
    np.testing.assert_array_equal(decode(tagged, RATE).waveform, decode(plain, RATE).waveform)
    assert codes(decode(tagged, RATE)) == codes(decode(plain, RATE))


def test_right_aligned_samples_in_wav() -> None:
    """`arecord -f S24_LE` puts 24 bits into the lower bytes of four; left-aligned ones leave the lowest byte empty."""
    body = np.round(WAVE[:, 0] * (2**23 - 1)).astype("<i4")
    same(riff(wav_format(RATE, bits=24, block=4), chunk(b"data", body.tobytes())))
    same(riff(wav_format(RATE, bits=24, block=4), chunk(b"data", (body << 8).tobytes())))


def test_rf64_takes_its_size_from_ds64() -> None:
    """The 32-bit size of RF64 and BW64 is a placeholder."""
    for magic in (b"RF64", b"BW64"):
        ds64 = chunk(b"ds64", struct.pack("<QQQI", 0, len(PCM), len(WAVE), 0))
        same(riff(ds64, wav_format(RATE), chunk(b"data", PCM, size=0xFFFFFFFF), magic=magic))


def test_rf64_of_unknown_size() -> None:
    """All bits set in ds64 are no announcement."""
    ds64 = chunk(b"ds64", b"\xff" * 24 + bytes(4))
    file = riff(ds64, wav_format(RATE), chunk(b"data", PCM, size=0xFFFFFFFF), magic=b"RF64")
    same(file)
    assert "truncated" not in codes(decode(file, RATE))


def test_mono_aiff_with_an_odd_number_of_bytes() -> None:
    """8-bit mono of odd length is followed by a padding byte that is not a sample; chunks may follow that."""
    wave = chirp(4_001 / RATE, RATE)
    file = aiff((wave[:, 0] * 127).astype("i1").tobytes(), 4_001, bits=8)
    assert len(file) % 2 == 0
    for whole in (file, file + chunk(b"ANNO", b"note", order=">")):
        decoded = decode(whole, RATE)
        assert len(decoded.waveform) == 4_001
        assert difference(decoded.waveform, wave[:, 0], RATE) < 0.03


def test_aiff_with_other_chunks_and_an_offset() -> None:
    """Samples may begin behind an offset, and depths that are not whole bytes are left-aligned."""
    body = (WAVE[:, 0] * 32_767).astype(">i2").tobytes()
    before = chunk(b"COMT", b"\0\0\0", order=">")
    for bits in (16, 14):
        same(aiff(body, len(WAVE), bits=bits, lead=6, before=before))


def test_aiff_with_its_samples_before_its_description() -> None:
    """The order of AIFF chunks is free."""
    file = aiff((WAVE[:, 0] * 32_767).astype(">i2").tobytes(), len(WAVE))
    same(file[:12] + file[38:] + file[12:38])


def test_caf_of_24_bits_in_four_bytes() -> None:
    """Core Audio's usual format for such samples is left-aligned."""
    body = (np.round(WAVE[:, 0] * (2**23 - 1)).astype("<i4") << 8).tobytes()
    form = struct.pack(">d4s5I", RATE, b"lpcm", 2, 4, 1, 1, 24)
    same(b"caff\0\1\0\0" + struct.pack(">4sq", b"desc", 32) + form + struct.pack(">4sqI", b"data", -1, 0) + body)


@pytest.mark.parametrize("order", ["<", ">"])
def test_au_of_dec(order: str) -> None:
    """Another name, as SoX writes it with `-L`, of either byte order."""
    name = b"\0ds." if order == "<" else b".sd\0"
    body = np.round(WAVE[:, 0] * 32_767).astype(f"{order}i2").tobytes()
    same(name + struct.pack(f"{order}5I", 24, len(body), 3, RATE, 1) + body)


def test_tags_around_mp3() -> None:
    """ID3v2 before, ID3v1 or APE behind: the same samples, the same length."""
    plain = decode(MP3, RATE).waveform
    for file in (id3() + MP3, id3(20) + id3(0) + MP3, MP3 + b"TAG" + bytes(125), MP3 + b"APETAGEX" + bytes(500)):
        assert probe(file).frames == len(plain)
        np.testing.assert_array_equal(decode(file, RATE).waveform, plain)


def test_id3_with_a_footer() -> None:
    """The footer's ten bytes are not counted in the tag's size."""
    tag = bytearray(id3(100) + b"3DI" + bytes(7))
    tag[5] = 0x10
    np.testing.assert_array_equal(decode(bytes(tag) + MP3, RATE).waveform, decode(MP3, RATE).waveform)


def test_id3_of_a_wrong_size() -> None:
    """A size beyond the end of the file is no reason to read nothing."""
    tag = b"ID3\x03\0\0\x7f\x7f\x7f\x7f" + bytes(300)
    same(tag + encode(WAVE, RATE))
    same(tag + encode(WAVE, RATE, "FLAC"))
    np.testing.assert_array_equal(decode(tag + MP3, RATE).waveform, decode(MP3, RATE).waveform)
    assert is_plain(tag + encode(WAVE, RATE), RATE)
    assert not is_plain(tag + MP3, RATE)
    with pytest.raises(AudioTruncated, match="ends inside its ID3"):
        decode(tag, RATE)


def test_tag_before_flac() -> None:
    """Some taggers put ID3 before FLAC; what follows the tag decides what the file is."""
    same(id3() + encode(WAVE, RATE, "FLAC"))


@pytest.mark.parametrize("size", [100, 4_970, 0xFFFFFF])
def test_flac_with_a_picture_of_a_wrong_size(size: int) -> None:
    """A picture of more than 16 MB does not fit into the size of its block: the first frame is searched."""
    file = encode(WAVE, RATE, "FLAC")
    picture = np.random.default_rng(0).bytes(2_000) + b"\xff\xf8\x69\x08\x00\x00" * 500
    same(file[:42] + b"\x06" + size.to_bytes(3, "big") + picture + file[42:])


def test_variable_mp3_without_its_tag_is_read_whole() -> None:
    """Streams and pipes have no Xing tag; libsndfile alone would estimate the length and stop early."""
    loud = np.vstack([tone(6.0, 44_100, level=1e-4), noise(6.0, 44_100)])
    file = encode(loud, 44_100, "MP3", "MPEG_LAYER_III")
    assert file[21:25] == b"Xing"
    bare = file[417:]  # its first frame, of 128 kbit/s, holds no sound
    decoded = decode(bare, 44_100)
    assert 0 <= len(decoded.waveform) - len(loud) < 3 * 1_152
    assert probe(bare).frames == pytest.approx(len(decoded.waveform), abs=1_152)
    assert decoded.waveform[-44_100:-4_410].std() == pytest.approx(0.1, rel=0.2)


def test_concatenated_mp3_files_are_decoded_to_the_end() -> None:
    """The tag of the first file states the length of the first file only."""
    alone = decode(MP3, RATE).seconds
    assert decode(MP3 + MP3, RATE).seconds == pytest.approx(2 * alone, abs=0.2)


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_recording_of_a_running_ogg_stream(codec: str) -> None:
    """Granule positions that begin hours after zero count from their beginning."""
    whole = ogg_pages(encode(noise(20.0, 48_000), 48_000, "OGG", codec))
    middle = len(whole) // 2
    file = b"".join(whole[:2] + whole[middle:])
    decoded = decode(file, 48_000)
    assert 8 < decoded.seconds < 12
    assert (probe(file).frames or 0) / 48_000 == pytest.approx(decoded.seconds, abs=0.6)


def test_opus_rate_is_the_one_it_decodes_to() -> None:
    """The length in seconds does not depend on the rate in the Opus header."""
    file = encode(tone(2.0, 8_000), 8_000, "OGG", "OPUS")
    header, decoded = probe(file), decode(file, RATE)
    assert (header.rate, header.frames, decoded.source_rate) == (8_000, 16_000, 8_000)
    assert decoded.seconds == pytest.approx(2.0)


def test_opus_that_does_not_state_its_rate() -> None:
    """Zero is not 8 kHz: Opus decodes to 48 kHz (RFC 7845, section 5.1)."""
    whole = encode(chirp(2.0, 48_000), 48_000, "OGG", "OPUS")
    at = whole.index(b"OpusHead") + 12
    file = checksummed(whole[:at] + bytes(4) + whole[at + 4 :])
    header, decoded = probe(file), decode(file, 48_000)
    assert (header.rate, header.seconds, decoded.source_rate) == (48_000, 2.0, 48_000)
    assert difference(decoded.waveform, decode(whole, 48_000).waveform, 48_000) < 0.01


def test_length_limit_leaves_room_for_codec_padding() -> None:
    """A sound of exactly the longest length is accepted in a codec that adds some samples to it."""
    limits = AudioLimits(max_seconds=2.0)
    assert decode(MP3, RATE, limits).seconds == 2.0
    assert 2.0 < decode(MP3_BARE, RATE, limits).seconds < 2.2
