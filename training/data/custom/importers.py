"""Imports sounds into a custom data set from a CSV table of files and links; also what all importers of files share.

Files are referenced in place unless `copy` is set. Unusable files are skipped and reported. The source of a sound, that
is the recording or the speaker, is found in its file name by a regular expression with one group. Without a pattern
every file is its own source. A link to a web page is always its own source, since the last part of its path (`watch`)
does not name a recording.
"""

import csv
import io
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from otoscope.errors import AudioError
from training.data.custom.annotations import Event, cut_events, is_annotation, read_event_table
from training.data.custom.ingest import (
    MAX_FILE_BYTES,
    DatasetWriter,
    ImportResult,
    open_for_import,
    rejection_reason,
)
from training.data.custom.labels import normalise_label
from training.data.custom.tables import DELIMITERS, FILE_COLUMNS, decode_table
from training.data.custom.web import DownloadFailed, fetcher, file_name, is_link, is_page
from training.errors import DatasetError, cause
from training.progress import progress_bar

_FILE_COLUMNS = (*FILE_COLUMNS, "url", "link")
_LABEL_COLUMNS = ("label", "labels", "class", "category", "species", "tag")
_SOURCE_COLUMNS = ("source", "src_file")
_COLUMNS = (
    "; without a first line `file,label` the columns are file and label, separated by a comma, semicolon, tab or |"
)


@dataclass(frozen=True)
class SoundFile:
    """A file of a folder or of an archive that is imported."""

    parts: tuple[str, ...]  # of its path in the folder or archive
    shown: str  # its origin in the manifest
    size: int  # bytes
    read: Callable[[], bytes]  # raises OSError
    path: Path | None  # where the sound stays; None if it is to be copied


def import_csv(table: Path, root: Path, *, group: str | None = None, copy: bool = False) -> ImportResult:
    """Import the files and links listed in a CSV table with the columns file (a path or a link), label and, optionally,
    source.

    With the columns start and end, in seconds, those parts of the files are cut out.
    Without a header line, the columns are expected in this order. Lines that start with # are comments. Every download
    is saved to the manifest at once, so that an interrupted import can be continued. Raises DatasetError.
    """
    pattern = source_pattern(group)
    text = _read_text(table)
    if is_annotation(table.name, text):
        return _import_event_table(table, text, root, pattern)
    rows = table_rows(table, text)
    with fetcher([file for _, file, _, _ in rows]) as fetch, open_for_import(root) as writer:
        for line, file, label, source in progress_bar(rows, desc="import", unit="sound"):
            if not is_link(file):
                import_file(writer, local_file(_listed(table, file), table.parent, copy), label, pattern, source)
            elif not (found := source or _find_link_source(file, pattern)):
                writer.skip(f"{table.name}, line {line}: {file}", "--group does not match its name")
            elif not writer.already_imported(label, found, file):
                try:
                    name, data = fetch(file)
                except DownloadFailed as error:
                    writer.skip(f"{table.name}, line {line}: {file}", cause(error))
                    continue
                writer.add(data, label=label, source=found, origin=file, name=name)
                writer.save()
        return writer.finish(table)


def _import_event_table(table: Path, text: str, root: Path, pattern: re.Pattern[str] | None) -> ImportResult:
    """Import the parts of recordings that a table with the columns file, start, end and label lists."""
    events = read_event_table(table.name, text)
    with open_for_import(root) as writer:
        for name, own in progress_bar(events.items(), desc="import", unit="file"):
            import_events(writer, local_file(_listed(table, name), table.parent, True), own, pattern)
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


def local_file(path: Path, src: Path, copy: bool) -> SoundFile:
    absolute = Path(os.path.abspath(path))
    shown = str(absolute).encode(errors="backslashreplace").decode()

    def read() -> bytes:
        if shown != str(absolute):
            raise OSError("its name is not valid UTF-8")
        return absolute.read_bytes()

    try:
        size = absolute.stat().st_size
    except OSError:
        size = 0  # reading it fails with the reason
    return SoundFile(path.relative_to(src).parts, shown, size, read, None if copy else absolute)


def import_file(
    writer: DatasetWriter, file: SoundFile, label: str, pattern: re.Pattern[str] | None, source: str
) -> None:
    name = file.parts[-1]
    if reason := rejection_reason(name):
        return writer.skip(file.shown, reason)
    if not (found := _accepted(writer, file, pattern, source)):
        return
    try:
        data = file.read()
    except OSError as error:
        return writer.skip(file.shown, cause(error))
    writer.add(data, label=label, source=found, origin=file.shown, name=name, path=file.path)


def import_events(
    writer: DatasetWriter, file: SoundFile, events: Sequence[Event], pattern: re.Pattern[str] | None
) -> None:
    """Add each event of a recording as a sound of its own; their source is that of the recording."""
    if not (found := _accepted(writer, file, pattern)):
        return
    try:
        for event, sound in cut_events(file.read(), events):
            at = f"{event.start:.3f}-{event.end:.3f}"
            writer.add(
                sound, label=event.label, source=found, origin=f"{file.shown}#t={event.start:g},{event.end:g}",
                name=f"{Path(file.parts[-1]).stem}-{at}.flac",
            )  # fmt: skip
    except AudioError as error:
        writer.skip(file.shown, error)
    except OSError as error:
        writer.skip(file.shown, cause(error))


def _accepted(writer: DatasetWriter, file: SoundFile, pattern: re.Pattern[str] | None, source: str = "") -> str:
    """The source of a file that can be imported; nothing for one that is skipped."""
    found = source or (find_source(file.parts[-1], pattern) if pattern else file.shown)
    if not found:
        writer.skip(file.shown, "--group does not match its name")
        return ""
    if file.size > MAX_FILE_BYTES:
        writer.skip(file.shown, f"larger than {MAX_FILE_BYTES:,} bytes")
        return ""
    return found


def _read_text(table: Path) -> str:
    """Raises DatasetError."""
    try:
        return decode_table(str(table), table.read_bytes())
    except OSError as error:
        raise DatasetError(f"{table} cannot be read: {cause(error)}") from error


def _listed(table: Path, name: str) -> Path:
    """The file that a table names, whose system may write other separators or decomposed accents."""
    spellings = [
        table.parent / unicodedata.normalize(form, spelling)
        for spelling in (name, name.replace("\\", "/"))
        for form in ("NFC", "NFD")
    ]
    return next((path for path in spellings if path.exists()), table.parent / name)


def _delimiter(line: str) -> str:
    """Of a table, by its first line: the most frequent one in front of which a file is named, or its column. Labels may
    have semicolons."""
    usual = sorted(DELIMITERS, key=line.count, reverse=True)
    return next((one for one in usual if _names_file(line.split(one)[0].strip(' "'))), usual[0])


def _names_file(cell: str) -> bool:
    return cell.lower() in _FILE_COLUMNS or _is_sound(cell)


def _is_sound(cell: str) -> bool:
    return is_link(cell) or not rejection_reason(cell)


def table_rows(table: Path | str, text: str, *, header: bool = False) -> list[tuple[int, str, str, str]]:
    """Line number, file, label and source (empty if absent) of every row; with `header` the first line names the
    columns, and there are no rows without a label among them. Raises DatasetError."""
    first = next((line for line in text.split("\n") if line.strip() and not line.startswith("#")), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(first), skipinitialspace=True, strict=True)
    columns: dict[str, int] | None = None
    width = 0  # of a table with a header
    rows: list[tuple[int, str, str, str]] = []
    try:
        for fields in reader:
            cells = [field.strip() for field in fields]
            if not any(cells) or cells[0].startswith("#"):
                continue
            if columns is None:
                names = [cell.lower() for cell in cells]
                file, label, source = (
                    next((one for one in known if one in names), "")
                    for known in (_FILE_COLUMNS, _LABEL_COLUMNS, _SOURCE_COLUMNS)
                )
                given = {"file": file, "label": label, "source": source}
                columns = {name: names.index(one) for name, one in given.items() if one}
                if file and label:
                    width = len(cells)
                    continue
                if label == "label":
                    raise DatasetError(f"{table} has no column file")
                if header:
                    return []
                if not _is_sound(cells[0]):
                    raise DatasetError(
                        f"{table}, line {reader.line_num}: no column"
                        f" {', '.join(name for name in ('file', 'label') if name not in columns)} among"
                        f" {', '.join(cells)}; a table without names of columns begins with a sound and its label"
                    )
                columns = {"file": 0, "label": 1, "source": 2}
            values = {name: cells[at] if at < len(cells) else "" for name, at in columns.items()}
            if empty := [name for name in ("file", "label") if not values[name]]:
                raise DatasetError(f"{table}, line {reader.line_num}: no {', '.join(empty)}{'' if width else _COLUMNS}")
            if width and any(cells[width:]):
                raise DatasetError(
                    f"{table}, line {reader.line_num}: more cells than columns; a label with the character that"
                    " separates the columns is written in double quotes"
                )
            rows.append((reader.line_num, values["file"], normalise_label(values["label"]), values.get("source", "")))
    except csv.Error as error:
        raise DatasetError(f"{table}, line {reader.line_num}: {error}") from error
    if not rows:
        raise DatasetError(f"{table} lists no sounds")
    return rows
