"""The accepted audio formats, in one table: gateway, worker, /v1/limits, messages, trainer and page all read it.

A new container is one entry of FORMATS and one header reader, a module beside this one. Readers are plain Python:
libsndfile has had memory errors in rarely used codecs, so only an allow-list of containers and codecs reaches a native
decoder, and the gateway loads none. They read headers and walk frames; they never decompress anything, and every loop
moves forward through bytes that are already in memory.
"""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from struct import error as StructError

from otoscope.errors import AudioTruncated, NotAudio
from shared.audio.aiff import read_aiff_header
from shared.audio.flac import read_flac_header
from shared.audio.headers import Header
from shared.audio.id3 import skip_id3
from shared.audio.mp3 import find_frames, read_mp3_header
from shared.audio.mp4 import read_mp4_header
from shared.audio.ogg import read_ogg_header
from shared.audio.unrecognised import unrecognised
from shared.audio.wav import read_wav_header


class Decoder(Enum):
    """What turns the bytes into samples; `shared.audio.decoders` implements them."""

    PCM = auto()  # numpy: uncompressed samples, no native decoder
    SNDFILE = auto()  # libsndfile
    PYAV = auto()  # FFmpeg


@dataclass(frozen=True)
class OptionalPackage:
    """A package that a decoder needs and that is not installed by default."""

    name: str  # for people
    module: str  # what is imported
    docs: str  # where its installation is described


@dataclass(frozen=True)
class AudioFormat:
    """A container, the codecs that are accepted in it, and how it is recognised, read and decoded."""

    name: str  # as `Header.container` and the API's `audio.format` have it
    codecs: tuple[str, ...]
    extensions: tuple[str, ...]  # of file names, for file pickers; the usual one first. The content decides, not these
    media_types: tuple[str, ...]  # the one to serve files with first
    matches: Callable[[bytes, int], bool]  # (file, position after ID3 tags): is it this container, by its magic bytes
    read_header: Callable[[bytes, int], Header]  # of the same; raises an AudioError
    decoder: Decoder
    sndfile_subtypes: tuple[str, ...] = ()  # where libsndfile decodes: its names of the accepted codecs
    label: str = ""  # for people, where it differs from the name
    weak_magic: bool = False  # so short a magic number that other formats are tried first
    exact_length: bool = True  # all samples that the header announces must decode; lossy codecs may lose some
    vague_header: bool = False  # rate and channels of the header may be wrong: only the decoded ones are checked
    package: OptionalPackage | None = None

    def __str__(self) -> str:
        return self.label or self.name

    @property
    def available(self) -> bool:
        """Whether this process can decode it."""
        return self.package is None or is_installed(self.package.module)


@cache
def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


_PYAV = OptionalPackage("PyAV", "av", "docs/deployment.md#m4a")
_PCM_CODECS = ("PCM", "float", "A-law", "µ-law")

FORMATS = (
    AudioFormat(
        "WAV", _PCM_CODECS, (".wav", ".wave"), ("audio/wav", "audio/vnd.wave", "audio/x-wav"),
        lambda data, at: data[at : at + 4] in (b"RIFF", b"RF64", b"BW64") and data[at + 8 : at + 12] == b"WAVE",
        read_wav_header, Decoder.PCM,
    ),
    AudioFormat(
        "FLAC", ("FLAC",), (".flac",), ("audio/flac", "audio/x-flac"),
        lambda data, at: data[at : at + 4] == b"fLaC",
        read_flac_header, Decoder.SNDFILE, ("PCM_S8", "PCM_16", "PCM_24"),
    ),
    AudioFormat(
        "Ogg", ("Vorbis", "Opus"), (".ogg", ".oga", ".opus"), ("audio/ogg", "audio/opus"),
        lambda data, at: data[at : at + 4] == b"OggS",
        read_ogg_header, Decoder.SNDFILE, ("VORBIS", "OPUS"), label="Ogg (Vorbis or Opus)", exact_length=False,
    ),
    AudioFormat(
        "MP3", ("MP3",), (".mp3",), ("audio/mpeg", "audio/mp3"),
        lambda data, at: at > 0 or find_frames(data, 0) is not None,
        read_mp3_header, Decoder.SNDFILE, ("MPEG_LAYER_III",), weak_magic=True, exact_length=False,
    ),
    AudioFormat(
        "AIFF", _PCM_CODECS, (".aif", ".aiff", ".aifc"), ("audio/aiff", "audio/x-aiff"),
        lambda data, at: data[at : at + 4] == b"FORM" and data[at + 8 : at + 12] in (b"AIFF", b"AIFC"),
        read_aiff_header, Decoder.PCM,
    ),
    AudioFormat(
        "M4A", ("AAC", "ALAC"), (".m4a",), ("audio/mp4", "audio/x-m4a"),
        lambda data, at: data[at + 4 : at + 8] == b"ftyp",
        read_mp4_header, Decoder.PYAV, exact_length=False, vague_header=True, package=_PYAV,
    ),
)  # fmt: skip
"""In the order in which people are shown them."""

BY_NAME = {each.name: each for each in FORMATS}


def is_available(name: str) -> bool:
    """Whether this process can decode that format."""
    return BY_NAME[name].available


def format_names(*, optional: bool | None = None) -> tuple[str, ...]:
    """Names of the accepted formats: with or without those that need an optional package; by default as installed."""
    return tuple(
        each.name for each in FORMATS if each.package is None or (each.available if optional is None else optional)
    )


def describe_formats(names: Iterable[str] | None = None) -> str:
    """Those formats in words, for messages; by default those that this process can decode."""
    return ", ".join(str(BY_NAME[name]) for name in (format_names() if names is None else names))


def identify(data: bytes, *, only: Decoder | None = None) -> tuple[AudioFormat | None, int]:
    """(format by magic bytes or None, position after the ID3 tags); `only` tries the formats of one decoder.

    Raises AudioTruncated or AudioEmpty, where the file is nothing but an ID3 tag.
    """
    start = skip_id3(data)
    for weak in (False, True):
        for each in FORMATS:
            if each.weak_magic is weak and only in (None, each.decoder) and each.matches(data, start):
                return each, start
    return None, start


def read_header(data: bytes, accepted: Iterable[str] | None = None) -> Header:
    """The header of a sound file in memory; `accepted` are the names of the formats that error messages list.

    Raises NotAudio, AudioUnsupported, AudioTruncated, AudioCorrupt or AudioEmpty.
    """
    try:
        found, start = identify(data)
        if found is None:
            raise unrecognised(data, describe_formats(accepted))
        return found.read_header(data, start)
    except NotAudio as error:
        raise NotAudio(f"{error.detail} Accepted: {describe_formats(accepted)}.") from error
    except (StructError, IndexError) as error:
        raise AudioTruncated(f"The file ends inside its own header, after {len(data):,} bytes.") from error
