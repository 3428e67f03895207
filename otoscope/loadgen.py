"""A load generator that costs next to nothing, since it shares the machine with what it measures.

Requests are put into bytes beforehand and sent over connections that stay open; of an answer only its status and its
length are looked at. Closed loop: so many callers, each of whom waits for an answer before it asks again, which finds
the most that a service can do. Open loop: requests leave at a fixed rate whatever comes back, and time counts from when
a request was due, so that a service that stalls is not spared the requests that it kept from being sent.
"""

import asyncio
import itertools
import ssl
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from otoscope.connection import address


@dataclass
class Measured:
    """What came back, counted from the end of the warm-up."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds, of the answers that were right
    outcomes: Counter[str] = field(default_factory=Counter)  # by status, or by the name of what went wrong
    bytes: int = 0

    @property
    def throughput(self) -> float:
        """Right answers a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    @property
    def errors(self) -> int:
        return self.outcomes.total() - len(self.latencies)

    def percentile(self, share: int) -> float:
        """Seconds; nan where nothing came back."""
        if len(self.latencies) < 2:
            return self.latencies[0] if self.latencies else float("nan")
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[share - 1]

    def summary(self) -> dict[str, float | int | dict[str, int]]:
        """What a report says of it; latencies in ms."""
        told: dict[str, float | int | dict[str, int]] = {"per_second": round(self.throughput, 1)}
        told |= {f"p{share}_ms": round(1e3 * self.percentile(share), 1) for share in (50, 95, 99)}
        told |= {"answers": len(self.latencies), "errors": self.errors}
        if self.errors:
            told["outcomes"] = dict(self.outcomes)
        return told


@dataclass(frozen=True)
class Target:
    """Where requests go; right answers are those with one of the statuses `right`."""

    host: str
    port: int
    right: frozenset[int] = frozenset({200})
    timeout: float = 60.0
    source: str | None = None  # address of this machine to ask from
    tls: ssl.SSLContext | None = None
    prefix: str = ""  # what every path begins with

    @classmethod
    def of(cls, url: str, right: Sequence[int] = (200,), source: str | None = None) -> "Target":
        """Raises InvalidRequest where nobody can be asked there."""
        there = address(url, "a service", "http://127.0.0.1:8000")
        # The context is the client's, which so trusts the same certificates.
        tls, port = (httpx.create_ssl_context(), 443) if there.scheme == "https" else (None, 80)
        host, prefix = there.raw_host.decode(), there.raw_path.decode().rstrip("/")
        return cls(host, there.port or port, frozenset(right), source=source, tls=tls, prefix=prefix)

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
        """A request as it goes over the wire."""
        lines = [
            f"{method} {self.prefix}{path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Content-Length: {len(body)}",
        ]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return "\r\n".join([*lines, "", ""]).encode() + body


async def closed_loop(
    target: Target, requests: Sequence[bytes], callers: int, seconds: float, warm_up: float = 1.0
) -> Measured:
    """`callers` at a time for that long, after a warm-up that does not count."""
    measured, turn = Measured(), itertools.cycle(requests)
    begin = time.perf_counter() + warm_up
    end = begin + seconds

    async def call() -> None:
        async with _Line(target) as line:
            while (sent := time.perf_counter()) < end:
                await _once(line, next(turn), sent, measured, counts=lambda: begin <= time.perf_counter() < end)

    await asyncio.gather(*(call() for _ in range(callers)))
    measured.seconds = seconds
    return measured


async def open_loop(
    target: Target, requests: Sequence[bytes], rate: float, seconds: float, most: int = 1_000
) -> Measured:
    """`rate` requests a second; one that finds all of `most` connections taken counts as `unsent`."""
    measured, turn = Measured(), itertools.cycle(requests)
    idle: list[_Line] = []
    under_way: set[asyncio.Task[None]] = set()

    async def call(due: float) -> None:
        line = idle.pop() if idle else _Line(target)
        await _once(line, next(turn), due, measured, counts=lambda: True)
        idle.append(line)

    begin = time.perf_counter()
    for due in _ticks(begin, rate, seconds):
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if len(under_way) >= most:
            measured.outcomes["unsent"] += 1
            continue
        task = asyncio.create_task(call(due))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)
    measured.seconds = time.perf_counter() - begin
    for line in idle:
        line.hang_up()
    return measured


def _ticks(begin: float, rate: float, seconds: float) -> Iterator[float]:
    return (begin + number / rate for number in range(int(rate * seconds)))


async def _once(line: "_Line", request: bytes, since: float, measured: Measured, counts: Callable[[], bool]) -> None:
    try:
        status, size = await line.ask(request)
        outcome = str(status)
    except (OSError, EOFError, TimeoutError, ValueError) as error:
        line.hang_up()
        status, size, outcome = 0, 0, type(error).__name__
    if not counts():
        return
    measured.outcomes[outcome] += 1
    measured.bytes += size
    if status in line.target.right:
        measured.latencies.append(time.perf_counter() - since)
    elif status == 0:
        await asyncio.sleep(0.05)  # a service that is not there is not asked a million times a second


class _Line:
    """One connection, opened when it is needed and kept."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> "_Line":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.hang_up()

    async def ask(self, request: bytes) -> tuple[int, int]:
        """Status and length of the answer's body. Raises OSError, EOFError, TimeoutError or ValueError."""
        async with asyncio.timeout(self.target.timeout):
            if self._streams and self._streams[0].at_eof():  # closed by the other end while nobody asked
                self.hang_up()
            if self._streams is None:
                source = (self.target.source, 0) if self.target.source else None
                self._streams = await asyncio.open_connection(
                    self.target.host, self.target.port, limit=2**20, local_addr=source, ssl=self.target.tls
                )
            reader, writer = self._streams
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status, headers = int(head[9:12]), head.lower()
            size = await _body(reader, headers)
            if b"connection: close" in headers:
                self.hang_up()
            return status, size

    def hang_up(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None


async def _body(reader: asyncio.StreamReader, headers: bytes) -> int:
    """Read to the end of the body and say how long it was."""
    _, found, rest = headers.partition(b"content-length:")
    if found:
        size = int(rest.partition(b"\r\n")[0])
        await reader.readexactly(size)
        return size
    if b"transfer-encoding: chunked" not in headers:
        return 0
    total = 0
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
        total += size
    await reader.readline()
    return total


def measure(
    target: Target,
    requests: Sequence[bytes],
    *,
    callers: int = 0,
    rate: float = 0.0,
    seconds: float,
    warm_up: float = 1.0,
) -> Measured:
    """`closed_loop` of so many callers, or `open_loop` at that rate, from the outside of any event loop."""
    if callers:
        return run(closed_loop(target, requests, callers, seconds, warm_up))
    return run(open_loop(target, requests, rate, seconds))


def run(coroutine: Awaitable[Measured]) -> Measured:
    """On uvloop where it is installed: the cheaper the generator, the less it takes from what it measures."""

    async def main() -> Measured:
        return await coroutine

    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    return uvloop.run(main())  # type: ignore[no-any-return, unused-ignore]
