"""A collection: a folder with `items.csv`, one row a sound, and in `audio/` the sounds that were copied or downloaded.

    file     the sound: relative to the folder when it lies inside it, else absolute
    label    its class
    source   the original recording, or the speaker: no source may stand on both sides of a split
    origin   where it was brought from: a path or a link
    sha256   of its bytes

Beside them lies what can be made again: `cache/`, `split/` and `report/`.
"""

import fcntl
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from shared.audio.decode import AudioLimits
from training.data.custom.tables import read_table, write_table
from training.errors import DatasetError

MANIFEST = "items.csv"
# Folders that a custom dataset reserves for itself.
AUDIO_DIR, CACHE_DIR, SPLIT_DIR, REPORT_DIR = "audio", "cache", "split", "report"

IMPORT_LIMITS = AudioLimits(max_seconds=3_600.0)  # an hour: a trainer waits where a service must not


@dataclass(frozen=True)
class ManifestEntry:
    """One row of `items.csv`; the folder joined with `file` is the sound's path, wherever that lies."""

    file: str
    label: str
    source: str
    origin: str
    sha256: str


COLUMNS = tuple(field.name for field in fields(ManifestEntry))


def read_manifest(root: Path, *, missing_ok: bool = False) -> list[ManifestEntry]:
    """The sounds of the collection in the table's order; all are there unless `missing_ok`. Raises DatasetError."""
    table = root / MANIFEST
    if not table.is_file():
        raise DatasetError(f"{root} is not a collection: {table} is missing; `otoscope data import` makes one")
    entries: list[ManifestEntry] = []
    lines: dict[str, int] = {}
    for line, row in read_table(table, COLUMNS):
        entry = ManifestEntry(**{name: row[name] for name in COLUMNS})
        if (first := lines.setdefault(entry.file, line)) != line:
            raise DatasetError(f"{table}, line {line}: {entry.file} stands in line {first}, too")
        if not missing_ok and not (root / entry.file).is_file():
            raise DatasetError(
                f"{table}, line {line}: {root / entry.file} is not there;"
                " put it back, import it from where it is now, or take the line out"
            )
        entries.append(entry)
    if not entries and not missing_ok:
        raise DatasetError(f"{table} lists no sounds")
    return entries


def write_manifest(root: Path, entries: Iterable[ManifestEntry]) -> None:
    """Raises DatasetError."""
    write_table(root / MANIFEST, COLUMNS, map(astuple, entries))


def manifest_digest(root: Path) -> str:
    """SHA-256 of `items.csv`: what was made from another table is stale. Raises DatasetError."""
    try:
        return hashlib.sha256((root / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise DatasetError(f"{root / MANIFEST} cannot be read: {error}") from error


@contextmanager
def lock_dataset(root: Path) -> Iterator[None]:
    """Hold the collection against a second change; the kernel lets go of it however this process ends."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("a")
    except OSError as error:
        raise DatasetError(f"{root} cannot be written: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(f"another process is changing {root}; wait for it") from error
        yield
