"""Fetches the sound of a job from its address: in a child process of its own, under limits on bytes and time."""

import json
import logging
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

from otoscope.errors import OtoscopeError, PayloadTooLarge, UrlNotAllowed, UrlUnreachable
from shared.config.settings import ConfigurationError
from shared.install_hints import install_command
from shared.sound_sources import SoundSources
from worker.decode.framing import FramedSocket

log = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-m", "worker.fetch.child")
_HEADER = 2**16  # bytes: longest JSON header of a reply
_DETAIL = 500  # characters of an error
_INHERITED = ("OTOSCOPE_HOME",)  # identifies the installation that a process belongs to, in process lists
_ERRORS = {kind.code: kind for kind in (UrlNotAllowed, UrlUnreachable, PayloadTooLarge)}


class Fetcher:
    """`fetch` may be called from any thread. Each call starts a process, which has no access to Redis."""

    def __init__(self, sources: tuple[str, ...], max_bytes: int, seconds: float) -> None:
        """`seconds` bound one sound, from the name of its host to its last byte. Raises ConfigurationError where the
        library for a bucket among the sources is not installed."""
        self._sources, self._max_bytes, self._seconds = SoundSources(sources), max_bytes, seconds
        if self._sources.has_s3 and find_spec("botocore") is None:
            raise ConfigurationError(f"OTOSCOPE_SOUND_SOURCES has a bucket of S3, which needs {install_command('s3')}")

    def fetch(self, url: str, timeout: float | None = None, check: Callable[[], None] = lambda: None) -> bytes:
        """The sound at that address. `check` is called at least every 0.2 s; what it raises ends the fetch.

        Raises UrlNotAllowed, UrlUnreachable or PayloadTooLarge.
        """
        address = self._sources.check(url)  # the gateway has checked it; its settings may be older
        deadline = time.monotonic() + min(self._seconds, math.inf if timeout is None else max(timeout, 0.0))
        ours, theirs = socket.socketpair()
        connection = FramedSocket(ours)
        process: subprocess.Popen[bytes] | None = None
        try:
            with theirs:
                process = subprocess.Popen(  # nosec B603  # our own program, no shell
                    [*_COMMAND, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={name: value for name, value in os.environ.items() if _is_passed(name, address.scheme)},
                    start_new_session=True,  # Ctrl-C in a terminal is for the worker, which finishes its jobs
                )
            request = {**vars(address), "literal": address.is_literal, "max_bytes": self._max_bytes}
            connection.send(json.dumps({**request, "seconds": self._seconds}).encode())
            header = json.loads(connection.receive(_HEADER, deadline, check))
            if "code" in header:
                raise _ERRORS[header["code"]](str(header["detail"])[:_DETAIL])
            return bytes(connection.receive(self._max_bytes, deadline, check))
        except OtoscopeError:
            raise
        except TimeoutError as late:
            raise UrlUnreachable(f"The sound did not arrive from {address.host} within {self._seconds:g} s.") from late
        except Exception as failed:  # it died, or its reply is invalid
            log.warning("the process that fetches a sound failed: %r", failed)
            raise UrlUnreachable(f"The process that fetches the sound from {address.host} failed.") from failed
        finally:
            connection.close()
            if process is not None:
                process.kill()
                process.wait()


def _is_passed(name: str, scheme: str) -> bool:
    """Whether the process gets that variable: not the address and password of the queue, the keys of S3 for S3 only."""
    if name.startswith("AWS_"):
        return scheme == "s3"
    return "OTOSCOPE_" not in name or name in _INHERITED
