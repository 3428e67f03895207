"""Sounds from the web. A link that ends like a sound file is downloaded as it is; any other, to a page with a video or
a sound in it, goes through yt-dlp, which brings the best sound without the picture.

What comes in a container that nobody here decodes (WebM, MP4 with a picture) is put into one that can be decoded,
without encoding it again and without ffmpeg.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2

from otoscope.errors import AudioError
from shared.audio.decode import aac_available, probe
from shared.install_hints import install_command
from training.data.custom.ingest import MAX_FILE_BYTES, rejection_reason
from training.data.custom.manifest import IMPORT_LIMITS
from training.errors import DatasetError

INSTALL = install_command("links")

_TIMEOUT = httpx2.Timeout(60.0, connect=20.0)  # for one read, not for the whole
_SUFFIX_FOR_CODEC = {"opus": ".ogg", "vorbis": ".ogg", "mp3": ".mp3", "flac": ".flac", "aac": ".m4a", "alac": ".m4a"}


class DownloadFailed(Exception):
    """Nothing usable came from this link; the message says why."""


Fetch = Callable[[str], tuple[str, bytes]]
"""Link -> a name for the sound, and its bytes. Raises LinkFailed."""


def is_link(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


@contextmanager
def fetcher(files: Sequence[str]) -> Iterator[Fetch]:
    """What fetches the links among `files`. Raises DatasetError if some of them need a package that is not there."""
    links = [file for file in files if is_link(file)]
    pages = any(map(is_page, links))
    if not links:
        yield _fetch_nothing
        return
    if pages:
        _import_yt_dlp()
    try:
        client = httpx2.Client(follow_redirects=True, timeout=_TIMEOUT)
    except (ImportError, OSError, ValueError, httpx2.InvalidURL) as error:  # environment variables that do not fit
        raise DatasetError(f"nothing can be fetched: {error}") from error
    with client:
        yield lambda link: _download_page(link) if is_page(link) else _download_file(client, link)


def _fetch_nothing(link: str) -> tuple[str, bytes]:
    raise DownloadFailed(f"{link} is no link")


def file_name(link: str) -> str:
    """The last part of its path."""
    try:
        path = urlsplit(link).path
    except ValueError:  # not a link at all: fetching it will say so
        path = link
    return PurePosixPath(unquote(path)).name


def is_page(link: str) -> bool:
    """Whether it does not end like a sound file."""
    return rejection_reason(file_name(link)) is not None


def _download_file(client: httpx2.Client, link: str) -> tuple[str, bytes]:
    """Raises LinkFailed."""
    try:
        with client.stream("GET", link) as response:
            if response.status_code != 200:
                raise DownloadFailed(f"HTTP {response.status_code} {response.reason_phrase}".strip())
            data = bytearray()
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > MAX_FILE_BYTES:
                    raise DownloadFailed(f"larger than {MAX_FILE_BYTES:,} bytes")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        raise DownloadFailed(str(error) or type(error).__name__) from error
    return file_name(link), bytes(data)


def _import_yt_dlp() -> Any:
    """Raises DatasetError."""
    try:
        import yt_dlp
    except ImportError as error:
        raise DatasetError(f"links to pages need yt-dlp: {INSTALL} ({error})") from error
    return yt_dlp


class _SilentLogger:
    """yt-dlp's log. What matters comes as an exception."""

    def debug(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def error(self, message: str) -> None: ...


def _enforce_size_limit(progress: dict[str, Any]) -> None:
    if (progress.get("downloaded_bytes") or 0) > MAX_FILE_BYTES or (progress.get("total_bytes") or 0) > MAX_FILE_BYTES:
        raise DownloadFailed(f"larger than {MAX_FILE_BYTES:,} bytes")


def _download_page(link: str) -> tuple[str, bytes]:
    """Raises LinkFailed."""
    yt_dlp = _import_yt_dlp()
    with tempfile.TemporaryDirectory(prefix="otoscope-") as folder:
        options = {
            "format": "bestaudio/best",
            "outtmpl": {"default": f"{folder}/sound.%(ext)s"},
            "noplaylist": True,
            "fixup": "never",  # wants ffmpeg, and decoders do not mind
            "js_runtimes": {"deno": {}, "node": {}},  # which YouTube needs
            "logger": _SilentLogger(),
            "noprogress": True,
            "cachedir": False,
            "socket_timeout": 60,
            "progress_hooks": [_enforce_size_limit],
        }
        try:
            with yt_dlp.YoutubeDL(options) as downloader:
                info = downloader.extract_info(link, download=False)
                if "entries" in info:
                    raise DownloadFailed("a list of sounds; give each a line of its own")
                if info.get("is_live"):
                    raise DownloadFailed("a live stream, which has no end")
                if (info.get("duration") or 0) > IMPORT_LIMITS.max_seconds:
                    raise DownloadFailed(f"lasts more than {IMPORT_LIMITS.max_seconds:g} s")
                downloader.process_ie_result(info, download=True)
        except (yt_dlp.utils.YoutubeDLError, OSError, ValueError) as error:
            raise DownloadFailed(str(error).removeprefix("ERROR: ")) from error
        downloaded = sorted(Path(folder).iterdir())
        if len(downloaded) != 1:
            raise DownloadFailed("nothing came")
        sound = _remux_if_needed(downloaded[0])
        return f"{info.get('id') or 'sound'}{sound.suffix}", sound.read_bytes()


def _remux_if_needed(path: Path) -> Path:
    """The file itself or, if it is of a kind that is not decoded here, its sound in another container beside it.

    Raises LinkFailed.
    """
    try:
        probe(path.read_bytes(), IMPORT_LIMITS)
        return path
    except AudioError as error:
        if not aac_available():
            raise DownloadFailed(f"{error} What it is in can be taken apart by PyAV: {INSTALL}") from error
        refused = error
    import av

    try:
        with av.open(str(path)) as source:
            if not source.streams.audio:
                raise DownloadFailed(str(refused))
            sound = source.streams.audio[0]
            codec = sound.codec_context.codec.canonical_name
            if codec not in _SUFFIX_FOR_CODEC:
                raise DownloadFailed(f"{refused} It holds {codec}.")
            target = path.with_name(f"sound-alone{_SUFFIX_FOR_CODEC[codec]}")
            with av.open(str(target), "w", format="ipod" if target.suffix == ".m4a" else None) as target_file:
                copy = target_file.add_stream_from_template(sound)
                for packet in source.demux(sound):
                    if packet.dts is not None:  # the last one is empty
                        packet.stream = copy
                        target_file.mux(packet)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DownloadFailed(f"{refused} Taking its sound out fails: {error}") from error
    return target
