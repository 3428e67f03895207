"""A service for fault injection, as separate processes: Redis, workers, gateway, and a TCP proxy in front of Redis.

Everything listens on loopback. There is no supervisor: a test that kills a process also decides when it is restarted.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Self

import httpx2
import redis

from bench.lib.memory_limit import MemoryLimit, memory_limit
from commands.stack.embedded_redis import Home

ROOT = Path(__file__).resolve().parents[2]


class Rig:
    """`with Rig(folder, models) as rig:`; `start` starts everything, the end of the block stops it.

    With `proxy` gateway and workers connect to Redis through a `TcpProxy` that can be interrupted.
    """

    def __init__(
        self,
        folder: Path,
        models: Path,
        *,
        workers: int = 1,
        gateways: int = 1,
        servers: int = 1,
        proxy: bool = False,
        data: Path | None = None,
        cores: Sequence[int] = (),
        memory: Mapping[str, int] = MappingProxyType({}),
        **settings: str,
    ) -> None:
        """`settings` are OTOSCOPE_ variables in lower case; `data` is the folder of Redis' file; worker N is pinned to
        the Nth of `cores`; `memory` limits processes, by their name, to so many bytes. The first gateway is `gateway`,
        the others are `gateway 1` and so on. The first of several Redis servers is `server`, the others are `server 1`
        and so on; worker N takes the jobs of the Nth server, and begins again behind the last one. The proxy is in
        front of the first one."""
        self.folder, self._workers, self._cores = folder, workers, cores
        self.port, self.server_port, *ports = free_ports(gateways + servers)
        ports, more = ports[: gateways - 1], ports[gateways - 1 :]
        self._servers = {"server": self.server_port, **{f"server {n}": port for n, port in enumerate(more, 1)}}
        self._gateways = {"gateway": self.port, **{f"gateway {n}": port for n, port in enumerate(ports, 1)}}
        self.urls = [f"http://127.0.0.1:{port}" for port in self._gateways.values()]
        self.url = self.urls[0]
        self._home = Home(data or folder / "data")
        self._homes = {"server": self._home, **{f"server {n}": Home(folder / f"data-{n}") for n in range(1, servers)}}
        for home in self._homes.values():
            home.directory.mkdir(exist_ok=True)
        self.proxy = TcpProxy(self.server_port) if proxy else None
        reached = self.proxy.port if self.proxy else self.server_port
        self._urls = [f"redis://127.0.0.1:{port}/0" for port in (reached, *more)]
        own = {
            "redis_url": " ".join(self._urls),
            "models_dir": str(models),
            "metrics_port": "0",
            **settings,
        }
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("OTOSCOPE_")}
        self._environment |= {f"OTOSCOPE_{name.upper()}": value for name, value in own.items()}
        self._environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._memory = memory
        self.limits: dict[str, MemoryLimit] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.redis = redis.Redis(port=self.server_port)
        self._more_redis = [redis.Redis(port=port) for port in more]
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        if self.proxy:
            self._exit.enter_context(self.proxy)
        for name, size in self._memory.items():
            self.limits[name] = self._exit.enter_context(memory_limit(size, name))
        self._exit.callback(self._end)  # before the proxy: processes that have lost Redis take long to end
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def stores(self) -> list[redis.Redis]:
        """A client of each Redis server."""
        return [self.redis, *self._more_redis]

    @property
    def workers(self) -> list[str]:
        return [f"worker {n}" for n in range(self._workers)]

    def start(self) -> None:
        """Start everything, in the order of dependency, and wait until it is ready."""
        for name in (*self._servers, *self.workers, *self._gateways):
            self.begin(name)
        for url in self.urls:
            self.wait_until_ready(self._workers, url=url)

    def begin(self, name: str) -> None:
        """Start one of `server` (Redis), `gateway` and `worker N`; the server, until it answers."""
        command, limit = self.command(name), self.limits.get(name)
        own = {"OTOSCOPE_PORT": str(self._gateways[name])} if name in self._gateways else {}
        if self._more_redis and name in self.workers:
            own["OTOSCOPE_REDIS_URL"] = self._urls[self.workers.index(name) % len(self._urls)]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                limit.command(command) if limit else command,
                env=self._environment | own,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if limit:
            limit.started(self.processes[name].pid)
        if name in self.workers[: len(self._cores)]:
            os.sched_setaffinity(self.processes[name].pid, {self._cores[self.workers.index(name)]})
        if name in self._servers:
            self._wait(lambda: self.server_answers(name), f"the {name}", 60)

    def command(self, name: str) -> Sequence[str | Path]:
        """The command line of that process."""
        if port := self._servers.get(name):
            # The later of two options counts: those of the embedded server, then a port on loopback.
            return [*self._homes[name].program().argv, "--port", str(port), "--bind", "127.0.0.1"]
        return [sys.executable, "-m", "api" if name in self._gateways else "worker"]

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes[name].kill()
        self.processes[name].wait()

    def signal(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)

    def wait_until_ready(self, workers: int = 1, seconds: float = 120, url: str = "") -> None:
        def ready() -> bool:
            with suppress(httpx2.HTTPError):
                return bool(httpx2.get(f"{url or self.url}/health/ready", timeout=2).json()["workers"] >= workers)
            return False

        self._wait(ready, f"a service with {workers} workers", seconds)

    def server_answers(self, name: str = "server") -> bool:
        with suppress(redis.exceptions.RedisError):
            return bool(self.stores[list(self._servers).index(name)].ping())
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
        for store in self.stores:
            store.close()
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


class TcpProxy:
    """A TCP proxy in a thread of its own, for faults of the network: `stalled` holds all data back until the end of the
    block, `disconnected` resets connections and accepts none, and data is forwarded after `delay` seconds."""

    def __init__(self, to: int, host: str = "127.0.0.1", delay: float = 0) -> None:
        self.port = free_port()
        self._to, self._host, self._delay = to, host, delay
        self._open = threading.Event()
        self._open.set()
        self._stalled = False
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        listening = threading.Event()
        threading.Thread(target=lambda: self._loop.run_until_complete(self._run(listening)), daemon=True).start()
        listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._hang_up)
        self._loop.call_soon_threadsafe(self._stop.set)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        self._stalled = True
        try:
            yield
        finally:
            self._stalled = False

    @contextmanager
    def disconnected(self) -> Iterator[None]:
        self._open.clear()
        self._loop.call_soon_threadsafe(self._hang_up)
        try:
            yield
        finally:
            self._open.set()

    def _hang_up(self) -> None:
        for connection in self._connections:
            connection.transport.abort()

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
        self._connections |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._connections -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(2**16):
                while self._stalled:
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
    """Distinct free ports: each is bound until all are chosen."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    return free_ports(1)[0]
