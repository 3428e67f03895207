"""A memory limit for one process and its children, as Docker and Kubernetes set it: a memory cgroup.

Needs the right to make one, with version 1 or 2 of cgroups. Elsewhere the resident memory is watched, and a process
that exceeds the limit is killed: `MemoryLimit.kind` says which of them it is.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_ROOT = Path("/sys/fs/cgroup")


class MemoryLimit:
    """`command` is a command line within the limit; `peak` and `kills` are what happened to it."""

    kind = ""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def command(self, argv: Sequence[str | Path]) -> list[str | Path]:
        """The command line of a process that is in the limit from its start."""
        raise NotImplementedError

    def started(self, pid: int) -> None:
        """The process of `command` runs."""

    @property
    def peak(self) -> int:
        """Bytes."""
        raise NotImplementedError

    @property
    def kills(self) -> int:
        """How many processes were killed because of the limit."""
        raise NotImplementedError


class _Cgroup(MemoryLimit):
    """Version 1 or 2: the files have other names, and mean the same."""

    def __init__(self, limit: int, folder: Path, version: int) -> None:
        super().__init__(limit)
        self.kind, self._folder, self._version = f"cgroup v{version}", folder, version
        folder.mkdir()
        self._write("memory.max" if version == 2 else "memory.limit_in_bytes", limit)
        with suppress(OSError):  # a kernel without swap accounting
            # Of version 1 it is the sum of memory and swap.
            name, most = ("memory.swap.max", 0) if version == 2 else ("memory.memsw.limit_in_bytes", limit)
            self._write(name, most)

    def _write(self, name: str, value: int) -> None:
        with (self._folder / name).open("r+") as file:  # creates none where this is no cgroup
            file.write(str(value))

    def command(self, argv: Sequence[str | Path]) -> list[str | Path]:
        join = f'echo $$ > "{self._folder}/cgroup.procs" && exec "$@"'
        return ["/bin/sh", "-c", join, "sh", *argv]

    @property
    def peak(self) -> int:
        name = "memory.peak" if self._version == 2 else "memory.max_usage_in_bytes"
        return int((self._folder / name).read_text())

    @property
    def kills(self) -> int:
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        counts = dict(line.split() for line in (self._folder / name).read_text().splitlines())
        return int(counts["oom_kill"])

    def remove(self) -> None:
        with suppress(OSError):
            self._folder.rmdir()


class _Watched(MemoryLimit):
    """Without cgroups: the resident memory of the process and its children, read ten times a second."""

    kind = "resident memory, watched"

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._peak = self._kills = 0

    def command(self, argv: Sequence[str | Path]) -> list[str | Path]:
        return list(argv)

    def started(self, pid: int) -> None:
        threading.Thread(target=self._watch, args=(psutil.Process(pid),), daemon=True).start()

    def _watch(self, process: psutil.Process) -> None:
        done = threading.Event()
        with suppress(psutil.NoSuchProcess):
            while not done.wait(0.1) and process.status() != psutil.STATUS_ZOMBIE:
                used = sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
                self._peak = max(self._peak, used)
                if used > self.limit:
                    self._kills += 1
                    process.kill()

    @property
    def peak(self) -> int:
        return self._peak

    @property
    def kills(self) -> int:
        return self._kills


@contextmanager
def memory_limit(limit: int, name: str) -> Iterator[MemoryLimit]:
    """A limit of so many bytes; end its processes within the block."""
    own = f"otoscope-{os.getpid()}-{name.replace(' ', '-')}"
    for version, parent in ((2, _ROOT), (1, _ROOT / "memory")):
        try:
            cgroup = _Cgroup(limit, parent / own, version)
        except OSError:  # no such version here, or no right to use it
            with suppress(OSError):
                (parent / own).rmdir()
            continue
        try:
            yield cgroup
        finally:
            cgroup.remove()
        return
    yield _Watched(limit)
