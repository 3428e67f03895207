"""Downloads ESC-50 from its author's repository into a cache folder, once.

An interrupted download is resumed. The data set folder gets its final name only after the archive has been unpacked
completely and its table has been verified. GitHub generates the archive on request and does not guarantee identical
bytes, so the content is verified instead of a checksum of the archive. Every failure raises DatasetError.
"""

import errno
import fcntl
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from training.data.esc50 import ESC50, load_esc50
from training.download import Download, default_cache
from training.errors import DatasetError, DownloadError, cause
from training.progress import progress_bar

ESC50_URL = "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip"

MAX_ARCHIVE_BYTES = 2 << 30  # bytes; the archive of ESC-50 has 0.6 GiB
MAX_UNPACKED_BYTES = 4 << 30  # bytes unpacked; ESC-50 has 0.8 GiB
MAX_FILES = 10_000

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
    folder, unpacked = cache / "ESC-50", cache / "ESC-50.partial"
    archive = Download(cache / "ESC-50.zip", url, MAX_ARCHIVE_BYTES)
    try:
        if _already_fetched(folder, check):
            return folder
        with _lock_cache(cache):
            if _already_fetched(folder, check):  # fetched by another process while this one waited
                return folder
            archive.fetch()
            try:
                archive.verify(sha256)
                _unpack(archive.path, unpacked)
                check(unpacked)
                os.replace(unpacked, folder)
            except (DatasetError, DownloadError) as error:
                archive.delete()  # retrying with the same bytes would fail again
                raise DatasetError(f"the archive from {url} cannot be used: {error}") from error
            finally:
                shutil.rmtree(unpacked, ignore_errors=True)
            archive.delete()
    except DownloadError as error:
        raise DatasetError(str(error)) from error
    except OSError as error:  # full disk, no write permission
        raise DatasetError(f"ESC-50 cannot be stored in {cache}: {cause(error)}") from error
    return folder


def check_esc50(root: Path) -> None:
    """Raise DatasetError unless `root` holds the official table and all of its 2,000 clips."""
    dataset = load_esc50(root)
    if dataset.info != ESC50:
        raise DatasetError(f"{root / 'meta' / 'esc50.csv'} is not the official table of ESC-50")
    if empty := [clip.path for clip in dataset.clips if not clip.path.stat().st_size]:
        raise DatasetError(f"{empty[0]} is empty")  # a power failure can leave an empty file


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


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the required files of the archive without its top-level folder. Raises DatasetError."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            members = _members(packed)
            for name, info in progress_bar(members.items(), desc="unpack", unit="file"):
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
