"""Downloads sounds from the web. A link whose path has an audio extension is downloaded as it is; any other link is a
page with audio or video, from which yt-dlp downloads the best audio stream.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2

from shared.install_hints import install_command
from training.data.custom.ingest import MAX_FILE_BYTES, rejection_reason
from training.data.custom.manifest import IMPORT_LIMITS
from training.errors import DatasetError, cause

INSTALL = install_command("links")

_TIMEOUT = httpx2.Timeout(60.0, connect=20.0)  # seconds per read, not for the whole transfer


class DownloadFailed(Exception):
    """The link gave no usable sound; the message states why."""


Fetch = Callable[[str], tuple[str, bytes]]
"""Maps a link to a file name and the bytes of the file. Raises DownloadFailed."""


def is_link(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


@contextmanager
def fetcher(files: Sequence[str]) -> Iterator[Fetch]:
    """A function that downloads the links among `files`. Raises DatasetError if a required package is missing."""
    links = [file for file in files if is_link(file)]
    pages = any(map(is_page, links))
    if not links:
        yield _fetch_nothing
        return
    if pages:
        _import_yt_dlp()
    try:
        client = httpx2.Client(follow_redirects=True, timeout=_TIMEOUT)
    except (ImportError, OSError, ValueError, httpx2.InvalidURL) as error:  # invalid proxy settings in the environment
        raise DatasetError(f"downloads are not possible: {cause(error)}") from error
    with client:
        yield lambda link: _download_page(link) if is_page(link) else _download_file(client, link)


def _fetch_nothing(link: str) -> tuple[str, bytes]:
    raise DownloadFailed(f"{link} is not a link")


def file_name(link: str) -> str:
    """The last part of the path of a link."""
    try:
        path = urlsplit(link).path
    except ValueError:  # not a valid URL: the download reports it
        path = link
    return PurePosixPath(unquote(path)).name


def is_page(link: str) -> bool:
    """Whether the link has no audio extension."""
    return rejection_reason(file_name(link)) is not None


def _download_file(client: httpx2.Client, link: str) -> tuple[str, bytes]:
    """Raises DownloadFailed."""
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
    """Discards the log messages of yt-dlp; errors arrive as exceptions."""

    def debug(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def error(self, message: str) -> None: ...


def _enforce_size_limit(progress: dict[str, Any]) -> None:
    if (progress.get("downloaded_bytes") or 0) > MAX_FILE_BYTES or (progress.get("total_bytes") or 0) > MAX_FILE_BYTES:
        raise DownloadFailed(f"larger than {MAX_FILE_BYTES:,} bytes")


def _download_page(link: str) -> tuple[str, bytes]:
    """Raises DownloadFailed."""
    yt_dlp = _import_yt_dlp()
    with tempfile.TemporaryDirectory(prefix="otoscope-") as folder:
        options = {
            "format": "bestaudio/best",
            "outtmpl": {"default": f"{folder}/sound.%(ext)s"},
            "noplaylist": True,
            "fixup": "never",  # needs ffmpeg, and decoders accept the files as they are
            "js_runtimes": {"deno": {}, "node": {}},  # required for YouTube
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
                    raise DownloadFailed("a playlist; list each sound in a row of its own")
                if info.get("is_live"):
                    raise DownloadFailed("a live stream")
                if (info.get("duration") or 0) > IMPORT_LIMITS.max_seconds:
                    raise DownloadFailed(f"lasts more than {IMPORT_LIMITS.max_seconds:g} s")
                downloader.process_ie_result(info, download=True)
        except (yt_dlp.utils.YoutubeDLError, OSError, ValueError) as error:
            raise DownloadFailed(str(error).removeprefix("ERROR: ")) from error
        downloaded = sorted(Path(folder).iterdir())
        if len(downloaded) != 1:
            raise DownloadFailed("nothing was downloaded")
        sound = downloaded[0]
        return f"{info.get('id') or 'sound'}{sound.suffix}", sound.read_bytes()
