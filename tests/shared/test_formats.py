"""The table of audio formats: each entry is complete, and everything that lists formats reads the table."""

import subprocess
import sys
from pathlib import PurePath

import pytest

from otoscope.errors import AudioUnsupported, NotAudio
from shared.audio import decode as decoding
from shared.audio import formats
from shared.audio.containers import mp3
from shared.audio.decode import is_plain
from shared.audio.formats import BY_NAME, FORMATS, AudioFormat, identify
from shared.audio.headers import Header
from shared.audio.limits import AudioLimits
from shared.audio.probe import probe
from tests.conftest import ROOT
from tests.support.sounds import FORMS, chirp, encode, id3, tone

RATE = 16_000


@pytest.mark.parametrize("name", FORMS)
def test_a_file_is_identified_by_its_magic_bytes(name: str) -> None:
    """Also behind an ID3 tag; the header names the entry of the table, and one of its codecs."""
    form = FORMS[name]
    file = encode(tone(0.2, 48_000), 48_000, form.container, form.subtype, endian=form.endian)
    found, start = identify(file)
    assert found is not None
    assert start == 0
    assert name.upper().startswith((found.name.upper(), "RF64", "RIFX"))
    header = found.read_header(file, 0)
    assert header.container == found.name
    assert header.codec.startswith(found.codecs), header.codec
    assert identify(id3(100) + file) == (found, 110)


def test_entries_are_complete_and_distinct() -> None:
    """Names, extensions and media types belong to one format each, and are spelled as file pickers need them."""
    for field in ("extensions", "media_types"):
        values = [value for each in FORMATS for value in getattr(each, field)]
        assert len(values) == len(set(values))
        assert all(values)
    assert len(BY_NAME) == len(FORMATS)
    assert all(bool(each.magic) != bool(each.find_frames) for each in FORMATS)
    assert all(bool(each.demuxer) == bool(each.ffmpeg_codecs) for each in FORMATS)
    assert all(each.plain or each.demuxer for each in FORMATS)
    assert all(each.codecs and each.extensions and each.media_types for each in FORMATS)
    assert all(PurePath(f"x{extension}").suffix == extension for each in FORMATS for extension in each.extensions)
    assert all(media_type.startswith(("audio/", "video/")) for each in FORMATS for media_type in each.media_types)


def test_a_new_format_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a header reader. It is then recognised, probed, limited and listed in messages."""
    cast = AudioFormat(
        "Cast", ("PCM",), (".cast",), ("audio/x-cast",), b"CAST",
        lambda data, at: Header("Cast", "PCM", RATE, 1, len(data) - 4, at + 4, sample_format="u1"), plain=True,
    )  # fmt: skip
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, cast))
    monkeypatch.setitem(BY_NAME, cast.name, cast)
    file = b"CAST" + bytes([128]) * RATE
    assert probe(file).container == "Cast"
    assert decoding.decode(file, RATE).seconds == 1.0
    assert is_plain(file, RATE)
    with pytest.raises(NotAudio, match=r"MP3, AIFF.*, Cast"):
        probe(b"hello")
    with pytest.raises(AudioUnsupported, match=r"Cast is not accepted here: it is disabled\. Accepted: WAV\."):
        probe(file, AudioLimits(formats=("WAV",)))


def test_ffmpeg_has_the_decoders_of_the_table() -> None:
    """A name that is misspelled or that this build lacks would refuse its files."""
    import av

    for each in FORMATS:
        assert set(each.ffmpeg_codecs) <= av.codecs_available
        assert not each.demuxer or av.ContainerFormat(each.demuxer.partition(",")[0]).is_input


def test_the_readme_lists_the_formats() -> None:
    """And the codecs of Ogg, which decide there."""
    (line,) = (
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("- **Any sound file**")
    )
    for each in FORMATS:
        assert each.name in line
    assert all(codec in line for codec in BY_NAME["Ogg"].codecs)


def test_only_uncompressed_files_are_parsed_to_find_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """An MP3 is identified by its magic bytes alone: the worker does not walk its frames under the interpreter lock."""
    compressed = [
        encode(chirp(1.0, RATE), RATE, form.container, form.subtype)
        for form in (FORMS[name] for name in ("MP3", "Ogg Vorbis", "FLAC 16 bit"))
    ]

    def parse(*_: object) -> None:
        raise AssertionError("frames of an MP3 are parsed")

    monkeypatch.setattr(mp3, "_parse_frame", parse)
    with pytest.raises(AssertionError, match="frames of an MP3"):
        probe(compressed[0])
    for file in (*compressed, id3() + compressed[0], b"hello", encode(chirp(1.0, 8_000), 8_000)):
        assert not is_plain(file, RATE)
    assert is_plain(encode(chirp(1.0, RATE), RATE), RATE)
    assert is_plain(encode(chirp(1.0, RATE), RATE, "AIFF"), RATE)
    long = encode(chirp(1.0, RATE), RATE, "WAV", "DOUBLE")
    monkeypatch.setattr(decoding, "_MAX_PLAIN", len(long) - 1)
    assert not is_plain(long, RATE)


def test_a_weak_magic_number_is_tried_last() -> None:
    """Streams of frames, which have none, are searched for where no magic bytes are."""
    mp3 = encode(chirp(1.0, RATE), RATE, "MP3", "MPEG_LAYER_III")
    for front in (b"", id3(), b"stray"):
        assert identify(front + mp3) == (BY_NAME["MP3"], len(front))
        assert identify(front + encode(chirp(1.0, RATE), RATE) + mp3) == (BY_NAME["WAV"], len(front))
    assert [each.name for each in FORMATS if each.find_frames] == ["MP3", "AAC", "AC-3"]


@pytest.mark.slow
def test_the_tables_of_the_documentation_are_current() -> None:
    """`docs/formats.md` has what `docs/formats.py` finds."""
    subprocess.run([sys.executable, "docs/formats.py", "--check"], cwd=ROOT, check=True, capture_output=True)
