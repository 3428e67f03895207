"""What `otoscope classify` prints or writes: a table, JSON lines, exported detections, or a CSV file of results."""

import csv
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from otoscope.audio import printable
from otoscope.cli.console import SafeConsole, table_console
from otoscope.cli.tables import classified_table, detections_table
from otoscope.errors import (
    BY_CODE,
    AudioError,
    DecoderDied,
    InferenceFailed,
    JobPoison,
    OtoscopeError,
    PayloadTooLarge,
    cause,
)
from otoscope.exports import (
    RESULT_COLUMNS,
    Format,
    Recording,
    csv_row,
    csv_text,
    error_row,
    export,
    file_name,
    result_rows,
)
from otoscope.text import escape_controls
from otoscope.types import ResultJSON


@dataclass(frozen=True)
class Answer:
    """The result of a file, and the ids of its jobs: one, or one for each part of a recording."""

    ids: Sequence[str]
    result: ResultJSON


Outcome = Answer | Exception


def names_directory(out: str) -> bool:
    """Whether `--out` is a directory, which may not exist yet."""
    return os.path.isdir(out) or out.endswith(("/", os.sep))


class Report(ABC):
    """Takes the outcome of each file, shows the progress on a terminal, and prints failures to stderr."""

    ordered = True  # write in the order of the command line, not as results come

    def __init__(self, total: int) -> None:
        self._waiting: dict[int, tuple[str, Outcome]] = {}
        self._next, self._total = 0, total
        self._stderr = SafeConsole(stderr=True, highlight=False, markup=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._stderr,
            transient=True,
            disable=not self._stderr.is_terminal,
        )
        self._task = self._progress.add_task("classifying", total=total, visible=total > 1)

    def add(self, index: int, name: str, outcome: Outcome) -> None:
        """The outcome of the file with that position on the command line."""
        name = printable(name)
        self._progress.advance(self._task)
        if not self.ordered:
            self._write(name, outcome)
            return
        self._waiting[index] = name, outcome
        while self._next in self._waiting:
            self._write(*self._waiting.pop(self._next))
            self._next += 1

    def parts_of(self, name: str) -> Callable[[int, int | None], None]:
        """A function that shows how many parts of a recording are done."""
        self._progress.start()
        task = self._progress.add_task(os.path.basename(name), total=None)

        def update(done: int, total: int | None) -> None:
            self._progress.update(task, completed=done, total=total, visible=done != total)

        return update

    @abstractmethod
    def write(self, name: str, outcome: Outcome) -> None:
        """Write the outcome of the next file."""

    def finish(self) -> None:
        """The end, also of a run that was interrupted: what is done behind a sound that is not is written."""
        self._progress.stop()
        for index in sorted(self._waiting):
            self._write(*self._waiting.pop(index))

    def warn(self, name: str, result: ResultJSON) -> None:
        """One line for each warning."""
        for warning in result.warnings:
            self._print(f"{name}: {warning.detail} ({warning.code})")

    def _write(self, name: str, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self._print(f"{name}: {_message(outcome)}")
        self.write(name, outcome)

    def _print(self, line: str) -> None:
        self._stderr.print(escape_controls(line), soft_wrap=True)

    def __enter__(self) -> Self:
        if self._total > 1:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()


class TableReport(Report):
    """One line for each file at the end, and the detections where they were requested."""

    def __init__(self, total: int, detections: bool) -> None:
        super().__init__(total)
        self._rows: list[tuple[str, ResultJSON | None]] = []
        self._detections = detections

    def write(self, name: str, outcome: Outcome) -> None:
        self._rows.append((escape_controls(name), outcome.result if isinstance(outcome, Answer) else None))
        if isinstance(outcome, Answer):
            self.warn(name, outcome.result)

    def finish(self) -> None:
        super().finish()
        if not any(result for _, result in self._rows):
            return
        console = table_console()
        console.print(classified_table(self._rows))
        if self._detections:
            console.print()
            console.print(detections_table(self._rows))


class JsonReport(Report):
    """A line of JSON for each file: id and result of its job, or its error."""

    def write(self, name: str, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            code, detail = _code_and_detail(outcome)
            line = {"file": name, "error": {"code": code, "detail": detail}}
        else:
            jobs = {"id": outcome.ids[0]} if len(outcome.ids) == 1 else {"parts": list(outcome.ids)}
            line = {"file": name, **jobs, **outcome.result.model_dump(mode="json", by_alias=True, exclude_none=True)}
        print(json.dumps(line), flush=True)


class ExportReport(Report):
    """Detections in a format of other programs: one file, or one for each sound in a directory; stdout without one."""

    def __init__(self, total: int, format: Format, out: str | None) -> None:
        """Raises ValueError if several sounds would go into one file of a format that is about one sound."""
        super().__init__(total)
        self._format, self._out, self._used = format, Path(out) if out else None, set[str]()
        self._directory = out is not None and names_directory(out)
        if total > 1 and not self._directory and format not in ("csv", "json"):
            raise ValueError(f"--format {format} of several sounds needs a directory: --out labels/")
        self._begun = False

    def write(self, name: str, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            return
        result = outcome.result
        self.warn(name, result)
        recording = Recording(name, result.duration, result.sample_rate, result.model)
        text = export(self._format, result.detections or [], recording)
        if self._begun and self._format == "csv" and not self._directory:
            text = text.partition("\r\n")[2]  # one header for all sounds
        body = text.encode()
        if self._out is None:
            sys.stdout.flush()
            sys.stdout.buffer.write(body)
            sys.stdout.buffer.flush()
        elif self._directory:
            self._out.mkdir(parents=True, exist_ok=True)
            (self._out / self._name(name)).write_bytes(body)
        else:
            with self._out.open("ab" if self._begun else "wb") as file:
                file.write(body)
        self._begun = True

    def _name(self, name: str) -> str:
        """Sounds of the same name in different directories get different files."""
        stem, number = Path(name).stem, 1
        while (chosen := file_name(self._format, f"{stem}{'' if number == 1 else f'-{number}'}.x")) in self._used:
            number += 1
        self._used.add(chosen)
        return chosen


class CsvReport(Report):
    """A row for each file and detection, or prediction, as results come; the rows of a file are written at once."""

    ordered = False

    def __init__(self, total: int, path: Path, detections: bool) -> None:
        super().__init__(total)
        self._path, self._detections = path, detections

    @staticmethod
    def unfinished(path: Path, names: Sequence[str], model: str | None) -> tuple[list[str], str | None]:
        """Those of the names that are to be sent: all that are not in the table, or have an error that may pass; and
        the model of the table, where it has one, otherwise `model`.

        Their rows are removed from it, and those that are incomplete, since the run was killed. Raises OSError, or
        ValueError if it is a file of something else, or of another model.
        """
        if not path.exists():
            return list(names), model
        try:
            text = path.read_bytes().decode("utf-8-sig")  # spreadsheets begin with a byte order mark
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8; name another file for --out.") from error
        whole = text[: text.rfind("\n") + 1]
        rows = list(csv.reader(whole.splitlines(keepends=True)))
        if text and (not rows or tuple(rows[0]) != RESULT_COLUMNS):
            raise ValueError(f"{path} has other columns than {','.join(RESULT_COLUMNS)}; name another file for --out.")
        full = [row for row in rows[1:] if len(row) == len(RESULT_COLUMNS)]
        of = next((row[1] for row in full if row[1]), model)
        if model not in (None, of):
            raise ValueError(f"{path} has results of the model {of}, not of {model}; name another file for --out.")
        torn = full[-1][0] if full and whole != text else None  # the last file may lack rows
        cells = {name: csv_text(printable(name)) for name in names}
        paths = set(map(os.path.normpath, cells.values()))
        again = {row[0] for row in full if _may_pass(row[-1]) and os.path.normpath(row[0]) in paths} | {torn}
        kept = [row for row in full if row[0] not in again]
        if len(kept) < len(rows) - 1 or whole != text:
            draft = path.with_name(f"{path.name}.part")
            with draft.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([RESULT_COLUMNS, *kept])
            draft.replace(path)
        done = {os.path.normpath(row[0]) for row in kept}
        return [name for name in names if os.path.normpath(cells[name]) not in done], of

    def write(self, name: str, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            rows = [error_row(name, ": ".join(_code_and_detail(outcome)))]
        else:
            result = outcome.result
            found = [(each.class_, each.confidence, each.start, each.end) for each in result.detections or ()]
            if not self._detections:
                found = [(each.class_, each.confidence, 0.0, result.duration) for each in result.predictions]
            codes = (warning.code for warning in result.warnings)
            rows = [*result_rows(name, result.model, result.verdict, found, codes)]
        body = "".join(rows).encode()
        with self._path.open("ab", buffering=0) as file:
            if not (end := file.tell()):
                body = csv_row(RESULT_COLUMNS).encode() + body
            rest = memoryview(body)
            try:
                while rest:  # a full disk takes what it has room for, and is an error at the next attempt
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(end)
                raise


_OF_SOUNDS = {
    code
    for code, kind in BY_CODE.items()
    if issubclass(kind, AudioError | PayloadTooLarge | DecoderDied | InferenceFailed | JobPoison)
}
"""Codes of errors that a sound meets at every attempt."""


def _may_pass(error: str) -> bool:
    return bool(error) and error.partition(":")[0] not in _OF_SOUNDS


def _code_and_detail(error: Exception) -> tuple[str, str]:
    if isinstance(error, OtoscopeError):
        return error.code, error.detail
    return "unreadable_file", cause(error)


def _message(error: Exception) -> str:
    """An error as text for people."""
    code, detail = _code_and_detail(error)
    return f"{detail} ({code})" if isinstance(error, OtoscopeError) else detail
