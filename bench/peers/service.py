"""A running peer: started, ready, measured, and stopped with all of its child processes."""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import httpx2
import psutil

from bench.peers.common import ENGINE, HOST, MODEL, PORT, TIMEOUT
from bench.peers.environment import PYTHON
from otoscope.loadgen import LoadResult, Target, closed_loop, run

START, END = 180.0, 15.0  # seconds that a peer may take to start, and to end before it is killed
WARM_UP = 2.0
HEADERS = {"Content-Type": "application/octet-stream"}
ROUNDS, NEIGHBOURS = 5, 8  # of the check with a corrupt file
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class PeerError(RuntimeError):
    """A peer that does not start or does not answer."""


class Peer:
    """A running peer, used over HTTP."""

    def __init__(self, port: int, before: set[psutil.Process]) -> None:
        self._target = Target(HOST, port, timeout=TIMEOUT)
        self._url = f"http://{HOST}:{port}/classify"
        self._before = before

    def first_answer(self, sound: bytes, process: subprocess.Popen[str]) -> Any:
        """Retry until there is a response."""
        end = time.monotonic() + START
        while time.monotonic() < end and process.poll() is None:
            with suppress(httpx2.TransportError):
                answer = httpx2.post(self._url, content=sound, headers=HEADERS, timeout=TIMEOUT)
                if answer.status_code == 200:
                    return answer.json()
            time.sleep(0.2)
        raise PeerError(f"no response; exit status {process.poll()}")

    def load(self, sounds: list[bytes], callers: int, seconds: float) -> dict[str, Any]:
        """Responses under that load, and their cost."""
        requests = [self._target.request("POST", "/classify", HEADERS, sound) for sound in sounds]
        before, began = self._cpu(), time.monotonic()
        measured: LoadResult = run(closed_loop(self._target, requests, callers, seconds, WARM_UP))
        answers = max(measured.throughput * (time.monotonic() - began), 1)  # in the warm-up too
        cost = {"cpu_ms": round(1e3 * (self._cpu() - before) / answers, 1), "memory_mb": self._memory()}
        return {"callers": callers, **measured.summary(), **cost}

    def _cpu(self) -> float:
        """CPU seconds of all its processes so far."""
        used = 0.0
        for process in descendants() - self._before:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return used

    def _memory(self) -> int:
        """Resident MB of all its processes together, as bench/lib/stack.py counts them."""
        total = 0
        for process in descendants() - self._before:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return round(total / 2**20)

    def try_bad_input(self, sounds: list[bytes]) -> dict[str, Any]:
        """The responses to good files that arrive together with a corrupt one, and to invalid bodies."""
        corrupt = sounds[0][:12] + bytes(len(sounds[0]) - 12)  # a WAV signature followed by zeros
        middle = NEIGHBOURS // 2

        async def ask() -> dict[str, Any]:
            limits = httpx2.Limits(max_connections=NEIGHBOURS + 1)
            async with httpx2.AsyncClient(timeout=TIMEOUT, headers=HEADERS, limits=limits) as client:

                async def status(body: bytes) -> str:
                    try:
                        return str((await client.post(self._url, content=body)).status_code)
                    except httpx2.HTTPError as error:
                        return type(error).__name__

                good, bad = Counter[str](), Counter[str]()
                for _ in range(ROUNDS):
                    bodies = [*sounds[:middle], corrupt, *sounds[middle:NEIGHBOURS]]
                    came = await asyncio.gather(*(status(body) for body in bodies))
                    bad[came.pop(middle)] += 1
                    good.update(came)
                return {
                    "neighbours_failed": good.total() - good["200"],
                    "neighbours": dict(good),
                    "corrupt": dict(bad),
                    "not_a_sound": await status(b"this is not a sound"),
                    "empty": await status(b""),
                }

        return asyncio.run(ask())


@contextmanager
def serving(name: str, model: Path, sound: bytes, engine: str = "eager") -> Iterator[tuple[Peer, Any]]:
    """A peer with that engine and its first response, to that sound.

    Raises PeerError, after printing the end of the peer's output.
    """
    before = descendants()
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, open(Path(home, "log"), "w+") as log:
        command = [str(PYTHON), "-m", f"bench.peers.{name}"]
        process = subprocess.Popen(
            command,
            env=_environment(home) | {PORT: str(port), MODEL: str(model), ENGINE: engine},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
            process_group=0,  # so that Ctrl-C reaches this command alone; a new session would get CPU time of its own
            preexec_fn=_end_with_parent,
        )
        try:
            peer = Peer(port, before)
            yield peer, peer.first_answer(sound, process)
        except PeerError:
            _show_end(log)
            raise
        finally:
            _end(process, before)


def _environment(home: str) -> dict[str, str]:
    """Everything that a peer writes is in `home`; telemetry is switched off."""
    return os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": home,
        "TMPDIR": home,
        "RAY_TMPDIR": home,
        "RAY_USAGE_STATS_ENABLED": "0",
        "BENTOML_HOME": f"{home}/bentoml",
        "BENTOML_DO_NOT_TRACK": "1",
    }


def adopt_orphans() -> None:
    """Processes that lose their parent become this one's, so that `descendants` finds them too."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _end(process: subprocess.Popen[str], before: set[psutil.Process]) -> None:
    """Terminate it, and kill the processes that are left."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END)
    give_up = time.monotonic() + END
    while (left := descendants() - before) and time.monotonic() < give_up:
        for one in left:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(left, timeout=1)
    process.poll()


def _show_end(log: TextIO) -> None:
    log.seek(0)
    print(*log.readlines()[-15:], sep="", file=sys.stderr)
