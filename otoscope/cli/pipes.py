"""Pipes. For `otoscope classify` what comes out of them is copied into temporary files, which may be cut into parts.

It may have no end: what is larger than the service accepts is copied further only if it can be cut, and a copy takes no
more than 4 GiB and half of the free space.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from otoscope.cli.recordings import SMALL_BYTES
from otoscope.errors import AudioError
from otoscope.recordings import open_recording

_BLOCK = 2**20  # bytes
_MOST_BYTES = 2**32  # the limit of WAV: twelve hours of one channel at 48 kHz and 16 bits


def standard_input() -> BinaryIO:
    """Raises OSError."""
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer


@contextmanager
def saved_stdin(accepted: Callable[[], float]) -> Iterator[Path]:
    """Standard input as a file; `accepted` returns the largest upload in bytes. Raises OSError or OtoscopeError."""
    stdin = standard_input()
    with tempfile.TemporaryDirectory(prefix="otoscope-") as folder:
        copy = _Copy(Path(folder, "stdin"))
        while block := stdin.read(_BLOCK):
            copy.add(block)
            if copy.size > SMALL_BYTES and copy.is_enough(accepted()):
                break
        yield copy.path


@asynccontextmanager
async def saved_pipe(
    path: Path, accepted: Callable[[], Awaitable[float]], timeout: float | None
) -> AsyncIterator[Path]:
    """A named pipe as a file of the same name, once its writer has closed it.

    It is not read in a thread, since one that waits for a writer cannot be interrupted. Raises OtoscopeError, or
    OSError, also where nothing is written for `timeout` seconds.
    """
    reader = asyncio.StreamReader()
    with tempfile.TemporaryDirectory(prefix="otoscope-") as folder:
        copy = _Copy(Path(folder, path.name))
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        )
        try:
            while block := await asyncio.wait_for(reader.read(_BLOCK), timeout):
                await asyncio.to_thread(copy.add, block)
                if copy.size > SMALL_BYTES and await asyncio.to_thread(copy.is_enough, await accepted()):
                    break
        except TimeoutError as error:
            raise OSError(f"nothing was written into the pipe for {timeout:g} s") from error
        finally:
            transport.close()
        yield copy.path


class _Copy:
    """A file of what has come out of a pipe."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path, self.size = path, 0
        self._can_be_cut = False

    def add(self, block: bytes) -> None:
        """Raises OSError."""
        with self.path.open("ab") as file:
            file.write(block)
        self.size += len(block)
        full = self.size > shutil.disk_usage(self.path.parent).free
        if full or self.size > _MOST_BYTES:
            reached = f"half of the free space of {self.path.parent.parent}" if full else "the most that is copied"
            raise OSError(
                f"it goes on after {self.size:,} bytes, {reached}; save what is to be classified in a file, or let"
                " `otoscope listen` classify what has no end"
            )

    def is_enough(self, accepted: float) -> bool:
        """Whether more is of no use. Raises OSError."""
        if self.size <= accepted or self._can_be_cut:
            return False
        self._can_be_cut = _can_be_cut(self.path)
        return not self._can_be_cut


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
