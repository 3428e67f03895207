"""Adds sounds to a custom data set, for all importers.

Identical bytes are stored once. Under two labels they are left out and listed, unless an earlier import has them: then
they keep the label that they have. Existing entries are kept, except that a moved or changed file replaces its old
entry, and a new source replaces the old source.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from otoscope.errors import AudioError, AudioUnsupported, NotAudio
from shared.audio.formats import FORMATS, describe_formats
from shared.audio.probe import probe
from training.data.custom.labels import normalise_label
from training.data.custom.manifest import (
    AUDIO_DIR,
    CACHE_DIR,
    IMPORT_LIMITS,
    MANIFEST,
    REPORT_DIR,
    SPLIT_DIR,
    ManifestEntry,
    lock_dataset,
    read_manifest,
    write_manifest,
)
from training.data.custom.split import SplitInfo
from training.errors import DatasetError, cause

AUDIO_SUFFIXES = {extension for each in FORMATS for extension in each.extensions}
_NO_EXTENSION = "the file name has no audio extension"
MAX_FILE_BYTES = 1 << 32  # bytes per file, the limit of WAV; twelve hours of one channel at 48 kHz and 16 bits


@dataclass
class ImportResult:
    """The outcome of an import."""

    added: int = 0
    unchanged: int = 0  # already imported by an earlier call
    duplicates: list[str] = field(default_factory=list)  # messages about sounds that are in the data set already
    skipped: list[str] = field(default_factory=list)  # messages about skipped files, with the reason
    foreign: bool = False  # whether some of them are of no accepted format
    split: SplitInfo | None = None  # that of the folders, if these were `train`, `val` and `test`
    conflicts: list[str] = field(default_factory=list)  # messages about sounds that are listed under two labels


class DatasetWriter:
    """Adds sounds to a data set; the manifest is written by `save` only."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.result = ImportResult()
        entries = read_manifest(root, missing_ok=True)
        self._entries = {entry.file: entry for entry in entries}

        # An entry whose file is missing is dropped as soon as the same sound is added from another place or under
        # another label.
        present = [entry for entry in entries if (root / entry.file).is_file()]
        self._by_origin = {entry.origin: entry for entry in present}
        self._by_digest = {entry.sha256: entry for entry in present}
        self._earlier = frozenset(self._by_digest)
        self._contradicted: dict[str, ManifestEntry] = {}  # left out, by digest
        self._lost = {entry.sha256: entry for entry in entries if entry.sha256 not in self._by_digest}

    def already_imported(self, label: str, source: str, origin: str) -> bool:
        """Whether a sound of this origin is in the data set, so that it need not be downloaded again.

        Updates its source. Under another label it is a conflict.
        """
        if (entry := self._by_origin.get(origin)) is None:
            return False
        self._update_existing(entry, label, source, origin)
        return True

    def add(
        self, data: bytes, *, label: str, source: str, origin: str, name: str = "", path: Path | None = None
    ) -> None:
        """Add a sound that stays at `path`, or, without `path`, one that is copied into the data set with a name based
        on `name`.

        Raises DatasetError if it cannot be written.
        """
        label = normalise_label(label)
        if not label:
            self.skip(origin, "its class has no name")
            return
        try:
            probe(data, IMPORT_LIMITS, strict=True)
        except AudioError as error:
            self.skip(origin, error)
            return
        digest = hashlib.sha256(data).hexdigest()
        if existing := self._by_digest.get(digest) or self._contradicted.get(digest):
            self._update_existing(existing, label, source, origin)
            return
        if lost := self._lost.pop(digest, None):
            del self._entries[lost.file]
        file = _manifest_path(self.root, path) if path else self._store(data, digest, label, name)
        self._set(ManifestEntry(file, label, source, origin, digest))
        self.result.added += 1

    def skip(self, what: object, why: str | AudioError) -> None:
        """The accepted formats are not listed for each file: `describe_accepted` does it for all."""
        self.result.foreign |= why == _NO_EXTENSION or isinstance(why, NotAudio | AudioUnsupported)
        self.result.skipped.append(f"{what}: {why.found if isinstance(why, AudioError) else why}")

    def save(self) -> None:
        """Write the manifest. Raises DatasetError."""
        write_manifest(self.root, self._entries.values())

    def finish(self, src: object) -> ImportResult:
        """Save and return the result. Raises DatasetError if the data set is empty."""
        if not self._entries:
            reasons = [*self.result.skipped, *(f"two labels: {pair}" for pair in self.result.conflicts)]
            first = f"; first: {reasons[0]}" if reasons else ""
            accepted = f"; {describe_accepted()}" if self.result.foreign else ""
            raise DatasetError(f"{src} has no usable sound{first.removesuffix('.')}{accepted}")
        self.save()
        return self.result

    def _update_existing(self, entry: ManifestEntry, label: str, source: str, origin: str) -> None:
        label = normalise_label(label)
        if entry.label != label:
            kept = entry.sha256 in self._earlier
            self.result.conflicts.append(
                f"{origin} as {label!r}, {entry.origin} as {entry.label!r}"
                f"{f', which it stays: correct {self.root / MANIFEST} otherwise' if kept else ': both are left out'}"
            )
            if not kept and entry.file in self._entries:
                del self._entries[entry.file]
                self._contradicted[entry.sha256] = entry
                self.result.added -= 1
                del self._by_digest[entry.sha256]
                self._by_origin.pop(entry.origin, None)
            return
        if entry.sha256 in self._contradicted:
            return
        if entry.origin != origin:
            self.result.duplicates.append(f"{origin} is the same sound as {entry.origin}")
            return
        self.result.unchanged += 1
        if entry.source != source:
            self._set(replace(entry, source=source))

    def _set(self, entry: ManifestEntry) -> None:
        old = self._entries.get(entry.file)
        if old and old.sha256 != entry.sha256:
            self._by_digest.pop(old.sha256, None)
        self._entries[entry.file] = self._by_origin[entry.origin] = self._by_digest[entry.sha256] = entry

    def _store(self, data: bytes, digest: str, label: str, name: str) -> str:
        """Copy the bytes below `audio/`. The digest in the file name makes repeated imports idempotent."""
        folder = self.root / AUDIO_DIR / _safe_name(label)
        target = folder / f"{_safe_name(PurePath(name).stem)}-{digest[:8]}{PurePath(name).suffix.lower()}"
        partial = target.with_suffix(".partial")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not target.is_file():
                try:
                    partial.write_bytes(data)
                    os.replace(partial, target)
                finally:
                    partial.unlink(missing_ok=True)
        except OSError as error:
            raise DatasetError(f"{target} cannot be written: {cause(error)}") from error
        return str(target.relative_to(self.root))


@contextmanager
def open_for_import(root: Path) -> Iterator[DatasetWriter]:
    """Open the data set for writing, create it if necessary, and lock it. Raises DatasetError."""
    if not (root / MANIFEST).is_file():
        for name in (AUDIO_DIR, CACHE_DIR, SPLIT_DIR, REPORT_DIR):
            if (root / name).exists():
                raise DatasetError(f"{root / name} is in the way: a custom data set reserves a folder of that name")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"{root} cannot be created: {error.strerror}") from error
    with lock_dataset(root):
        if not (root / MANIFEST).is_file():
            write_manifest(root, ())  # marks the folder as a data set, even if the import is interrupted
        yield DatasetWriter(root)


def rejection_reason(name: str) -> str | None:
    """Why a file with this name is not opened at all; None if it may be a sound."""
    return None if PurePath(name).suffix.lower() in AUDIO_SUFFIXES else _NO_EXTENSION


def describe_accepted() -> str:
    """The accepted formats, for a message."""
    return f"accepted: {describe_formats()}"


def _manifest_path(root: Path, path: Path) -> str:
    here, present = Path(os.path.abspath(root)), Path(os.path.abspath(path))  # symbolic links are not resolved
    return str(present.relative_to(here) if present.is_relative_to(here) else present)


def _safe_name(name: str) -> str:
    """A valid file name: 60 characters stay below the limit of 255 bytes of common file systems."""
    return re.sub(r"[\x00-\x1f/\\]", "_", name)[:60].strip(". ") or "_"
