"""The accepted audio formats, in one table: gateway, worker, /v1/limits, messages, trainer and page all read it.

A new container is one entry of FORMATS and one header reader, a module beside this one. Readers are plain Python:
native decoders have had memory errors in rarely used codecs, so only an allow-list of containers and codecs reaches
one, and the gateway loads none. They read headers and walk frames; they never decompress anything, and every loop
moves forward through bytes that are already in memory.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from struct import error as StructError

from otoscope.errors import AudioError, AudioTruncated, NotAudio
from shared.audio.containers.ac3 import find_ac3, read_ac3_header
from shared.audio.containers.adts import find_adts, read_adts_header
from shared.audio.containers.aiff import read_aiff_header
from shared.audio.containers.amr import read_amr_header
from shared.audio.containers.asf import MAGIC as ASF_MAGIC
from shared.audio.containers.asf import read_asf_header
from shared.audio.containers.au import MAGIC as AU_MAGIC
from shared.audio.containers.au import read_au_header
from shared.audio.containers.avi import read_avi_header
from shared.audio.containers.caf import read_caf_header
from shared.audio.containers.flac import read_flac_header
from shared.audio.containers.flv import read_flv_header
from shared.audio.containers.matroska import read_matroska_header
from shared.audio.containers.mp3 import find_frames, read_mp3_header
from shared.audio.containers.mp4 import read_mp4_header
from shared.audio.containers.mpeg_ps import read_mpeg_ps_header
from shared.audio.containers.mpeg_ts import read_mpeg_ts_header
from shared.audio.containers.ogg import read_ogg_header
from shared.audio.containers.sphere import read_sphere_header
from shared.audio.containers.tags import skip_tags
from shared.audio.containers.w64 import read_w64_header
from shared.audio.containers.wav import read_wav_header
from shared.audio.containers.wave_codecs import ALL_DECODERS, COMPRESSED, SNDFILE_CODECS
from shared.audio.containers.wavpack import read_wavpack_header
from shared.audio.headers import Header, limited_steps, step
from shared.audio.unrecognised import unrecognised

_MAX_STRAY = 4_096  # bytes of anything in front of a file that are searched for its magic bytes
_MAX_SOUNDS = 256  # sounds behind one another in one file: an evening of radio, with a new one for each song
_FEWEST_STEPS = 100_000  # that any file may take
_BYTES_A_STEP = 8  # two hours of the smallest blocks of silence have nine
_TOO_MANY_UNITS = "The file has more frames, blocks or tags than a sound of its size has."
_STEPS_OF_SOUND = 64  # what it costs to read an empty one
_TOO_MANY = f"it has more than {_MAX_SOUNDS} sounds behind one another."


@dataclass(frozen=True)
class AudioFormat:
    """A container, the codecs that are accepted in it, and how it is recognised, read and decoded."""

    name: str  # as `Header.container` and the API's `audio.format` have it
    codecs: tuple[str, ...]
    extensions: tuple[str, ...]  # of file names, for file pickers; the usual one first. The content decides, not these
    media_types: tuple[str, ...]  # the one to serve files with first
    magic: bytes  # a regular expression for the first bytes; empty for a stream of frames
    read_header: Callable[[bytes, int], Header]  # (file, position of the magic bytes); raises an AudioError
    find_frames: Callable[[bytes, int], int | None] | None = None  # of such a stream: the first frames, from there on
    plain: bool = False  # samples may be uncompressed: then numpy decodes them
    sndfile_subtypes: tuple[str, ...] = ()  # where libsndfile decodes: its names of the accepted codecs
    demuxer: str = ""  # where FFmpeg decodes: its name of the container
    ffmpeg_codecs: tuple[str, ...] = ()  # and of the decoders that it may use
    label: str = ""  # for people, where it differs from the name
    lossless: bool = False  # exactly the samples that the header announces are in the file

    def __str__(self) -> str:
        return self.label or self.name

    @cached_property
    def pattern(self) -> re.Pattern[bytes]:
        """Of the magic bytes."""
        return re.compile(self.magic, re.DOTALL)

    def find(self, data: bytes, start: int, most: int | None = None) -> int | None:
        """Where such a file begins, from there on, within so many bytes."""
        if self.find_frames:
            return self.find_frames(data, start)
        found = self.pattern.search(data, start, len(data) if most is None else start + most)
        return found.start() if found else None


_PCM_CODECS = ("PCM", "float", "A-law", "µ-law")
_PCM_DECODERS = (
    "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_u8", "pcm_s8", "pcm_f32le",
    "pcm_f32be", "pcm_f64le", "pcm_f64be", "pcm_alaw", "pcm_mulaw",
)  # fmt: skip
_MPEG_DECODERS = ("mp3float", "mp3", "mp2float", "mp2")

FORMATS = (
    AudioFormat(
        "WAV", (*_PCM_CODECS, *COMPRESSED, *SNDFILE_CODECS.values()),
        (".wav", ".wave", ".bwf", ".rf64"), ("audio/wav", "audio/vnd.wave", "audio/x-wav"),
        rb"(?:RIF[FX]|RF64|BW64)....WAVE", read_wav_header, plain=True, demuxer="wav", ffmpeg_codecs=ALL_DECODERS,
        sndfile_subtypes=("G721_32", "NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32"), lossless=True,
    ),
    AudioFormat(
        "FLAC", ("FLAC",), (".flac",), ("audio/flac", "audio/x-flac"),
        rb"fLaC", read_flac_header, sndfile_subtypes=("PCM_S8", "PCM_16", "PCM_24"),
        demuxer="flac", ffmpeg_codecs=("flac",), lossless=True,
    ),
    AudioFormat(
        "Ogg", ("Vorbis", "Opus", "FLAC", "Speex"), (".ogg", ".oga", ".opus", ".spx", ".ogv"),
        ("audio/ogg", "audio/opus", "audio/speex"), rb"OggS\x00[\x02\x06]", read_ogg_header,
        sndfile_subtypes=("VORBIS", "OPUS"),
        demuxer="ogg", ffmpeg_codecs=("vorbis", "opus", "flac", "speex"), label="Ogg (Vorbis, Opus, FLAC or Speex)",
    ),
    AudioFormat(
        "MP3", ("MPEG layer III", "MPEG layer II"), (".mp3", ".mp2", ".mpga"), ("audio/mpeg", "audio/mp3"),
        b"", read_mp3_header, find_frames, sndfile_subtypes=("MPEG_LAYER_III",),
        demuxer="mp3", ffmpeg_codecs=_MPEG_DECODERS,
    ),
    AudioFormat(
        "AIFF", (*_PCM_CODECS, "IMA ADPCM", "GSM 6.10", "MACE"), (".aif", ".aiff", ".aifc"),
        ("audio/aiff", "audio/x-aiff"), rb"FORM....AIF[FC]", read_aiff_header, plain=True,
        demuxer="aiff", ffmpeg_codecs=("adpcm_ima_qt", "gsm", "mace3", "mace6"), lossless=True,
    ),
    AudioFormat(
        "M4A",
        ("AAC", "ALAC", "Opus", "FLAC", "MPEG layer III", "MPEG layer II", "AC-3", "E-AC-3", "AMR-NB", "AMR-WB",
         "IMA ADPCM", "Microsoft ADPCM", *_PCM_CODECS),
        (".m4a", ".mp4", ".mov", ".3gp", ".3g2", ".m4b", ".m4v", ".qt"),
        ("audio/mp4", "audio/x-m4a", "audio/3gpp", "audio/3gpp2"),
        rb"[\x00-\x03]...(?:ftyp|moov|mdat|wide|free|skip|pnot|styp|sidx|moof)", read_mp4_header,
        demuxer="mov,mp4,m4a,3gp,3g2,mj2",
        ffmpeg_codecs=("aac", "alac", "opus", "flac", "ac3", "eac3", "amrnb", "amrwb", "libopencore_amrnb",
                       "libopencore_amrwb", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", *_MPEG_DECODERS,
                       *_PCM_DECODERS),
        label="M4A, MP4, MOV and 3GP",
    ),
    AudioFormat(
        "WebM",
        ("Opus", "Vorbis", "AAC", "FLAC", "ALAC", "MPEG layer III", "MPEG layer II", "AC-3", "E-AC-3", "WavPack", "PCM",
         "float"),
        (".webm", ".mkv", ".mka", ".weba"), ("audio/webm", "audio/x-matroska"), rb"\x1a\x45\xdf\xa3",
        read_matroska_header, demuxer="matroska,webm",
        ffmpeg_codecs=("opus", "vorbis", "aac", "flac", "alac", "ac3", "eac3", "wavpack", *_MPEG_DECODERS,
                       *_PCM_DECODERS),
        label="WebM and Matroska",
    ),
    AudioFormat(
        "AAC", ("AAC",), (".aac", ".adts"), ("audio/aac", "audio/aacp"), b"", read_adts_header, find_adts,
        demuxer="aac", ffmpeg_codecs=("aac",), label="AAC (ADTS)",
    ),
    AudioFormat(
        "AMR", ("AMR-NB", "AMR-WB"), (".amr", ".awb"), ("audio/amr", "audio/amr-wb"),
        rb"#!AMR(?:-WB|_MC1\.0|-WB_MC1\.0)?\n",
        read_amr_header, demuxer="amr", ffmpeg_codecs=("amrnb", "amrwb", "libopencore_amrnb", "libopencore_amrwb"),
    ),
    AudioFormat(
        "CAF", (*_PCM_CODECS, "AAC", "ALAC", "Opus", "IMA ADPCM", "Microsoft ADPCM", "MPEG layer III", "MPEG layer II",
                "AC-3", "FLAC", "AMR-NB"),
        (".caf",), ("audio/x-caf",), rb"caff\x00\x01\x00\x00", read_caf_header, plain=True, demuxer="caf",
        ffmpeg_codecs=("aac", "alac", "opus", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "ac3", "flac", "amrnb",
                       "libopencore_amrnb", *_MPEG_DECODERS),
    ),
    AudioFormat(
        "AU", (*_PCM_CODECS, "G.721 ADPCM", "G.722 ADPCM", "G.723 ADPCM"), (".au", ".snd"), ("audio/basic",),
        AU_MAGIC, read_au_header, plain=True, demuxer="au",
        ffmpeg_codecs=("g722",), sndfile_subtypes=("G721_32", "G723_24", "G723_40"), lossless=True,
    ),
    AudioFormat(
        "W64", (*_PCM_CODECS, *COMPRESSED), (".w64",), ("audio/x-w64",),
        rb"riff\x2e\x91\xcf\x11.{12}.{4}wave", read_w64_header, plain=True, demuxer="wav",
        ffmpeg_codecs=ALL_DECODERS, label="Wave64", lossless=True,
    ),
    AudioFormat(
        "WMA", (*_PCM_CODECS, *COMPRESSED), (".wma", ".asf", ".wmv"),
        ("audio/x-ms-wma",), re.escape(ASF_MAGIC), read_asf_header, demuxer="asf",
        ffmpeg_codecs=(*ALL_DECODERS, *_PCM_DECODERS),
    ),
    AudioFormat(
        "WavPack", ("WavPack",), (".wv",), ("audio/wavpack", "audio/x-wavpack"), rb"wvpk.{4}.[\x02-\x05]",
        read_wavpack_header, demuxer="wv", ffmpeg_codecs=("wavpack",), lossless=True,
    ),
    AudioFormat(
        "AVI", (*_PCM_CODECS, *COMPRESSED), (".avi",), ("video/x-msvideo",), rb"RIFF....AVI[ X]", read_avi_header,
        demuxer="avi", ffmpeg_codecs=(*ALL_DECODERS, *_PCM_DECODERS),
    ),
    AudioFormat(
        "MPEG-TS", ("AAC", "AC-3", "E-AC-3", "MPEG layer III", "MPEG layer II", "Opus", "PCM"),
        (".ts", ".mts", ".m2ts", ".m2t"), ("video/mp2t",), rb"(?:G.{187}){5}G|....(?:G.{191}){5}G|(?:G.{203}){5}G",
        read_mpeg_ts_header, demuxer="mpegts",
        ffmpeg_codecs=("aac", "aac_latm", "ac3", "eac3", "opus", "pcm_bluray", *_MPEG_DECODERS),
        label="MPEG-TS (transport streams)",
    ),
    AudioFormat(
        "MPEG-PS", ("MPEG layer II", "MPEG layer III", "AC-3", "PCM"), (".mpg", ".mpeg", ".vob"), ("video/mpeg",),
        rb"\x00\x00\x01\xba", read_mpeg_ps_header, demuxer="mpeg", ffmpeg_codecs=("ac3", "pcm_dvd", *_MPEG_DECODERS),
        label="MPEG-PS (program streams)",
    ),
    AudioFormat(
        "FLV", ("AAC", "MPEG layer III", "Speex", "Nellymoser", "Flash ADPCM", "PCM", "A-law", "µ-law"),
        (".flv", ".f4a"), ("video/x-flv",), rb"FLV\x01", read_flv_header, demuxer="flv",
        ffmpeg_codecs=("aac", "mp3float", "mp3", "speex", "nellymoser", "adpcm_swf", *_PCM_DECODERS),
        label="FLV (Flash video)",
    ),
    AudioFormat(
        "AC-3", ("AC-3", "E-AC-3"), (".ac3", ".eac3"), ("audio/ac3", "audio/eac3"), b"", read_ac3_header, find_ac3,
        demuxer="ac3", ffmpeg_codecs=("ac3", "eac3"),
    ),
    AudioFormat(
        "SPHERE", ("PCM", "A-law", "µ-law"), (".sph",), ("audio/x-nist",), rb"NIST_1A\n", read_sphere_header,
        plain=True, lossless=True, label="SPHERE (NIST)",
    ),
)  # fmt: skip
"""In the order in which people are shown them."""

BY_NAME = {each.name: each for each in FORMATS}


def format_names() -> tuple[str, ...]:
    """Names of the accepted formats."""
    return tuple(each.name for each in FORMATS)


def describe_formats(names: Iterable[str] | None = None) -> str:
    """Those formats in words, for messages; by default all."""
    return ", ".join(str(BY_NAME[name]) for name in (format_names() if names is None else names))


def identify(data: bytes, *, plain: bool = False) -> tuple[AudioFormat | None, int]:
    """(format or None, where it begins): behind tags, zeros, white space, and up to 4 KB of anything.

    `plain` finds only a format that can be uncompressed, and returns None for a file that begins as another. Raises
    AudioTruncated or AudioEmpty, where the file is nothing but a tag.
    """
    try:
        start, cut = skip_tags(data), None
    except AudioTruncated as error:  # or the tag states a wrong size
        start, cut = 0, error
    strong = [each for each in FORMATS if each.magic]
    for begin in range(start, max(start - 5, -1), -1):  # the size that an MP4 file begins with can look blank
        for each in strong:
            if each.pattern.match(data, begin):
                return each if each.plain >= plain else None, begin
    if plain:
        strong = [each for each in strong if each.plain]
    framed = [each for each in FORMATS if each.find_frames and not plain]
    for most, formats in ((_MAX_STRAY, strong), (None, framed)):
        found = [(at, each) for each in formats if (at := each.find(data, start, most)) is not None]
        if found:
            at, each = min(found, key=lambda pair: pair[0])
            return each, at
    if cut and not plain:
        raise cut
    return None, start


def read_header(data: bytes, accepted: Iterable[str] | None = None) -> Header:
    """The header of a sound file in memory; `accepted` are the names of the formats that error messages list.

    Raises NotAudio, AudioUnsupported, AudioTruncated, AudioCorrupt or AudioEmpty.
    """
    with limited_steps(_FEWEST_STEPS + len(data) // _BYTES_A_STEP, _TOO_MANY_UNITS):
        return _read_header(data, accepted)


def _read_header(data: bytes, accepted: Iterable[str] | None) -> Header:
    try:
        found, start = identify(data)
        if found is None:
            raise unrecognised(data, start, describe_formats(accepted))
        header = found.read_header(data, start)
    except NotAudio as error:
        raise NotAudio(error.found, accepted=describe_formats(accepted)) from error
    except (StructError, IndexError) as error:
        raise AudioTruncated(f"The file ends inside its own header, after {len(data):,} bytes.") from error
    first, *more = _all_sounds(found, data, header)
    return replace(first, more=tuple(more))


def _all_sounds(found: AudioFormat, data: bytes, header: Header) -> list[Header]:
    """The headers of the sounds of the same format that stand behind one another in a file."""
    headers = list(header.all)
    while (end := header.all[-1].end) is not None and (at := found.find(data, end)) is not None:
        try:
            step(_STEPS_OF_SOUND)
            if len(headers) >= _MAX_SOUNDS:
                raise AudioTruncated(_TOO_MANY)
            header = found.read_header(data, at)
            if header.end is not None and header.end <= at:
                break
            if header.frames == 0:
                if header.truncated:
                    raise AudioTruncated(header.truncated)
                continue
        except (AudioError, StructError, IndexError) as error:
            why = error.detail if isinstance(error, AudioError) else "it ends inside a header."
            headers[-1] = replace(headers[-1], truncated=f"From byte {at:,} on the file is not read: {why}")
            break
        headers += header.all
    if len(headers) > _MAX_SOUNDS:
        headers[_MAX_SOUNDS - 1 :] = [
            replace(headers[_MAX_SOUNDS - 1], truncated=f"The file is read no further: {_TOO_MANY}")
        ]
    return headers
