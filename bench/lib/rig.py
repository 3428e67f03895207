"""The service as separate processes that a fault can be done to: its server, workers, gateway, and the wire between.

Everything listens on loopback. Nothing starts anything again by itself, as a supervisor would: whoever breaks something
decides when it comes back.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import httpx2
import redis

from commands.stack.embedded_redis import Home

ROOT = Path(__file__).resolve().parents[2]


class Rig:
    """`with Rig(folder, models) as rig:`; `start` brings up everything, the end takes all of it down.

    With `wire` gateway and workers reach the server through a `Wire` that can be cut.
    """

    def __init__(
        self,
        folder: Path,
        models: Path,
        *,
        workers: int = 1,
        wire: bool = False,
        data: Path | None = None,
        cores: Sequence[int] = (),
        **settings: str,
    ) -> None:
        """`settings` are OTOSCOPE_ variables in lower case; `data` is where the server keeps its file; worker N is held
        to the Nth of `cores`."""
        self.folder, self._workers, self._cores = folder, workers, cores
        self.port, self.server_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        self._home = Home(data or folder / "data")
        self._home.directory.mkdir(exist_ok=True)
        self.wire = Wire(self.server_port) if wire else None
        reached = self.wire.port if self.wire else self.server_port
        own = {
            "redis_url": f"redis://127.0.0.1:{reached}/0",
            "port": str(self.port),
            "models_dir": str(models),
            "metrics_port": "0",
            **settings,
        }
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("OTOSCOPE_")}
        self._environment |= {f"OTOSCOPE_{name.upper()}": value for name, value in own.items()}
        self._environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.redis = redis.Redis(port=self.server_port)
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        if self.wire:
            self._exit.enter_context(self.wire)
        self._exit.callback(self._end)  # first: who has lost the server takes long to end
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def workers(self) -> list[str]:
        return [f"worker {n}" for n in range(self._workers)]

    def start(self) -> None:
        """Everything, in the order in which it is needed, until it is ready."""
        self.begin("server")
        for name in (*self.workers, "gateway"):
            self.begin(name)
        self.wait_until_ready(self._workers)

    def begin(self, name: str) -> None:
        """Start one of `server`, `gateway` and `worker N`; the server, until it answers."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.command(name),
                env=self._environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if name in self.workers[: len(self._cores)]:
            os.sched_setaffinity(self.processes[name].pid, {self._cores[self.workers.index(name)]})
        if name == "server":
            self._wait(self.server_answers, "the server", 60)

    def command(self, name: str) -> Sequence[str | Path]:
        """What to run for that name."""
        if name == "server":  # the later of two settings counts: what the embedded server has, and a port on loopback
            return [*self._home.program().argv, "--port", str(self.server_port), "--bind", "127.0.0.1"]
        return [sys.executable, "-m", "api" if name == "gateway" else "worker"]

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes[name].kill()
        self.processes[name].wait()

    def signal(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)

    def wait_until_ready(self, workers: int = 1, seconds: float = 120) -> None:
        def ready() -> bool:
            with suppress(httpx2.HTTPError):
                return bool(httpx2.get(f"{self.url}/health/ready", timeout=2).json()["workers"] >= workers)
            return False

        self._wait(ready, f"a service with {workers} workers", seconds)

    def server_answers(self) -> bool:
        with suppress(redis.exceptions.RedisError):
            return bool(self.redis.ping())
        return False

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    @staticmethod
    def _wait(condition: Callable[[], bool], what: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError(f"{what} did not answer within {seconds:g} s")
            time.sleep(0.05)

    def _end(self) -> None:
        self.redis.close()
        for name in reversed(list(self.processes)):
            process = self.processes[name]
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Wire:
    """A TCP connection's way to the server, in a thread of its own, that can go dead (nothing comes through, nothing is
    said, and all of it comes later) or be cut (what was connected is told so, and nobody can connect), and that may be
    long: what goes in comes out `delay` seconds later."""

    def __init__(self, to: int, host: str = "127.0.0.1", delay: float = 0) -> None:
        self.port = free_port()
        self._to, self._host, self._delay = to, host, delay
        self._open = threading.Event()
        self._open.set()
        self._dead = False
        self._loop = asyncio.new_event_loop()
        self._lines: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        listening = threading.Event()
        threading.Thread(target=lambda: self._loop.run_until_complete(self._run(listening)), daemon=True).start()
        listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._hang_up)
        self._loop.call_soon_threadsafe(self._stop.set)

    @contextmanager
    def dead(self) -> Iterator[None]:
        self._dead = True
        try:
            yield
        finally:
            self._dead = False

    @contextmanager
    def cut(self) -> Iterator[None]:
        self._open.clear()
        self._loop.call_soon_threadsafe(self._hang_up)
        try:
            yield
        finally:
            self._open.set()

    def _hang_up(self) -> None:
        for line in self._lines:
            line.transport.abort()

    async def _run(self, listening: threading.Event) -> None:
        self._stop = asyncio.Event()
        async with await asyncio.start_server(self._serve, self._host, self.port):
            listening.set()
            await self._stop.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open.is_set():
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._lines |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._lines -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(2**16):
                while self._dead:
                    await asyncio.sleep(0.05)
                if self._delay:
                    self._loop.call_later(self._delay, writer.write, chunk)
                    continue
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()


def free_ports(count: int) -> list[int]:
    """No two alike: each is held until all are drawn."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    return free_ports(1)[0]
