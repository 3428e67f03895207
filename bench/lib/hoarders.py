"""Clients that make a process hold memory: large uploads, unread responses, endless trailers, long sounds."""

import asyncio
import io
import itertools
import time
import wave
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2
import numpy as np
import soundfile

RATE = 16_000
UPLOAD_BYTES = 32 * 2**20  # the default of OTOSCOPE_MAX_UPLOAD_BYTES
READ_SECONDS = 265  # of a sound whose full spectrogram is 11 MB of JSON
_TRAILERS = b"X-A: b\r\n" * 8_192


def addresses() -> Iterator[str]:
    """Addresses of loopback: to the service each is another caller."""
    return (f"127.0.{n // 250 + 1}.{n % 250 + 1}" for n in itertools.count())


def wav(size: int) -> bytes:
    """A file of that size, of noise."""
    samples = np.random.default_rng(0).normal(scale=1_000, size=(size - 44) // 2).astype("<i2").tobytes()
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples)
    return buffer.getvalue()


def long_flac(seconds: float = 600) -> bytes:
    """A slow square wave, which FLAC stores in a few kilobytes."""
    samples = np.where(np.arange(int(seconds * RATE)) // 8_192 % 2, 3_000, -3_000).astype("<i2")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="FLAC")
    return buffer.getvalue()


@asynccontextmanager
async def connection(url: str, source: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection from that address, with a small receive buffer; aborted at the end."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(source, 0), limit=2_048)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


async def upload(url: str, source: str, body: bytes, finish: asyncio.Event) -> str:
    """Send all but the last byte, that one at `finish`; the status of the response."""
    async with connection(url, source) as (reader, writer):
        with suppress(ConnectionError):
            writer.write(_head("POST", "/v1/jobs", "Content-Type: audio/wav", f"Content-Length: {len(body)}"))
            for at in range(0, len(body) - 1, 2**18):
                writer.write(body[at : min(at + 2**18, len(body) - 1)])
                await writer.drain()
            await finish.wait()
            writer.write(body[-1:])
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(60):
                return (await reader.readline()).decode().split(" ")[1]
    return "closed"


async def unread(url: str, source: str, path: str, end: asyncio.Event) -> None:
    """Request something and read nothing of it."""
    async with connection(url, source) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(_head("GET", path))
        await end.wait()


async def trailers(url: str, source: str, end: asyncio.Event) -> None:
    """Chunked bodies with trailers that do not end; again whenever the connection is closed."""
    while not end.is_set():
        async with connection(url, source) as (_, writer):
            with suppress(ConnectionError):
                writer.write(_head("POST", "/v1/jobs", "Content-Type: audio/wav", "Transfer-Encoding: chunked"))
                writer.write(b"4\r\nRIFF\r\n0\r\n")
                while not end.is_set():
                    writer.write(_TRAILERS)
                    await writer.drain()
        await asyncio.sleep(0.05)


@dataclass
class Probe:
    """Another client: reads a job again and again."""

    url: str
    statuses: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0  # seconds

    async def run(self, path: str, end: asyncio.Event) -> None:
        transport = httpx2.AsyncHTTPTransport(local_address="127.0.0.9")
        async with httpx2.AsyncClient(base_url=self.url, transport=transport, timeout=60) as client:
            while not end.is_set():
                began = time.monotonic()
                try:
                    self.statuses[str((await client.get(path)).status_code)] += 1
                except httpx2.HTTPError as error:
                    self.statuses[type(error).__name__] += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
                await asyncio.sleep(0.1)


async def hoard_gateway(
    url: str, small: str, large: str, *, uploads: int = 30, readers: int = 200, seconds: float = 20
) -> dict[str, dict[str, int] | float]:
    """All at once for so many seconds; `small` and `large` are paths of jobs. What happened to whom."""
    end, finish, sources, body = asyncio.Event(), asyncio.Event(), addresses(), wav(UPLOAD_BYTES)
    probe = Probe(url)
    kinds = itertools.cycle((f"{large}/events", large, f"{large}/result", f"{large}?wait=30"))
    async with asyncio.TaskGroup() as group:
        sent = [group.create_task(upload(url, next(sources), body, finish)) for _ in range(uploads)]
        for _ in range(readers):
            group.create_task(unread(url, next(sources), next(kinds), end))
        for _ in range(4):
            group.create_task(trailers(url, next(sources), end))
        group.create_task(probe.run(small, end))
        await asyncio.sleep(seconds / 2)
        finish.set()
        await asyncio.wait(sent)
        await asyncio.sleep(seconds / 2)
        end.set()
    return {
        "uploads": dict(Counter(each.result() for each in sent)),
        "others": dict(probe.statuses),
        "slowest": round(probe.slowest, 1),
    }
