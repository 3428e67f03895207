"""CSV tables: those of other programs, line numbers in all error messages, atomic writes."""

import codecs
import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from training.errors import DatasetError, cause

FILE_COLUMNS = (
    "file", "file_name", "filename", "file_path", "filepath", "path", "fname", "audio", "begin path", "begin file",
)  # fmt: skip
"""Names of the column with the name of a file, in lower case."""

DELIMITERS = ",;\t|"

_DELIMITER = re.compile(r"\Asep=.\r?\n?", re.IGNORECASE)


def decode_table(name: str, raw: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark, without a first line `sep=;`, as spreadsheets
    write them. Raises DatasetError."""
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return _DELIMITER.sub("", raw.decode("utf-16" if wide else "utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{name} cannot be read: line {line} is not UTF-8; save it as UTF-8, which Excel calls CSV UTF-8"
        ) from error


def delimiter_of(text: str) -> str:
    """What separates the columns of a table, by its first line, which has their names."""
    return max(DELIMITERS, key=text.partition("\n")[0].count)


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and rows; all of `columns` are present and filled. Raises DatasetError."""
    try:
        text = decode_table(str(path), path.read_bytes())
        delimiter = delimiter_of(text)  # a spreadsheet may have saved the table with another one
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [(reader.line_num, row) for row in reader]
        names = reader.fieldnames or ()
    except (OSError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read: {cause(error)}") from error
    if missing := [name for name in columns if name not in names]:
        raise DatasetError(f"{path} has no column {', '.join(missing)}")
    for line, row in rows:
        if None in row:
            raise DatasetError(f"{path}, line {line}: more fields than columns")
        if empty := [name for name in columns if not (row[name] or "").strip()]:
            raise DatasetError(f"{path}, line {line}: no {', '.join(empty)}")
    return rows


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table atomically: after an error, such as a full disk, the old file is unchanged. Raises DatasetError."""
    with atomic_text_file(path) as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)


@contextmanager
def atomic_text_file(path: Path) -> Iterator[TextIO]:
    """A text file that gets its final name only after all of it has been flushed to disk. Raises DatasetError."""
    partial = path.with_name(path.name + ".partial")
    try:
        try:
            with partial.open("w", newline="", encoding="utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {cause(error)}") from error
