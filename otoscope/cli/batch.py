"""`otoscope classify`: several files concurrently, bounded; directories, and recordings of any length."""

import asyncio
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from otoscope.calls import Options
from otoscope.cli.recordings import Cutter, is_too_long
from otoscope.cli.report import Answer, Outcome, Report
from otoscope.client import AsyncClient
from otoscope.errors import KeyRefused, KeyRequired, OtoscopeError
from otoscope.responses import ServiceUnreachable

SOUND_EXTENSIONS = frozenset({
    ".aac", ".aif", ".aifc", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka", ".mkv", ".mp3", ".mp4", ".oga",
    ".ogg", ".opus", ".w64", ".wav", ".wave", ".webm", ".wma",
})  # fmt: skip
"""What `--recursive` takes for a sound; the content decides whether it is one."""


def expand_globs(names: Sequence[str]) -> list[str]:
    """File names, with globs expanded that the shell did not; a glob without a match stays, and fails later."""
    found: list[str] = []
    for name in names:
        if glob.has_magic(name) and not os.path.exists(name):
            found += sorted(glob.glob(name, recursive=True)) or [name]
        else:
            found.append(name)
    return found


def expand_directories(names: Iterable[str]) -> Iterator[str]:
    """File names, with directories replaced by the sounds below them, sorted. Hidden files and links to directories are
    left out."""
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        for folder, folders, files in os.walk(name):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            for file in sorted(files):
                if not file.startswith(".") and os.path.splitext(file)[1].lower() in SOUND_EXTENSIONS:
                    yield os.path.join(folder, file)


def classify_many(names: Sequence[str], url: str | None, options: Options, parallel: int, report: Report) -> int:
    """The number of failed files. Raises ServiceUnreachable, KeyRequired or KeyRefused, which affect all files."""
    return asyncio.run(_classify_many(names, url, options, parallel, report))


async def _classify_many(names: Sequence[str], url: str | None, options: Options, parallel: int, report: Report) -> int:
    queue = iter(enumerate(names))
    failed = 0

    async def work(client: AsyncClient, cutter: Cutter) -> None:
        nonlocal failed
        for index, name in queue:
            outcome = await _classify(client, cutter, name, options, report)
            failed += isinstance(outcome, Exception)
            report.add(index, name, outcome)

    async with AsyncClient(url) as client:
        cutter = Cutter(client, options, parallel)
        tasks = [asyncio.create_task(work(client, cutter)) for _ in range(min(parallel, len(names)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return failed


async def _classify(client: AsyncClient, cutter: Cutter, name: str, options: Options, report: Report) -> Outcome:
    """The answer of one file, or what is wrong with it. Raises what affects all files."""
    path = Path(name)
    try:
        if problem := _unreadable(name):
            raise OSError(problem)
        if not await cutter.must_cut(path):
            try:
                job = await client.classify(name, **options)
                if job.result is None:
                    raise OtoscopeError(f"Job {job.id} has no result.")
                return Answer([job.id], job.result)
            except OtoscopeError as error:
                if not is_too_long(error):
                    raise
        ids, result = await cutter.classify(path, report.parts_of(name))
        return Answer(ids, result)
    except (ServiceUnreachable, KeyRequired, KeyRefused):
        raise  # it would be the same for every file
    except (OtoscopeError, OSError) as error:
        return error


def _unreadable(name: str) -> str:
    """Why a name cannot be read as a file, as a message for people; empty if it can."""
    path = Path(name)
    if path.is_dir():
        return f"a directory; name its files, as in '{path}/*.wav'"
    if not path.exists():
        return "no file matches" if glob.has_magic(name) else "no such file"
    return ""
