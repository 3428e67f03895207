"""Imports a public Google Drive folder whose sub-folders are the classes, through gdown."""

import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from training.data.custom.importers import find_source, source_pattern
from training.data.custom.ingest import MAX_FILE_BYTES, ImportResult, open_for_import, rejection_reason
from training.data.custom.web import INSTALL, DownloadFailed
from training.errors import DatasetError
from training.progress import progress_bar

_FOLDER = re.compile(r"https://drive\.google\.com/(drive/)?(u/\d+/)?(mobile/)?(folders/|embeddedfolderview\?id=)[-\w]+")
_TIMEOUT = 60.0  # seconds without any byte


def is_drive_folder(text: str) -> bool:
    return _FOLDER.match(text) is not None


def import_drive(link: str, root: Path, *, group: str | None = None) -> ImportResult:
    """Download the class folders into the data set; files from an earlier import are not downloaded again.

    Raises DatasetError.
    """
    pattern = source_pattern(group)
    try:
        import gdown
    except ImportError as error:
        raise DatasetError(f"Google Drive needs gdown: {INSTALL} ({error})") from error
    try:
        files: Any = gdown.download_folder(
            url=link, quiet=True, use_cookies=False, skip_download=True, timeout=_TIMEOUT
        )
    except (gdown.DownloadError, OSError, ValueError) as error:
        raise DatasetError(f"{link} cannot be listed: {_one_line(error)}") from error
    with open_for_import(root) as writer:
        for file in progress_bar(files, desc="download", unit="file"):
            path = PurePosixPath(file.path)
            origin = f"https://drive.google.com/uc?id={file.id}"
            source = find_source(path.name, pattern) if pattern else origin
            if reason := "is not in a class folder" if len(path.parts) < 2 else rejection_reason(path.name):
                writer.skip(path, reason)
            elif not source:
                writer.skip(path, "--group does not match its name")
            elif not writer.already_imported(path.parts[0], source, origin):
                try:
                    data = _download(gdown, origin)
                except DownloadFailed as error:
                    writer.skip(path, str(error))
                    continue
                writer.add(data, label=path.parts[0], source=source, origin=origin, name=path.name)
                writer.save()
        return writer.finish(link)


def _download(gdown: Any, origin: str) -> bytes:
    """Raises LinkFailed."""

    def enforce_size_limit(done: int, total: int | None) -> None:
        if max(done, total or 0) > MAX_FILE_BYTES:
            raise DownloadFailed(f"larger than {MAX_FILE_BYTES:,} bytes")

    with tempfile.TemporaryDirectory(prefix="otoscope-") as folder:
        target = Path(folder) / "sound"
        try:
            gdown.download(
                url=origin, output=str(target), quiet=True, use_cookies=False, timeout=_TIMEOUT, retries=2,
                progress=enforce_size_limit,
            )  # fmt: skip
            return target.read_bytes()
        except (gdown.DownloadError, OSError, ValueError) as error:
            raise DownloadFailed(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
