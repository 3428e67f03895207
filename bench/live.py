"""Latency and cost of live streams: from the end of a window of sound to its answer.

    .venv/bin/python bench/live.py [--streams 1 10 20 40] [--seconds 20] [--rate 16000] [--include maps]

Starts a service of its own, opens so many streams, sends each its sound in real time in blocks of 50 ms, and stops it.
The streams are out of step, as those of different microphones are. Prints a table and one line of JSON: the latency
from sending the last block of a window to its answer, measured by the client; windows that were answered, dropped and
failed; CPU of each process for a window, and the streams that a core carries by that. Ends with status 1 if a window
failed.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgpack
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

sys.path.append(str(Path(__file__).parents[1]))
from bench.lib.clips import clips, model_directory
from bench.lib.machine import describe
from bench.lib.stack import Stack, stack

BLOCK_SECONDS = 0.05
WARM_UP = 6.0  # seconds: the first windows of a stream are shorter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="esc50-light", help="one of models/")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 10, 20, 40])
    parser.add_argument("--seconds", type=float, default=20, help="that are measured, after a warm-up of 6 s")
    parser.add_argument("--hop", type=float, default=0.5)
    parser.add_argument("--rate", type=int, default=16_000)
    parser.add_argument("--include", default="", help="parts that each answer has")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": describe(), "options": vars(options)}
    with (
        tempfile.TemporaryDirectory() as folder,
        stack(
            model_directory(options.model, Path(folder)), max_streams=str(2 * max(options.streams)), caller_share="1"
        ) as service,
    ):
        report["loads"] = [asyncio.run(load(service, count, options)) for count in options.streams]
    for each in report["loads"]:
        print(row(each), file=sys.stderr)
    print(json.dumps(report))
    if any(each["failed"] for each in report["loads"]):
        raise SystemExit(1)


class Streams:
    """What the open streams have measured since the warm-up."""

    def __init__(self) -> None:
        self.latencies: list[float] = []  # seconds
        self.dropped = self.failed = 0
        self.measuring = False

    def add(self, answer: dict[str, Any], latency: float) -> None:
        if not self.measuring:
            return
        self.dropped += answer["dropped"]
        if answer["error"]:
            self.failed += 1
        else:
            self.latencies.append(latency)


async def load(service: Stack, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of that many streams."""
    found = Streams()
    until = time.monotonic() + WARM_UP + options.seconds
    tasks = [
        asyncio.create_task(one_stream(service.url, number, count, until, options, found)) for number in range(count)
    ]
    await asyncio.sleep(WARM_UP)
    before, found.measuring = service.cpu(), True
    await asyncio.sleep(options.seconds)
    spent, found.measuring = service.cpu(), False
    await asyncio.gather(*tasks)
    windows = max(len(found.latencies), 1)
    cost = {name: round(1e3 * (spent[name] - before[name]) / windows, 2) for name in spent}
    of_service = sum(value for name, value in cost.items() if name != "load")
    p50, p95, p99 = np.percentile(found.latencies or [float("nan")], [50, 95, 99]) * 1e3
    return {
        "streams": count,
        "answered": len(found.latencies),
        "dropped": found.dropped,
        "failed": found.failed,
        "p50_ms": round(p50, 1),
        "p95_ms": round(p95, 1),
        "p99_ms": round(p99, 1),
        "cpu_ms_a_window": cost,
        "streams_a_core": round(1e3 * options.hop / of_service, 1) if of_service else None,
        "memory_mb": service.memory(),
    }


async def one_stream(
    url: str, number: int, count: int, until: float, options: argparse.Namespace, found: Streams
) -> None:
    """Sound of its own in real time; its windows end at other times than those of the other streams."""
    sound = np.concatenate(clips(4)[number % 4 :] + clips(4)[: number % 4])  # (samples,)
    pcm = (sound * 32_767).astype("<i2").tobytes()
    size = round(BLOCK_SECONDS * options.rate) * 2
    query = {"rate": options.rate, "hop": options.hop, "model": options.model, "include": options.include}
    query = {name: value for name, value in query.items() if value}
    await asyncio.sleep(options.hop * number / count)
    address = f"{url.replace('http', 'ws', 1)}/v1/stream?{urlencode(query)}"
    async with connect(address, compression=None, proxy=None, max_size=None) as socket:
        await socket.recv()
        sent: list[float] = []  # when each block was sent
        reader = asyncio.create_task(read(socket, sent, found))
        began = time.monotonic()
        while (now := time.monotonic()) < until:
            at = len(sent) * size % len(pcm)
            block = pcm[at : at + size]
            sent.append(now)
            await socket.send(block + pcm[: size - len(block)])
            await asyncio.sleep(max(0.0, began + len(sent) * BLOCK_SECONDS - time.monotonic()))
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def read(socket: ClientConnection, sent: list[float], found: Streams) -> None:
    """Note the latency of every answer."""
    async for message in socket:
        answer = json.loads(message) if isinstance(message, str) else msgpack.unpackb(message)
        if answer["type"] != "answer":
            raise SystemExit(f"the stream ended: {answer}")
        block = min(round(answer["end"] / BLOCK_SECONDS), len(sent)) - 1
        found.add(answer, time.monotonic() - sent[block])


def row(each: dict[str, Any]) -> str:
    return (
        f"{each['streams']:>4} streams  answered {each['answered']:>5}  dropped {each['dropped']:>4}  failed"
        f" {each['failed']:>3}  p50 {each['p50_ms']:>7.1f}  p95 {each['p95_ms']:>7.1f}  p99 {each['p99_ms']:>7.1f} ms"
        f"  CPU ms a window {each['cpu_ms_a_window']}  streams a core {each['streams_a_core']}"
    )


if __name__ == "__main__":
    main()
