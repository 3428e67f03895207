"""Pipes. For `otoscope classify` what comes out of them is copied into temporary files, which may be cut into parts.

What is larger than the service accepts is copied to its end only if it can be cut: anything else may have no end.
"""

import asyncio
import math
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from otoscope.cli.recordings import SMALL_BYTES
from otoscope.client import Client
from otoscope.errors import AudioError, RouteNotFound
from otoscope.recordings import open_recording

_BLOCK = 2**20  # bytes


def standard_input() -> BinaryIO:
    """Raises OSError."""
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer


@contextmanager
def saved_stdin(url: str | None) -> Iterator[Path]:
    """Standard input as a file. Raises OSError or OtoscopeError."""
    stdin = standard_input()
    with tempfile.TemporaryDirectory(prefix="otoscope-") as folder:
        copy = _Copy(file := Path(folder, "stdin"), url)
        while copy.add(stdin.read(_BLOCK)):
            pass
        yield file


@asynccontextmanager
async def saved_pipe(path: Path, url: str | None, timeout: float | None) -> AsyncIterator[Path]:
    """A named pipe as a file of the same name, once its writer has closed it.

    It is not read in a thread, since one that waits for a writer cannot be interrupted. Raises OtoscopeError, or
    OSError, also where nothing is written for `timeout` seconds.
    """
    reader = asyncio.StreamReader()
    with tempfile.TemporaryDirectory(prefix="otoscope-") as folder:
        copy = _Copy(file := Path(folder, path.name), url)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        )
        try:
            while await asyncio.to_thread(copy.add, await asyncio.wait_for(reader.read(_BLOCK), timeout)):
                pass
        except TimeoutError as error:
            raise OSError(f"nothing was written into the pipe for {timeout:g} s") from error
        finally:
            transport.close()
        yield file


class _Copy:
    """A file of what has come out of a pipe."""

    def __init__(self, path: Path, url: str | None) -> None:
        self._path, self._url = path, url
        self._size = 0
        self._most: float | None = None  # bytes; None before the service was asked

    def add(self, block: bytes) -> bool:
        """False at the end, or where more is of no use. Raises OSError or OtoscopeError."""
        with self._path.open("ab") as file:
            file.write(block)
        self._size += len(block)
        if self._most is None and self._size > SMALL_BYTES:
            self._most = _accepted_bytes(self._url)
        if self._most is not None and self._size > self._most:
            if not _can_be_cut(self._path):
                return False
            self._most = math.inf
        return bool(block)


def _accepted_bytes(url: str | None) -> float:
    with suppress(RouteNotFound), Client(url) as client:  # an older service
        return client.limits().max_upload_bytes
    return math.inf


def _can_be_cut(path: Path) -> bool:
    """Whether it begins like a recording. In MP4 and M4A what a decoder needs may come last."""
    with path.open("rb") as file:
        if file.read(12)[4:8] == b"ftyp":
            return True
    try:
        open_recording(path).close()
    except AudioError:
        return False
    return True
