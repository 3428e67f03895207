"""A load generator with little overhead of its own, since it shares the machine with the service that it measures.

Requests are serialized beforehand and sent over persistent connections; of a response only the status and the length
are read. Closed loop: a number of callers, each of which waits for its response before it sends the next request; this
measures the maximum throughput. Open loop: requests are sent at a fixed rate regardless of the responses, and latency
counts from the time at which a request was due, so that a service that stalls is also charged for the requests that the
stall delayed (no coordinated omission).
"""

import asyncio
import itertools
import ssl
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import httpx2

from otoscope.connection import parse_url

CLOSE_SECONDS = 1.0  # for a server to end TLS


@dataclass
class LoadResult:
    """The responses, counted from the end of the warm-up."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds, of the successful responses
    outcomes: Counter[str] = field(default_factory=Counter)  # by status, or by the name of the exception
    bytes: int = 0

    @property
    def throughput(self) -> float:
        """Successful responses a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    @property
    def errors(self) -> int:
        return self.outcomes.total() - len(self.latencies)

    def percentile(self, share: int) -> float:
        """Seconds; nan without any successful response."""
        if len(self.latencies) < 2:
            return self.latencies[0] if self.latencies else float("nan")
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[share - 1]

    def summary(self) -> dict[str, float | int | dict[str, int]]:
        """The figures of a report; latencies in ms."""
        figures: dict[str, float | int | dict[str, int]] = {"per_second": round(self.throughput, 1)}
        figures |= {f"p{share}_ms": round(1e3 * self.percentile(share), 1) for share in (50, 95, 99)}
        figures |= {"answers": len(self.latencies), "errors": self.errors}
        if self.errors:
            figures["outcomes"] = dict(self.outcomes)
        return figures


@dataclass(frozen=True)
class Target:
    """Where requests are sent; a response with one of the `success` statuses is a success."""

    host: str
    port: int
    success: frozenset[int] = frozenset({200})
    timeout: float = 60.0
    source: str | None = None  # local address to connect from
    tls: ssl.SSLContext | None = None
    prefix: str = ""  # path of the service's URL

    @classmethod
    def of(cls, url: str, success: Sequence[int] = (200,), source: str | None = None) -> "Target":
        """Raises InvalidRequest if the URL is not one of a service."""
        parsed = parse_url(url, "a service", "http://127.0.0.1:8000")
        # The same context as the client's, so that both trust the same certificates.
        tls, port = (httpx2.create_ssl_context(), 443) if parsed.scheme == "https" else (None, 80)
        host, prefix = parsed.raw_host.decode(), parsed.raw_path.decode().rstrip("/")
        return cls(host, parsed.port or port, frozenset(success), source=source, tls=tls, prefix=prefix)

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
        """A serialized HTTP/1.1 request."""
        lines = [
            f"{method} {self.prefix}{path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Content-Length: {len(body)}",
        ]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return "\r\n".join([*lines, "", ""]).encode() + body


async def closed_loop(
    target: Target, requests: Sequence[bytes], callers: int, seconds: float, warm_up: float = 1.0
) -> LoadResult:
    """`callers` concurrent callers for `seconds`, after a warm-up that is not counted."""
    result, turn = LoadResult(), itertools.cycle(requests)
    begin = time.perf_counter() + warm_up
    end = begin + seconds

    async def call() -> None:
        async with _Connection(target) as connection:
            while (sent := time.perf_counter()) < end:
                await _send_one(connection, next(turn), sent, result, counts=lambda: begin <= time.perf_counter() < end)

    await asyncio.gather(*(call() for _ in range(callers)))
    result.seconds = seconds
    return result


async def open_loop(
    target: Target, requests: Sequence[bytes], rate: float, seconds: float, max_connections: int = 1_000
) -> LoadResult:
    """`rate` requests a second; one that is due while `max_connections` are in use counts as `unsent`."""
    result, turn = LoadResult(), itertools.cycle(requests)
    idle: list[_Connection] = []
    in_flight: set[asyncio.Task[None]] = set()

    async def call(due: float) -> None:
        connection = idle.pop() if idle else _Connection(target)
        await _send_one(connection, next(turn), due, result, counts=lambda: True)
        idle.append(connection)

    begin = time.perf_counter()
    for due in _ticks(begin, rate, seconds):
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if len(in_flight) >= max_connections:
            result.outcomes["unsent"] += 1
            continue
        task = asyncio.create_task(call(due))
        in_flight.add(task)
        task.add_done_callback(in_flight.discard)
    await asyncio.gather(*in_flight)
    result.seconds = time.perf_counter() - begin
    await asyncio.gather(*(connection.close() for connection in idle))
    return result


def _ticks(begin: float, rate: float, seconds: float) -> Iterator[float]:
    return (begin + number / rate for number in range(int(rate * seconds)))


async def _send_one(
    connection: "_Connection", request: bytes, since: float, result: LoadResult, counts: Callable[[], bool]
) -> None:
    try:
        status, size = await connection.exchange(request)
        outcome = str(status)
    except (OSError, EOFError, TimeoutError, ValueError) as error:
        await connection.close()
        status, size, outcome = 0, 0, type(error).__name__
    if not counts():
        return
    result.outcomes[outcome] += 1
    result.bytes += size
    if status in connection.target.success:
        result.latencies.append(time.perf_counter() - since)
    elif status == 0:
        await asyncio.sleep(0.05)  # do not retry an absent service a million times a second


class _Connection:
    """One persistent connection, opened on first use."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> "_Connection":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def exchange(self, request: bytes) -> tuple[int, int]:
        """Status and length of the response body. Raises OSError, EOFError, TimeoutError or ValueError."""
        async with asyncio.timeout(self.target.timeout):
            if self._streams and self._streams[0].at_eof():  # closed by the server while idle
                await self.close()
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
                await self.close()
            return status, size

    async def close(self) -> None:
        """Waits for the end of TLS, since an event loop that is closed during it raises an error."""
        if self._streams is None:
            return
        (_, writer), self._streams = self._streams, None
        writer.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError):
            writer.transport.abort()


async def _body(reader: asyncio.StreamReader, headers: bytes) -> int:
    """Read to the end of the body; returns its length in bytes."""
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
) -> LoadResult:
    """`closed_loop` with `callers`, or `open_loop` at `rate`; not for use inside an event loop."""
    if callers:
        return run(closed_loop(target, requests, callers, seconds, warm_up))
    return run(open_loop(target, requests, rate, seconds))


def run(coroutine: Awaitable[LoadResult]) -> LoadResult:
    """On uvloop where installed: the cheaper the generator, the less it takes from the service that it measures."""

    async def main() -> LoadResult:
        return await coroutine

    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    return uvloop.run(main())  # type: ignore[no-any-return, unused-ignore]
