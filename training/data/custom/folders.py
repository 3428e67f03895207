"""Imports sounds into a custom data set from a folder or ZIP archive whose folders are the classes.

Class folders may be inside `train`, `val` and `test`, which then are the split. A `metadata.csv` or `metadata.jsonl`
with labels, as in Hugging Face's `audiofolder`, or the table of ESC-50 has priority over the names of folders, and so
have annotation files beside the recordings (`annotations`): then their events are cut out.
"""

import json
import os
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence, Set
from functools import partial
from pathlib import Path

from training.data.custom.annotations import events_beside
from training.data.custom.importers import (
    SoundFile,
    import_events,
    import_file,
    local_file,
    source_pattern,
    table_rows,
)
from training.data.custom.ingest import ImportResult, open_for_import, rejection_reason
from training.data.custom.labels import normalise_label
from training.data.custom.manifest import AUDIO_DIR, CACHE_DIR, REPORT_DIR, SPLIT_DIR
from training.data.custom.split import Subset, write_given_split
from training.data.custom.tables import decode_table
from training.errors import DatasetError, cause
from training.progress import progress_bar

METADATA = ("metadata.csv", "metadata.jsonl")
"""The tables of Hugging Face's `audiofolder`: columns file_name, relative to the table, and label."""

_ESC50 = ("meta", "esc50.csv")
"""The table of data sets in the layout of ESC-50: columns filename, in the folder `audio`, category and src_file."""

_Members = list[tuple[tuple[str, ...], zipfile.ZipInfo]]
"""Of an archive, with the parts of their paths."""


def import_folder(src: Path, root: Path, *, group: str | None = None, copy: bool = False) -> ImportResult:
    """Import the class folders of `src`, each with everything below it, or the sounds that its `metadata.csv` or
    `metadata.jsonl` lists. Raises DatasetError."""
    pattern = source_pattern(group)
    if not src.exists():
        raise DatasetError(f"{src} does not exist")
    if not src.is_dir():
        raise DatasetError(f"{src} is not a folder, and no .zip, .csv or .txt")
    if src.resolve() in root.resolve().parents:
        raise DatasetError(
            f"{root} is inside {src}, and would be imported as one of its classes; accepted: {src} itself, or a folder"
            " outside of it"
        )
    own = {AUDIO_DIR, CACHE_DIR, SPLIT_DIR, REPORT_DIR} if src.resolve() == root.resolve() else set()
    try:
        files = [local_file(path, src, copy) for path in walk_files(src, own)]
        folders = {
            path.relative_to(src).parts
            for path in [
                *src.iterdir(),
                *(inner for folder in src.iterdir() if folder.is_dir() for inner in folder.iterdir()),
            ]
            if path.is_dir() and not any(part.startswith(".") for part in path.relative_to(src).parts)
        }
    except OSError as error:
        raise DatasetError(f"{src} cannot be read: {cause(error)}") from error
    return import_files(src, files, {one for one in folders if one[0] not in own}, root, pattern)


def import_zip(src: Path, root: Path, *, group: str | None = None) -> ImportResult:
    """Import a ZIP archive of class folders, or of sounds with a `metadata.csv` or `metadata.jsonl`; the sounds are
    copied. Folders around everything are ignored. Raises DatasetError."""
    pattern = source_pattern(group)
    try:
        with zipfile.ZipFile(src) as archive:
            members = [(_member_parts(one.filename), one) for one in archive.infolist() if not one.is_dir()]
            members = [(parts, one) for parts, one in members if parts and not any(map(_is_hidden, parts))]
            members = _unwrapped(members)
            place = os.path.abspath(src)
            files = [
                SoundFile(parts, f"{place}/{one.filename}", one.file_size, partial(_read_member, archive, one), None)
                for parts, one in sorted(members, key=lambda member: member[0])
            ]
            folders = {file.parts[:depth] for file in files for depth in (1, 2) if len(file.parts) > depth}
            return import_files(src, files, folders, root, pattern)
    except (OSError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{src} cannot be read: {cause(error)}") from error


def _unwrapped(members: _Members) -> _Members:
    """The members without the folders around everything: such a folder has all sounds, in class folders or beside a
    metadata table."""
    while True:
        sounds = [parts for parts, _ in members if not rejection_reason(parts[-1])]
        tables = {parts[:-1] for parts, _ in members if parts[-1].lower() in METADATA}
        outer = {parts[:1] for parts in sounds}
        if len(outer) != 1 or () in tables or not (outer <= tables or min(map(len, sounds)) > 2):
            return members
        members = [(parts[1:], one) for parts, one in members if parts[:1] in outer]


def import_files(
    src: Path, files: Sequence[SoundFile], folders: Set[tuple[str, ...]], root: Path, pattern: re.Pattern[str] | None
) -> ImportResult:
    """Import files by the folders in which they are, or by the metadata tables among them. `folders` are the paths of
    the folders of the first two levels."""
    top = sorted(folder[0] for folder in folders if len(folder) == 1)
    subsets = given_subsets(top)
    depth = 1 if subsets else 0  # of the class folders
    labels = _metadata(src, files, depth)
    sounds = [file.parts for file in files if not rejection_reason(file.parts[-1])]
    events = {} if labels else events_beside(sounds, {file.parts: file.read for file in files})
    if not top and not labels and not events:
        raise DatasetError(f"{src} has no sub-folders; each class needs one, named after the class")
    with open_for_import(root) as writer:
        filled = {file.parts[: depth + 1] for file in files if len(file.parts) > depth + 1}
        for empty in sorted(folder for folder in folders if len(folder) == depth + 1):
            if not labels and not events and empty not in filled:
                writer.skip("/".join((str(src), *empty)), "a class folder without sounds")
        for file in progress_bar(files, desc="import", unit="file"):
            if events:
                if (own := events.get(file.parts)) is not None:
                    import_events(writer, file, own, pattern)
                elif not rejection_reason(file.parts[-1]):
                    writer.skip(file.shown, "has no annotation file beside it")
                continue
            listed = labels.get(_composed(file.parts))
            if listed is None and (labels or len(file.parts) <= depth + 1):
                if not rejection_reason(file.parts[-1]):
                    writer.skip(file.shown, "is in no metadata table" if labels else "is not in a class folder")
                continue
            label, source = listed or (file.parts[depth], "")
            import_file(writer, file, label, pattern, source)
        for parts in sorted(set(labels) - {_composed(file.parts) for file in files}):
            writer.skip("/".join((str(src), *parts)), "is listed in a metadata table, and does not exist")
        result = writer.finish(src)
    if subsets:
        result.split = write_given_split(
            root, {file.shown: subsets[file.parts[0]] for file in files if file.parts[0] in subsets}
        )
    return result


def _metadata(src: Path, files: Sequence[SoundFile], depth: int) -> dict[tuple[str, ...], tuple[str, str]]:
    """Label and source (empty if absent) of every file that a metadata table lists; nothing without a table that has
    labels: then folders are classes. Raises DatasetError."""
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    for table in files:
        if table.parts != _ESC50 and (table.parts[-1].lower() not in METADATA or len(table.parts) > depth + 1):
            continue
        folder = ("audio",) if table.parts == _ESC50 else table.parts[:-1]
        name = "/".join((str(src), *table.parts))
        try:
            text = decode_table(name, table.read())
        except OSError as error:
            raise DatasetError(f"{name} cannot be read: {cause(error)}") from error
        rows = _json_rows(name, text) if name.lower().endswith(".jsonl") else table_rows(name, text, header=True)
        for _, file, label, source in rows:
            found[_composed((*folder, *_member_parts(file)))] = (label, source)
    return found


def _json_rows(name: str, text: str) -> list[tuple[int, str, str, str]]:
    """Line number, file, label and source of every line of a metadata.jsonl; none if the lines have no label. Raises
    DatasetError."""
    rows: list[tuple[int, str, str, str]] = []
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
            if "label" in row:
                label = "" if row["label"] is None else row["label"]
                label = normalise_label(json.dumps(label) if isinstance(label, list) else str(label))
                if not label:
                    raise DatasetError(f"{name}, line {line}: no label")
                rows.append((line, str(row["file_name"]), label, str(row.get("source") or "")))
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(f"{name}, line {line}: not an object with file_name and label ({error})") from error
    return rows


def _member_parts(name: str) -> tuple[str, ...]:
    """The parts of a path with slashes or backslashes, without `.`; empty if it leaves the archive."""
    parts = tuple(part for part in re.split(r"[/\\]", name) if part not in ("", "."))
    return () if ".." in parts else parts


def _composed(parts: tuple[str, ...]) -> tuple[str, ...]:
    """With composed accents (Unicode NFC): some file systems store them decomposed."""
    return tuple(unicodedata.normalize("NFC", part) for part in parts)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Raises OSError for a damaged or encrypted member."""
    try:
        return archive.read(member)
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise OSError(str(error)) from error


_SUBSET_FOLDERS: dict[str, Subset] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip


def given_subsets(folders: Sequence[str]) -> dict[str, Subset]:
    """The subset of each folder if they are the parts of a split, such as `train`, `val` and `test`, and not classes;
    otherwise nothing. Without a test folder, the one for validation is the test set."""
    found = {name: _SUBSET_FOLDERS[name.lower()] for name in folders if name.lower() in _SUBSET_FOLDERS}
    if len(found) < len(folders) or "train" not in found.values() or len(set(found.values())) < 2:
        return {}
    if "test" not in found.values():
        found = {name: "test" if subset == "val" else subset for name, subset in found.items()}
    return found


def walk_files(root: Path, excluded: Set[str] = frozenset()) -> Iterator[Path]:
    """All files below a folder at any depth, links to folders included, without hidden files and folders, and without
    its sub-folders of these names. Raises OSError."""

    def fail(error: OSError) -> None:
        raise error

    seen: set[str] = set()  # protects from cycles of symbolic links
    for name, below, files in os.walk(root, onerror=fail, followlinks=True):
        real = os.path.realpath(name)
        wanted = sorted(inner for inner in below if not inner.startswith("."))
        if Path(name) == root:
            wanted = [inner for inner in wanted if inner not in excluded]
        below[:] = wanted if real not in seen else []
        if real not in seen:
            yield from (Path(name, file) for file in sorted(files) if not file.startswith("."))
        seen.add(real)
