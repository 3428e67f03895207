"""Takes sounds into a collection, whichever way they come.

The same bytes are kept once under one label, and are an error under two. What is there stays; a sound that was moved
or changed replaces its old row; a source that is now given otherwise replaces the old one.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from otoscope.errors import AudioError
from shared.audio.decode import accepted_formats, probe
from training.data.custom.manifest import (
    AUDIO,
    CACHE,
    LIMITS,
    REPORT,
    SPLIT,
    TABLE,
    Item,
    alone,
    read_items,
    write_items,
)
from training.errors import DatasetError

SUFFIXES = {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".m4a"}
LARGEST = 1 << 30  # bytes of one file; an hour of stereo at 48 kHz and 24 bits is just below it


@dataclass
class Brought:
    """What an import did."""

    added: int = 0
    known: int = 0  # from an earlier import
    twice: list[str] = field(default_factory=list)  # the same sound again, as sentences
    skipped: list[str] = field(default_factory=list)  # and why, as sentences


class Intake:
    """A collection that is being added to; nothing is listed until `save`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.brought = Brought()
        items = read_items(root, missing_ok=True)
        self._items = {item.file: item for item in items}

        # What has been lost is forgotten as soon as the same sound turns up elsewhere, or under another label.
        there = [item for item in items if (root / item.file).is_file()]
        self._by_origin = {item.origin: item for item in there}
        self._by_digest = {item.sha256: item for item in there}
        self._lost = {item.sha256: item for item in items if item.sha256 not in self._by_digest}

    def has(self, label: str, source: str, origin: str) -> bool:
        """Whether the sound came from there before, so that it need not be fetched again. Raises DatasetError."""
        if (item := self._by_origin.get(origin)) is None:
            return False
        self._again(item, label, source, origin)
        return True

    def take(
        self, data: bytes, *, label: str, source: str, origin: str, name: str = "", path: Path | None = None
    ) -> None:
        """A sound that stays where it is, at `path`, or that is to be kept here, called after `name`.

        Raises DatasetError when it is there under another label, or cannot be kept.
        """
        label = clean_label(label)
        try:
            probe(data, LIMITS)
        except AudioError as error:
            self.skip(origin, str(error))
            return
        digest = hashlib.sha256(data).hexdigest()
        if twin := self._by_digest.get(digest):
            self._again(twin, label, source, origin)
            return
        if lost := self._lost.pop(digest, None):
            del self._items[lost.file]
        file = _name_in(self.root, path) if path else self._store(data, digest, label, name)
        self._put(Item(file, label, source, origin, digest))
        self.brought.added += 1

    def skip(self, what: object, why: str) -> None:
        self.brought.skipped.append(f"{what}: {why}")

    def save(self) -> None:
        """List what was taken so far. Raises DatasetError."""
        write_items(self.root, self._items.values())

    def finish(self, src: object) -> Brought:
        """Save, unless there is nothing at all. Raises DatasetError."""
        if not self._items:
            first = f"; first: {self.brought.skipped[0]}" if self.brought.skipped else ""
            raise DatasetError(f"{src} has no sound that can be used{first}")
        self.save()
        return self.brought

    def _again(self, item: Item, label: str, source: str, origin: str) -> None:
        label = clean_label(label)
        if item.label != label:
            raise DatasetError(
                f"the same sound under two labels: {origin} as {label!r}, {item.origin} as {item.label!r};"
                f" keep one of them, or correct {self.root / TABLE}"
            )
        if item.origin != origin:
            self.brought.twice.append(f"{origin} is the same sound as {item.origin}")
            return
        self.brought.known += 1
        if item.source != source:
            self._put(replace(item, source=source))

    def _put(self, item: Item) -> None:
        old = self._items.get(item.file)
        if old and old.sha256 != item.sha256:
            self._by_digest.pop(old.sha256, None)
        self._items[item.file] = self._by_origin[item.origin] = self._by_digest[item.sha256] = item

    def _store(self, data: bytes, digest: str, label: str, name: str) -> str:
        """Keep the bytes below `audio/`. The digest in the name makes it one file however often it is brought."""
        folder = self.root / AUDIO / _plain(label)
        target = folder / f"{_plain(PurePath(name).stem)}-{digest[:8]}{PurePath(name).suffix.lower()}"
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
            raise DatasetError(f"{target} cannot be written: {error}") from error
        return str(target.relative_to(self.root))


@contextmanager
def opened(root: Path) -> Iterator[Intake]:
    """The collection, made if there is none, held against other changes. Raises DatasetError."""
    if not (root / TABLE).is_file():
        for name in (AUDIO, CACHE, SPLIT, REPORT):
            if (root / name).exists():
                raise DatasetError(f"{root / name} is in the way: a collection keeps a folder of that name")
    with alone(root):
        if not (root / TABLE).is_file():
            write_items(root, ())  # from now on it is a collection, wherever this is interrupted
        yield Intake(root)


def clean_label(label: str) -> str:
    """Without blanks around it, and with accents composed: some file systems take them apart."""
    return unicodedata.normalize("NFC", label.strip())


def unusable(name: str) -> str | None:
    """Why a file of that name is not even opened; None if it may be a sound."""
    if PurePath(name).suffix.lower() not in SUFFIXES:
        return f"not a sound by its name; accepted: {accepted_formats()}"
    return None


def _name_in(root: Path, path: Path) -> str:
    here, there = Path(os.path.abspath(root)), Path(os.path.abspath(path))  # links in them are left as they are
    return str(there.relative_to(here) if there.is_relative_to(here) else there)


def _plain(name: str) -> str:
    """Fit for one part of a path; 60 characters stay below the 255 bytes that file systems take."""
    return re.sub(r"[\x00-\x1f/\\]", "_", name)[:60].strip(". ") or "_"
