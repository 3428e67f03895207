"""`otoscope classify`: several files concurrently, bounded, reported in the order of the command line."""

import asyncio
import glob
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from otoscope.calls import Options
from otoscope.cli.tables import classified_table
from otoscope.client import AsyncClient
from otoscope.errors import KeyRefused, KeyRequired, OtoscopeError
from otoscope.responses import ServiceUnreachable
from otoscope.types import Job

Outcome = Job | Exception


def expand_globs(names: Sequence[str]) -> list[str]:
    """File names, with globs expanded that the shell did not; a glob without a match stays, and fails later."""
    found: list[str] = []
    for name in names:
        if glob.has_magic(name) and not os.path.exists(name):
            found += sorted(glob.glob(name, recursive=True)) or [name]
        else:
            found.append(name)
    return found


def classify_many(names: Sequence[str], url: str | None, options: Options, parallel: int, report: "Report") -> int:
    """The number of failed files. Raises ServiceUnreachable, KeyRequired or KeyRefused, which affect all files."""
    return asyncio.run(_classify_many(names, url, options, parallel, report))


async def _classify_many(
    names: Sequence[str], url: str | None, options: Options, parallel: int, report: "Report"
) -> int:
    slots = asyncio.Semaphore(parallel)
    failed = 0

    async def one(client: AsyncClient, name: str) -> Outcome:
        async with slots:
            try:
                if problem := _unreadable(name):
                    raise OSError(problem)
                return await client.classify(name, **options)
            except (ServiceUnreachable, KeyRequired, KeyRefused):
                raise  # it would be the same for every file
            except (OtoscopeError, OSError) as error:
                return error
            finally:
                report.advance()

    async with AsyncClient(url) as client:
        tasks = [asyncio.create_task(one(client, name)) for name in names]
        try:
            for name, task in zip(names, tasks, strict=True):
                outcome = await task
                failed += isinstance(outcome, Exception)
                report.add(name, outcome)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return failed


def _unreadable(name: str) -> str:
    """Why a name cannot be read as a file, as a message for people; empty if it can."""
    path = Path(name)
    if path.is_dir():
        return f"a directory; name its files, as in '{path}/*.wav'"
    if not path.exists():
        return "no file matches" if glob.has_magic(name) else "no such file"
    return ""


class Report:
    """The output: JSON lines in order as results arrive, or a table at the end. Failures go to stderr."""

    def __init__(self, as_json: bool, total: int) -> None:
        self._as_json = as_json
        self._rows: list[tuple[str, Outcome]] = []
        self._errors = Console(stderr=True, highlight=False, markup=False)
        self._progress = Progress(
            TextColumn("classifying"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._errors,
            transient=True,
            disable=total < 2 or not self._errors.is_terminal,
        )
        self._task = self._progress.add_task("", total=total)

    def advance(self) -> None:
        self._progress.advance(self._task)

    def add(self, name: str, outcome: Outcome) -> None:
        """Report the outcome of the next file."""
        if isinstance(outcome, Exception):
            self._errors.print(f"{name}: {_message(outcome)}", soft_wrap=True)
        if self._as_json:
            print(_json_line(name, outcome), flush=True)
        else:
            self._rows.append((name, outcome))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if any(isinstance(outcome, Job) for _, outcome in self._rows):
            # A table that goes to a pipe is not cut to the width of a terminal.
            width = None if sys.stdout.isatty() else 10_000
            Console(highlight=False, width=width).print(classified_table(self._rows))


def _message(error: Exception) -> str:
    if isinstance(error, OtoscopeError):
        return f"{error.detail} ({error.code})"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _json_line(name: str, outcome: Outcome) -> str:
    """One file as a line of JSON: the id and result of its job, or its error."""
    if isinstance(outcome, Exception):
        code, detail = "unreadable_file", _message(outcome)
        if isinstance(outcome, OtoscopeError):
            code, detail = outcome.code, outcome.detail
        return json.dumps({"file": name, "error": {"code": code, "detail": detail}})
    result = outcome.result.model_dump(mode="json", by_alias=True, exclude_none=True) if outcome.result else {}
    return json.dumps({"file": name, "id": outcome.id, **result})
