"""Imports sounds into a custom data set, from a folder whose sub-folders are the classes, or from a CSV table.

Class folders may be inside `train`, `val` and `test`, which then are the split.

Files are referenced in place unless `copy` is set. Unusable files are skipped and reported. The source of a sound, that
is the recording or the speaker, is found in its file name by a regular expression with one group. Without a pattern
every file is its own source. A link to a web page is always its own source, since the last part of its path (`watch`)
does not name a recording.
"""

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from training.data.custom.ingest import (
    MAX_FILE_BYTES,
    DatasetWriter,
    ImportResult,
    normalise_label,
    open_for_import,
    rejection_reason,
)
from training.data.custom.manifest import AUDIO_DIR, CACHE_DIR, REPORT_DIR, SPLIT_DIR
from training.data.custom.split import Subset, write_given_split
from training.data.custom.web import DownloadFailed, fetcher, file_name, is_link, is_page
from training.errors import DatasetError


def import_folder(src: Path, root: Path, *, group: str | None = None, copy: bool = False) -> ImportResult:
    """Import the class folders of `src`, each with everything below it. Raises DatasetError."""
    pattern = source_pattern(group)
    if not src.is_dir():
        raise DatasetError(f"{src} is not a folder")
    own = {AUDIO_DIR, CACHE_DIR, SPLIT_DIR, REPORT_DIR} if src.resolve() == root.resolve() else set()
    try:
        inside = sorted(path for path in src.iterdir() if not path.name.startswith(".") and path.name not in own)
        folders = [path for path in inside if path.is_dir()]
        parts = given_subsets([path.name for path in folders])
        if parts:
            inside = sorted(path for folder in folders for path in folder.iterdir() if not path.name.startswith("."))
            folders = [path for path in inside if path.is_dir()]
        found = [(folder, path) for folder in folders for path in _walk_files(folder)]
    except OSError as error:
        raise DatasetError(f"{src} cannot be read: {error}") from error
    if not folders:
        raise DatasetError(f"{src} has no sub-folders; each class needs one, named after the class")
    with open_for_import(root) as writer:
        for path in inside:
            if path.is_file() and not rejection_reason(path.name):
                writer.skip(path, "is not in a class folder")
        for empty in sorted(set(folders) - {folder for folder, _ in found}):
            writer.skip(empty, "a class folder without sounds")
        for folder, path in tqdm(found, desc="import", unit="file", leave=False):
            _import_file(writer, path, folder.name, pattern, "", copy)
        result = writer.finish(src)
    if parts:
        origins = {os.path.abspath(path): parts[path.relative_to(src).parts[0]] for _, path in found if path.is_file()}
        result.split = write_given_split(root, origins)
    return result


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


def import_csv(table: Path, root: Path, *, group: str | None = None, copy: bool = False) -> ImportResult:
    """Import the files and links listed in a CSV table with the columns file (a path or a link), label and, optionally,
    source.

    Without a header line, the columns are expected in this order. Lines that start with # are comments. Every download
    is saved to the manifest at once, so that an interrupted import can be continued. Raises DatasetError.
    """
    pattern = source_pattern(group)
    rows = _rows(table)
    with fetcher([file for _, file, _, _ in rows]) as fetch, open_for_import(root) as writer:
        for line, file, label, source in tqdm(rows, desc="import", unit="sound", leave=False):
            if not is_link(file):
                _import_file(writer, table.parent / file, label, pattern, source, copy)
            elif not (found := source or _find_link_source(file, pattern)):
                writer.skip(f"{table.name}, line {line}: {file}", "--group does not match its name")
            elif not writer.already_imported(label, found, file):
                try:
                    name, data = fetch(file)
                except DownloadFailed as error:
                    writer.skip(f"{table.name}, line {line}: {file}", str(error))
                    continue
                writer.add(data, label=label, source=found, origin=file, name=name)
                writer.save()
        return writer.finish(table)


def source_pattern(group: str | None) -> re.Pattern[str] | None:
    """Compile the pattern of --group. Raises DatasetError."""
    if group is None:
        return None
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise DatasetError(f"--group {group}: not a regular expression ({error})") from error
    if pattern.groups != 1:
        raise DatasetError(f"--group {group}: needs exactly one group in parentheses, the source; has {pattern.groups}")
    return pattern


def find_source(name: str, pattern: re.Pattern[str]) -> str | None:
    """The source in a file name; None if the pattern does not match or its group is empty."""
    match = pattern.search(name)
    return (match[1] or "").strip() or None if match else None


def _find_link_source(link: str, pattern: re.Pattern[str] | None) -> str | None:
    return find_source(file_name(link), pattern) if pattern and not is_page(link) else link


def _walk_files(folder: Path) -> Iterator[Path]:
    """All files below a folder at any depth, without hidden files and folders."""

    def fail(error: OSError) -> None:
        raise error

    seen: set[str] = set()  # protects from cycles of symbolic links
    for name, below, files in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(name)
        below[:] = sorted(inner for inner in below if not inner.startswith(".")) if real not in seen else []
        if real not in seen:
            yield from (Path(name, file) for file in sorted(files) if not file.startswith("."))
        seen.add(real)


def _import_file(
    writer: DatasetWriter, path: Path, label: str, pattern: re.Pattern[str] | None, source: str, copy: bool
) -> None:
    path = Path(os.path.abspath(path))
    shown = str(path).encode(errors="backslashreplace").decode()
    if shown != str(path):
        return writer.skip(shown, "its name is not valid UTF-8")
    if reason := rejection_reason(path.name):
        return writer.skip(shown, reason)
    found = source or (find_source(path.name, pattern) if pattern else shown)
    if not found:
        return writer.skip(shown, "--group does not match its name")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return writer.skip(shown, f"larger than {MAX_FILE_BYTES:,} bytes")
        data = path.read_bytes()
    except OSError as error:
        return writer.skip(shown, error.strerror or str(error))
    writer.add(data, label=label, source=found, origin=shown, name=path.name, path=None if copy else path)


def _rows(table: Path) -> list[tuple[int, str, str, str]]:
    """Line number, file, label and source (empty if absent) of every row. Raises DatasetError."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{table} cannot be read: {error}") from error
    first = next((line for line in text.split("\n") if line.strip() and not line.startswith("#")), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    columns: dict[str, int] | None = None
    rows: list[tuple[int, str, str, str]] = []
    try:
        for fields in reader:
            cells = [field.strip() for field in fields]
            if not any(cells) or cells[0].startswith("#"):
                continue
            if columns is None:
                names = ["file" if cell.lower() in ("url", "link", "file_name") else cell.lower() for cell in cells]
                columns = {name: at for at, name in enumerate(names)} if "label" in names else {}
                if columns and "file" not in columns:
                    raise DatasetError(f"{table} has no column file")
                if columns:
                    continue
                columns = {"file": 0, "label": 1, "source": 2}
            values = {name: cells[at] if at < len(cells) else "" for name, at in columns.items()}
            if empty := [name for name in ("file", "label") if not values[name]]:
                raise DatasetError(f"{table}, line {reader.line_num}: no {', '.join(empty)}")
            rows.append((reader.line_num, values["file"], normalise_label(values["label"]), values.get("source", "")))
    except csv.Error as error:
        raise DatasetError(f"{table}, line {reader.line_num}: {error}") from error
    if not rows:
        raise DatasetError(f"{table} lists no sounds")
    return rows
