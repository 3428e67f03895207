"""Sounds from a public Google Drive folder, whose sub-folders are the classes, through gdown."""

import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from training.data.custom.importers import source_of, source_pattern
from training.data.custom.ingest import LARGEST, Brought, opened, unusable
from training.data.custom.web import INSTALL, LinkFailed
from training.errors import DatasetError

_FOLDER = re.compile(r"https://drive\.google\.com/(drive/)?(u/\d+/)?(mobile/)?(folders/|embeddedfolderview\?id=)[-\w]+")
_TIMEOUT = 60.0  # seconds between bytes


def is_drive_folder(text: str) -> bool:
    return _FOLDER.match(text) is not None


def import_drive(link: str, root: Path, *, group: str | None = None) -> Brought:
    """Download the class folders into the collection; what is there already is not downloaded again.

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
        raise DatasetError(f"{link} cannot be listed: {_sentence(error)}") from error
    with opened(root) as intake:
        for file in tqdm(files, desc="download", unit="file", leave=False):
            path = PurePosixPath(file.path)
            origin = f"https://drive.google.com/uc?id={file.id}"
            source = source_of(path.name, pattern) if pattern else origin
            if reason := "lies in no class folder" if len(path.parts) < 2 else unusable(path.name):
                intake.skip(path, reason)
            elif not source:
                intake.skip(path, "--group finds no source in its name")
            elif not intake.has(path.parts[0], source, origin):
                try:
                    data = _download(gdown, origin)
                except LinkFailed as error:
                    intake.skip(path, str(error))
                    continue
                intake.take(data, label=path.parts[0], source=source, origin=origin, name=path.name)
                intake.save()
        return intake.finish(link)


def _download(gdown: Any, origin: str) -> bytes:
    """Raises LinkFailed."""

    def stop_if_large(done: int, total: int | None) -> None:
        if max(done, total or 0) > LARGEST:
            raise LinkFailed(f"larger than {LARGEST:,} bytes")

    with tempfile.TemporaryDirectory(prefix="otoscope-") as folder:
        target = Path(folder) / "sound"
        try:
            gdown.download(
                url=origin, output=str(target), quiet=True, use_cookies=False, timeout=_TIMEOUT, retries=2,
                progress=stop_if_large,
            )  # fmt: skip
            return target.read_bytes()
        except (gdown.DownloadError, OSError, ValueError) as error:
            raise LinkFailed(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())
