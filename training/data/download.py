"""Fetches ESC-50 from where its author publishes it, into a cache folder that is filled once.

A download that breaks off is gone on with. The folder appears under its name only when the archive was unpacked whole
and the table in it is the official one. GitHub packs the archive anew on request and promises no equal bytes, so that
it is known by its content and not by a checksum. Whatever fails raises DatasetError.
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

MAX_ATTEMPTS = 5  # in a row that bring nothing new
BACKOFF_SECONDS = 1.0  # seconds after the first of them, doubled after each
MAX_ARCHIVE_BYTES = 2 << 30  # bytes; the real one has 0.6 GiB
MAX_UNPACKED_BYTES = 4 << 30  # bytes unpacked; the real one has 0.8 GiB
MAX_FILES = 10_000

_TIMEOUT = httpx2.Timeout(60.0, connect=20.0)  # for one read, not for the whole
_REQUIRED_FILES = re.compile(r"[^/]+/(meta/esc50\.csv|audio/[^/]+\.wav|LICENSE|README\.md)")


def fetch_esc50(
    cache: Path | None = None, *, url: str = ESC50_URL, sha256: str | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:  # fmt: skip
    """The folder of ESC-50 for `load_esc50`, from `cache` or, the first time, from `url`. Raises DatasetError.

    `cache` is `default_cache()` unless given. `sha256` pins the archive, for a `url` whose archive stays the same.
    `check` raises DatasetError for a folder that is not what was wanted; unless given it is `check_esc50`.
    """
    cache, check = cache or default_cache(), check or check_esc50
    folder, unpacked, archive = cache / "ESC-50", cache / "ESC-50.partial", _Archive(cache / "ESC-50.zip", url)
    try:
        if _already_fetched(folder, check):
            return folder
        with _lock_cache(cache):
            if _already_fetched(folder, check):  # by somebody else, in between
                return folder
            if not archive.complete:
                _download(archive)
            try:
                _verify_checksum(archive, sha256)
                _unpack(archive.path, unpacked)
                check(unpacked)
                os.replace(unpacked, folder)
            except DatasetError as error:
                archive.delete()  # another attempt with the same bytes would end the same way
                raise DatasetError(f"what {url} sent cannot be used: {error}") from error
            finally:
                shutil.rmtree(unpacked, ignore_errors=True)
            archive.delete()
    except OSError as error:  # a full disk, a folder that must not be written
        raise DatasetError(f"ESC-50 cannot be kept in {cache}: {error}") from error
    return folder


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/otoscope` or `~/.cache/otoscope`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "otoscope"


def check_esc50(root: Path) -> None:
    """Raises DatasetError unless `root` holds the official table and every one of its 2,000 clips."""
    dataset = load_esc50(root)
    if dataset.info != ESC50:
        raise DatasetError(f"{root / 'meta' / 'esc50.csv'} is not the official table of ESC-50")
    if empty := [clip.path for clip in dataset.clips if not clip.path.stat().st_size]:
        raise DatasetError(f"{empty[0]} is empty")  # what a power failure may make of a file just written


@dataclass(frozen=True)
class _Archive:
    """The archive in the cache: `.partial` until it is whole, and beside it where it comes from."""

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
        """Whether an earlier call brought all of it, and then could not unpack it."""
        return self.path.is_file() and self._read_source()[0] == self.url

    @property
    def received(self) -> int:
        """Bytes to go on from; none of what came from another address."""
        return self.partial.stat().st_size if self.partial.is_file() and self._read_source()[0] == self.url else 0

    @property
    def etag(self) -> str:
        """Of what the partial file is the beginning of; empty if the server did not say so in a form to rely on."""
        return self._read_source()[1]

    def restart(self, etag: str) -> None:
        """Start from nothing."""
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
    """This attempt failed; the next may not."""


def _already_fetched(folder: Path, check: Callable[[Path], None]) -> bool:
    """Whether the folder has been fetched. One that is not whole is not of our making, and is not overwritten."""
    if not folder.exists():
        return False
    try:
        check(folder)
    except DatasetError as error:
        raise DatasetError(f"{error}; remove {folder} to have it fetched again") from error
    return True


@contextmanager
def _lock_cache(cache: Path) -> Iterator[None]:
    """Hold the cache against a second download; the kernel lets go of it however this process ends."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "ESC-50.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(f"another process is fetching ESC-50 into {cache}; wait for it") from error
        yield


def _download(archive: _Archive) -> None:
    """Bring the archive, in as many attempts as it takes while each brings something. Raises DatasetError."""
    furthest, failures = archive.received, 0
    try:
        client = httpx2.Client(follow_redirects=True, timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"})
    except (ImportError, OSError, ValueError, httpx2.InvalidURL) as error:  # environment variables that do not fit
        raise DatasetError(f"{archive.url} cannot be fetched: {error}") from error
    with client, tqdm(desc="ESC-50", unit="B", unit_scale=True, unit_divisor=1024, leave=False) as bar:
        while True:
            try:
                _request_missing(client, archive, bar)
                break
            except (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects, httpx2.InvalidURL) as error:
                raise DatasetError(f"{archive.url} cannot be fetched: {error}") from error
            except (httpx2.TransportError, _RetryableError) as error:
                # Counted from the most that there ever was: a server that always cuts at the same byte is given up.
                failures = 0 if archive.received > furthest else failures + 1
                furthest = max(furthest, archive.received)
                reason = str(error) or type(error).__name__
                if failures >= MAX_ATTEMPTS:
                    kept = (
                        f"; the {archive.received:,} bytes that came are kept for the next time"
                        if archive.received
                        else ""
                    )
                    raise DatasetError(f"{archive.url} cannot be fetched: {reason}{kept}") from error
                bar.set_postfix_str(reason)
                time.sleep(BACKOFF_SECONDS * 2 ** max(failures - 1, 0))
    os.replace(archive.partial, archive.path)


def _request_missing(client: httpx2.Client, archive: _Archive, bar: tqdm) -> None:
    """One request for what is missing."""
    received = archive.received
    headers = {"Range": f"bytes={received}-"} if received else {}
    if received and archive.etag:
        headers["If-Range"] = archive.etag  # all of it again, should it have changed
    with client.stream("GET", archive.url, headers=headers) as response:
        status, content_range = response.status_code, response.headers.get("Content-Range", "")
        if status == 416 and content_range == f"bytes */{received}":
            return  # there was nothing missing but the end of the connection
        if status == 416 or (status == 206 and not content_range.startswith(f"bytes {received}-")):
            archive.delete()
            raise _RetryableError(
                f"{received:,} bytes were there, but the server continues with {content_range or 'nothing'}"
            )
        if status == 429 or status >= 500:
            raise _RetryableError(f"HTTP {status} {response.reason_phrase}".strip())
        if status not in (200, 206):
            raise DatasetError(f"{archive.url} cannot be fetched: HTTP {status} {response.reason_phrase}".strip())
        if status == 200:
            received = 0
            archive.restart(response.headers.get("ETag", ""))
        length = response.headers.get("Content-Length")
        bar.total = received + int(length) if length else None  # GitHub says no length
        bar.n = received
        bar.set_postfix_str("")
        with archive.partial.open("ab") as file:
            for chunk in response.iter_raw():
                received += len(chunk)
                if received > MAX_ARCHIVE_BYTES:
                    archive.delete()
                    raise DatasetError(f"{archive.url} sends more than {MAX_ARCHIVE_BYTES:,} bytes: that is not ESC-50")
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
    """Unpack what is wanted of the archive, without its uppermost folder. Raises DatasetError."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            members = _members(packed)
            for name, info in tqdm(members.items(), desc="unpack", unit="file", leave=False):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                # Reading ends at the size that was declared, and fails if the checksum is another.
                with packed.open(info) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that one is a position that cannot be
            raise
        with archive.open("rb") as file:
            begins_as_zip = file.read(4) == b"PK\x03\x04"
        if begins_as_zip:
            raise DatasetError(f"the archive is cut off or damaged ({error})") from error
        raise DatasetError("it is not a zip archive") from error


def _members(packed: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Path below the folder to be -> member. One bad name condemns the archive, wanted or not."""
    infos = packed.infolist()
    if len(infos) > MAX_FILES:
        raise DatasetError(f"the archive holds {len(infos):,} files; at most {MAX_FILES:,} are unpacked")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            raise DatasetError(f"the archive holds a file that would leave its folder: {info.filename!r}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DatasetError(f"the archive holds a link: {info.filename!r}")
        if not (wanted := _REQUIRED_FILES.fullmatch(info.filename)):
            continue
        if wanted[1] in members:
            raise DatasetError(f"the archive holds {wanted[1]} twice")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DatasetError(f"{info.filename} is encrypted or compressed in an unusual way")
        members[wanted[1]] = info
    size = sum(info.file_size for info in members.values())
    if size > MAX_UNPACKED_BYTES:
        raise DatasetError(f"the archive would unpack to {size:,} bytes; at most {MAX_UNPACKED_BYTES:,} are unpacked")
    return members
