"""Downloads ESC-50 from its author's repository into a cache folder, once.

An interrupted download is resumed. The data set folder gets its final name only after the archive has been unpacked
completely and its table has been verified. GitHub generates the archive on request and does not guarantee identical
bytes, so the content is verified instead of a checksum of the archive. Every failure raises DatasetError.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx2
from tqdm import tqdm

from training.data.esc50 import ESC50, load_esc50
from training.errors import DatasetError

ESC50_URL = "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip"

MAX_ATTEMPTS = 5  # consecutive attempts without any new bytes
BACKOFF_SECONDS = 1.0  # seconds before the first retry; doubled after each
MAX_ARCHIVE_BYTES = 2 << 30  # bytes; the archive of ESC-50 has 0.6 GiB
MAX_UNPACKED_BYTES = 4 << 30  # bytes unpacked; ESC-50 has 0.8 GiB
MAX_FILES = 10_000

_TIMEOUT = httpx2.Timeout(60.0, connect=20.0)  # seconds per read, not for the whole transfer
_REQUIRED_FILES = re.compile(r"[^/]+/(meta/esc50\.csv|audio/[^/]+\.wav|LICENSE|README\.md)")


def fetch_esc50(
    cache: Path | None = None, *, url: str = ESC50_URL, sha256: str | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:  # fmt: skip
    """Return the ESC-50 folder for `load_esc50`; download it from `url` if it is not in `cache` yet. Raises
    DatasetError.

    `cache` defaults to `default_cache()`. `sha256` pins the archive, for a `url` whose archive never changes. `check`
    raises DatasetError for a folder with unexpected content; it defaults to `check_esc50`.
    """
    cache, check = cache or default_cache(), check or check_esc50
    folder, unpacked, archive = cache / "ESC-50", cache / "ESC-50.partial", _Archive(cache / "ESC-50.zip", url)
    try:
        if _already_fetched(folder, check):
            return folder
        with _lock_cache(cache):
            if _already_fetched(folder, check):  # fetched by another process while this one waited
                return folder
            if not archive.complete:
                _download(archive)
            try:
                _verify_checksum(archive, sha256)
                _unpack(archive.path, unpacked)
                check(unpacked)
                os.replace(unpacked, folder)
            except DatasetError as error:
                archive.delete()  # retrying with the same bytes would fail again
                raise DatasetError(f"the archive from {url} cannot be used: {error}") from error
            finally:
                shutil.rmtree(unpacked, ignore_errors=True)
            archive.delete()
    except OSError as error:  # full disk, no write permission
        raise DatasetError(f"ESC-50 cannot be stored in {cache}: {error}") from error
    return folder


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/otoscope` or `~/.cache/otoscope` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "otoscope"


def check_esc50(root: Path) -> None:
    """Raise DatasetError unless `root` holds the official table and all of its 2,000 clips."""
    dataset = load_esc50(root)
    if dataset.info != ESC50:
        raise DatasetError(f"{root / 'meta' / 'esc50.csv'} is not the official table of ESC-50")
    if empty := [clip.path for clip in dataset.clips if not clip.path.stat().st_size]:
        raise DatasetError(f"{empty[0]} is empty")  # a power failure can leave an empty file


@dataclass(frozen=True)
class _Archive:
    """The archive in the cache, named `.partial` until it is complete, with a `.source` file that stores its URL and
    ETag."""

    path: Path
    url: str

    @property
    def partial(self) -> Path:
        return self.path.with_name(self.path.name + ".partial")

    @property
    def _source(self) -> Path:
        return self.path.with_name(self.path.name + ".source")

    @property
    def complete(self) -> bool:
        """Whether an earlier call downloaded the whole archive and then failed to unpack it."""
        return self.path.is_file() and self._read_source()[0] == self.url

    @property
    def received(self) -> int:
        """Bytes from which the download can resume; 0 if the partial file came from another URL."""
        return self.partial.stat().st_size if self.partial.is_file() and self._read_source()[0] == self.url else 0

    @property
    def etag(self) -> str:
        """Strong ETag of the partial file; empty if the server sent none or a weak one (RFC 9110, section 13.1.5)."""
        return self._read_source()[1]

    def restart(self, etag: str) -> None:
        """Discard everything and start a new download."""
        self.delete()
        self._source.write_text(f"{self.url}\n{'' if etag.startswith('W/') else etag}\n", encoding="utf-8")

    def delete(self) -> None:
        for path in (self.path, self.partial, self._source):
            path.unlink(missing_ok=True)

    def _read_source(self) -> tuple[str, str]:
        if not self._source.is_file():
            return "", ""
        lines = self._source.read_text(encoding="utf-8", errors="replace").splitlines()
        return (lines[0], lines[1]) if len(lines) == 2 else ("", "")


class _RetryableError(Exception):
    """This attempt failed; a later one may succeed."""


def _already_fetched(folder: Path, check: Callable[[Path], None]) -> bool:
    """Whether the data set is in the cache. An incomplete folder was changed from outside and is never overwritten."""
    if not folder.exists():
        return False
    try:
        check(folder)
    except DatasetError as error:
        raise DatasetError(f"{error}; remove {folder} to fetch it again") from error
    return True


@contextmanager
def _lock_cache(cache: Path) -> Iterator[None]:
    """Lock the cache against a concurrent download. The kernel releases the lock when the process ends."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "ESC-50.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(f"another process is downloading ESC-50 into {cache}; wait for it to finish") from error
        yield


def _download(archive: _Archive) -> None:
    """Download the archive; retry as long as attempts make progress. Raises DatasetError."""
    furthest, failures = archive.received, 0
    try:
        client = httpx2.Client(follow_redirects=True, timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"})
    except (ImportError, OSError, ValueError, httpx2.InvalidURL) as error:  # invalid proxy settings in the environment
        raise DatasetError(f"{archive.url} cannot be fetched: {error}") from error
    with client, tqdm(desc="ESC-50", unit="B", unit_scale=True, unit_divisor=1024, leave=False) as bar:
        while True:
            try:
                _request_missing(client, archive, bar)
                break
            except (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects, httpx2.InvalidURL) as error:
                raise DatasetError(f"{archive.url} cannot be fetched: {error}") from error
            except (httpx2.TransportError, _RetryableError) as error:
                # Progress is measured against the furthest position so far: a server that always cuts the connection at
                # the same byte counts as a failure.
                failures = 0 if archive.received > furthest else failures + 1
                furthest = max(furthest, archive.received)
                reason = str(error) or type(error).__name__
                if failures >= MAX_ATTEMPTS:
                    kept = (
                        f"; the {archive.received:,} bytes received so far are kept for the next attempt"
                        if archive.received
                        else ""
                    )
                    raise DatasetError(f"{archive.url} cannot be fetched: {reason}{kept}") from error
                bar.set_postfix_str(reason)
                time.sleep(BACKOFF_SECONDS * 2 ** max(failures - 1, 0))
    os.replace(archive.partial, archive.path)


def _request_missing(client: httpx2.Client, archive: _Archive, bar: tqdm) -> None:
    """Request the missing bytes (RFC 9110, section 14)."""
    received = archive.received
    headers = {"Range": f"bytes={received}-"} if received else {}
    if received and archive.etag:
        headers["If-Range"] = archive.etag  # the server sends the whole file if it has changed
    with client.stream("GET", archive.url, headers=headers) as response:
        status, content_range = response.status_code, response.headers.get("Content-Range", "")
        if status == 416 and content_range == f"bytes */{received}":
            return  # the file was complete; only the end of the response was missing
        if status == 416 or (status == 206 and not content_range.startswith(f"bytes {received}-")):
            archive.delete()
            raise _RetryableError(
                f"{received:,} bytes are here, but the server continues with {content_range or 'no Content-Range'}"
            )
        if status == 429 or status >= 500:
            raise _RetryableError(f"HTTP {status} {response.reason_phrase}".strip())
        if status not in (200, 206):
            raise DatasetError(f"{archive.url} cannot be fetched: HTTP {status} {response.reason_phrase}".strip())
        if status == 200:
            received = 0
            archive.restart(response.headers.get("ETag", ""))
        length = response.headers.get("Content-Length")
        bar.total = received + int(length) if length else None  # GitHub sends no Content-Length
        bar.n = received
        bar.set_postfix_str("")
        with archive.partial.open("ab") as file:
            for chunk in response.iter_raw():
                received += len(chunk)
                if received > MAX_ARCHIVE_BYTES:
                    archive.delete()
                    raise DatasetError(f"{archive.url} sends more than {MAX_ARCHIVE_BYTES:,} bytes: this is not ESC-50")
                file.write(chunk)
                bar.update(len(chunk))


def _verify_checksum(archive: _Archive, sha256: str | None) -> None:
    if sha256 is None:
        return
    with archive.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise DatasetError(f"its SHA-256 is {found}, not {sha256.lower()}")


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the required files of the archive without its top-level folder. Raises DatasetError."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            members = _members(packed)
            for name, info in tqdm(members.items(), desc="unpack", unit="file", leave=False):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                # Reading stops at the declared size and fails if the CRC does not match.
                with packed.open(info) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: invalid seek, archive is damaged
            raise
        with archive.open("rb") as file:
            begins_as_zip = file.read(4) == b"PK\x03\x04"
        if begins_as_zip:
            raise DatasetError(f"the archive is truncated or damaged ({error})") from error
        raise DatasetError("it is not a zip archive") from error


def _members(packed: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Map target path to archive member. One unsafe name rejects the archive, whether that file is required or not."""
    infos = packed.infolist()
    if len(infos) > MAX_FILES:
        raise DatasetError(f"the archive contains {len(infos):,} files; the limit is {MAX_FILES:,}")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            raise DatasetError(f"the archive contains a path outside its folder: {info.filename!r}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DatasetError(f"the archive contains a symbolic link: {info.filename!r}")
        if not (required := _REQUIRED_FILES.fullmatch(info.filename)):
            continue
        if required[1] in members:
            raise DatasetError(f"the archive contains {required[1]} twice")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DatasetError(f"{info.filename} is encrypted or compressed in an unusual way")
        members[required[1]] = info
    size = sum(info.file_size for info in members.values())
    if size > MAX_UNPACKED_BYTES:
        raise DatasetError(f"the archive would unpack to {size:,} bytes; the limit is {MAX_UNPACKED_BYTES:,}")
    return members
