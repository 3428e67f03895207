"""The manifest of a custom data set, `items.csv`: one row per sound.

    file     path of the sound: relative to the data set folder if inside it, else absolute
    label    class, or several, separated by semicolons, of a multi-label data set
    source   the original recording, or the speaker; a split never separates the sounds of one source
    origin   path or link from which the sound was imported
    sha256   of the bytes of the file

`audio/` holds sounds that were copied or downloaded. `cache/`, `split/` and `report/` can be generated again.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from shared.audio.limits import AudioLimits
from training.data.custom.labels import split_label
from training.data.custom.tables import read_table, write_table
from training.errors import DatasetError, cause

MANIFEST = "items.csv"
# Folders reserved inside a custom data set.
AUDIO_DIR, CACHE_DIR, SPLIT_DIR, REPORT_DIR = "audio", "cache", "split", "report"

IMPORT_LIMITS = AudioLimits(max_seconds=86_400.0)  # a day: longer than the service accepts, since no caller waits


@dataclass(frozen=True)
class ManifestEntry:
    """One row of `items.csv`. The path of the sound is the data set folder joined with `file`."""

    file: str
    label: str
    source: str
    origin: str
    sha256: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes: several in a multi-label data set."""
        return split_label(self.label)


MORE_OR_NONE = f"import more recordings, or remove the lines of the class from {MANIFEST}"
"""What can be done about a class with too few sounds, for messages."""

_HOW_TO_CREATE = "`otoscope data import` creates one"

COLUMNS = tuple(field.name for field in fields(ManifestEntry))


def read_manifest(root: Path, *, missing_ok: bool = False) -> list[ManifestEntry]:
    """The entries in the order of the table. All files must exist unless `missing_ok`. Raises DatasetError."""
    table = root / MANIFEST
    if not table.is_file():
        raise DatasetError(f"{root} is not a custom data set: {table} is missing; {_HOW_TO_CREATE}")
    entries: list[ManifestEntry] = []
    lines: dict[str, int] = {}
    for line, row in read_table(table, COLUMNS):
        entry = ManifestEntry(**{name: row[name] for name in COLUMNS})
        if (first := lines.setdefault(entry.file, line)) != line:
            raise DatasetError(f"{table}, line {line}: {entry.file} is also in line {first}")
        if not missing_ok and not (root / entry.file).is_file():
            raise DatasetError(
                f"{table}, line {line}: {root / entry.file} does not exist;"
                " restore it, import it from its new place, or remove the line"
            )
        entries.append(entry)
    if not entries and not missing_ok:
        raise DatasetError(f"{table} lists no sounds")
    return entries


def present_entries(root: Path, entries: Iterable[ManifestEntry]) -> list[ManifestEntry]:
    """Those whose files exist. Raises DatasetError for classes of which no file does."""
    entries = list(entries)
    present = [entry for entry in entries if (root / entry.file).is_file()]
    found = {label for entry in present for label in entry.labels}
    if lost := [entry for entry in entries if not found.issuperset(entry.labels)]:
        classes = sorted({label for entry in lost for label in entry.labels} - found)
        raise DatasetError(
            f"{root / MANIFEST}: all files of {', '.join(map(repr, classes))} are missing, such as"
            f" {root / lost[0].file}; restore them, import them from their new place, or remove their lines"
        )
    return present


def write_manifest(root: Path, entries: Iterable[ManifestEntry]) -> None:
    """Replace the manifest atomically. Raises DatasetError."""
    write_table(root / MANIFEST, COLUMNS, map(astuple, entries))


def manifest_digest(root: Path) -> str:
    """SHA-256 of `items.csv`; derived files of another manifest are stale. Raises DatasetError."""
    try:
        return hashlib.sha256((root / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise DatasetError(f"{root / MANIFEST} cannot be read: {cause(error)}") from error


@contextmanager
def lock_dataset(root: Path) -> Iterator[None]:
    """Lock the folder of a data set against concurrent changes; the kernel releases the lock when the process ends.

    Raises DatasetError, also where there is no folder.
    """
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise DatasetError(f"{root} is not a custom data set: {error.strerror}; {_HOW_TO_CREATE}") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(f"another process is changing {root}; wait for it to finish") from error
        yield
    finally:
        os.close(folder)
