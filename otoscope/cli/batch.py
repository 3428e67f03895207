"""`otoscope classify`: several files concurrently, bounded; directories, and recordings of any length."""

import asyncio
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from otoscope.calls import Options
from otoscope.cli.pipes import saved_pipe, saved_stdin
from otoscope.cli.recordings import SMALL_BYTES, Cutter, is_too_long, run_concurrently
from otoscope.cli.report import Answer, Outcome, Report
from otoscope.client import AsyncClient
from otoscope.errors import KeyRefused, KeyRequired, ModelNotFound, OtoscopeError
from otoscope.responses import ServiceUnreachable

STDIN = "-"
"""The name of standard input."""

_MANY = 8  # files, from which on the small ones are sent together
_GROUP = 32  # files of one request: results come in such steps
_OF_ALL_FILES = (ServiceUnreachable, KeyRequired, KeyRefused, ModelNotFound)

SOUND_EXTENSIONS = frozenset({
    ".3g2", ".3gp", ".aac", ".ac3", ".adts", ".aif", ".aifc", ".aiff", ".amr", ".asf", ".au", ".avi", ".awb", ".bwf",
    ".caf", ".eac3", ".f4a", ".flac", ".flv", ".m2t", ".m2ts", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2",
    ".mp3", ".mp4", ".mpeg", ".mpg", ".mpga", ".mts", ".oga", ".ogg", ".ogv", ".opus", ".qt", ".rf64", ".snd", ".sph",
    ".spx", ".vob", ".w64", ".wav", ".wave", ".weba", ".webm", ".wma", ".wmv", ".wv",
})  # fmt: skip
"""What `--recursive` takes for a sound; the content decides whether it is one. `.ts` is TypeScript's, too."""


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
    """File names, with directories replaced by the sounds below them, sorted. Hidden files, links to directories, pipes
    and devices are left out."""
    unreadable: list[OSError] = []
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        for folder, folders, files in os.walk(name, onerror=unreadable.append):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            for file in sorted(files):
                path = os.path.join(folder, file)
                if (
                    not file.startswith(".")
                    and os.path.splitext(file)[1].lower() in SOUND_EXTENSIONS
                    and (os.path.isfile(path) or not os.path.exists(path))  # a broken link fails later, like a file
                ):
                    yield path
    yield from (str(error.filename) for error in unreadable)  # they fail later, like a file


def classify_many(names: Sequence[str], url: str | None, options: Options, parallel: int, report: Report) -> int:
    """The number of failed files. Raises ServiceUnreachable, KeyRequired, KeyRefused or ModelNotFound, which affect all
    files."""
    client = AsyncClient(url)
    cutter = Cutter(client, options, parallel)
    with asyncio.Runner() as runner:
        try:
            # Before the loop runs: a thread that waits for standard input could not be interrupted.
            piped = saved_stdin(lambda: runner.run(cutter.accepted_bytes())) if STDIN in names else nullcontext(Path())
            with piped as stdin:
                return runner.run(_classify_many(names, stdin, client, cutter, options, parallel, report))
        finally:
            runner.run(client.close())


async def _classify_many(
    names: Sequence[str],
    stdin: Path,
    client: AsyncClient,
    cutter: Cutter,
    options: Options,
    parallel: int,
    report: Report,
) -> int:
    queue = iter(_in_groups(enumerate(names)) if len(names) >= _MANY else ([each] for each in enumerate(names)))
    failed = 0
    slots = asyncio.Semaphore(max(1, parallel // 4))  # groups at once

    async def work() -> None:
        nonlocal failed
        for group in queue:
            together: dict[int, Outcome] = {}
            if len(group) > 1:
                async with slots:
                    together = await _classify_together(client, group, options)
            for index, name in group:
                outcome = together.get(index) or await _classify(
                    client, cutter, name, stdin if name == STDIN else Path(name), options, report
                )
                failed += isinstance(outcome, Exception)
                report.add(index, name, outcome)

    await run_concurrently(work, min(parallel, len(names)))
    return failed


def _in_groups(names: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Small files together, as one request of the service takes them, and the others alone."""
    group: list[tuple[int, str]] = []
    for index, name in names:
        try:
            small = os.path.isfile(name) and os.path.getsize(name) <= SMALL_BYTES
        except OSError:
            small = False
        if not small:
            yield [(index, name)]
            continue
        group.append((index, name))
        if len(group) == _GROUP:
            yield group
            group = []
    if group:
        yield group


async def _classify_together(
    client: AsyncClient, group: Sequence[tuple[int, str]], options: Options
) -> dict[int, Outcome]:
    """The outcomes of small files by their position. What is absent is to be classified alone: all of it at an earlier
    service, a sound that was lost, one that is too long. Raises what affects all files."""
    try:
        classified = await client.classify_many([Path(name) for _, name in group], **options)
    except _OF_ALL_FILES:
        raise
    except OtoscopeError:
        return {}
    outcomes: dict[int, Outcome] = {}
    for (index, _), each in zip(group, classified, strict=True):
        if each.member is not None and each.member.id and each.member.result is not None:
            outcomes[index] = Answer([each.member.id], each.member.result)
        elif each.member is not None and each.member.error is not None and each.error and not is_too_long(each.error):
            outcomes[index] = each.error
    return outcomes


async def _classify(
    client: AsyncClient, cutter: Cutter, name: str, path: Path, options: Options, report: Report
) -> Outcome:
    """The answer of one file, or what is wrong with it. Raises what affects all files."""
    try:
        if problem := _unreadable(path, name):
            raise OSError(problem)
        accepted, timeout = cutter.accepted_bytes, options["timeout"]
        async with saved_pipe(path, accepted, timeout) if path.is_fifo() else nullcontext(path) as file:
            return await _classify_file(client, cutter, file, options, report.parts_of(name))
    except _OF_ALL_FILES:
        raise  # it would be the same for every file
    except (OtoscopeError, OSError) as error:
        return error


async def _classify_file(
    client: AsyncClient, cutter: Cutter, path: Path, options: Options, progress: Callable[[int, int | None], None]
) -> Answer:
    if not await cutter.must_cut(path):
        try:
            job = await client.classify(path, **options)
            if job.result is None:
                raise OtoscopeError(f"Job {job.id} has no result.")
            return Answer([job.id], job.result)
        except OtoscopeError as error:
            if not is_too_long(error):
                raise
    return Answer(*await cutter.classify(path, progress))


def _unreadable(path: Path, name: str) -> str:
    """Why a file cannot be read, as a message for people; empty if it can."""
    if path.exists() and not os.access(path, os.R_OK):
        return "no permission to read it"
    if path.is_dir():
        return "a directory; --recursive classifies the sounds below it"
    if not path.exists():
        if "://" in name:
            return f"addresses are not fetched; download it: curl -sL '{name}' | otoscope classify -"
        return "no file matches" if glob.has_magic(name) else "no such file"
    if not (path.is_file() or path.is_fifo()):
        return "a device or a socket; sounds are files and pipes"
    return ""
