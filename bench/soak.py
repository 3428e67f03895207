"""Soak and overload tests, and clients that misbehave.

    .venv/bin/python bench/soak.py overload [--minutes 5] [--times 10]   far more than the capacity
    .venv/bin/python bench/soak.py steady [--minutes 60] [--share 0.8]   a share of the capacity, for long
    .venv/bin/python bench/soak.py streams [--count 1000]                event streams open at once
    .venv/bin/python bench/soak.py fair [--waiting 400]                  one caller's backlog, and another caller
    .venv/bin/python bench/soak.py slow [--count 200]                    slow senders and readers

Each starts a service of its own with --model on loopback, shows a progress bar, and prints one line of JSON. Callers
are distinguished by their addresses: 127.0.0.2, 127.0.0.3 and so on.
"""

import argparse
import asyncio
import json
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2

sys.path.append(str(Path(__file__).parents[1]))
from tqdm import tqdm

from bench.lib.clips import MODEL, encoded, model_directory
from bench.lib.machine import describe
from bench.lib.stack import Stack, stack, submissions
from otoscope.loadgen import LoadResult, Target, measure

Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="esc50-light", help=f"{MODEL}, or one of models/")
    kinds = parser.add_subparsers(dest="kind", required=True)
    overload = kinds.add_parser("overload")
    overload.add_argument("--minutes", type=float, default=5)
    overload.add_argument("--times", type=float, default=10, help="of the capacity")
    steady = kinds.add_parser("steady")
    steady.add_argument("--minutes", type=float, default=60)
    steady.add_argument("--share", type=float, default=0.8, help="of the capacity")
    kinds.add_parser("streams").add_argument("--count", type=int, default=1_000)
    kinds.add_parser("fair").add_argument("--waiting", type=int, default=400)
    kinds.add_parser("slow").add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    runs: dict[str, Callable[[Stack, argparse.Namespace], Figures]] = {
        "overload": run_overload, "steady": run_steady, "streams": run_streams, "fair": run_fair, "slow": run_slow,
    }  # fmt: skip
    # Results expire soon, so that the intended growth of Redis does not hide a leak.
    settings = {
        "slow": {"upload_seconds": "5"},
        "streams": {"queue_limit": "10000"},
        "steady": {"result_ttl": "60", "tombstone_ttl": "60"},
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        stack(model_directory(options.model, Path(folder)), **settings.get(options.kind, {})) as service,
    ):
        figures = runs[options.kind](service, options)
    print(json.dumps({"machine": describe(), "options": vars(options), **figures}))


def measure_capacity(service: Stack, seconds: float = 20) -> LoadResult:
    """The throughput of 64 callers that wait for their results."""
    return measure(service.target, submissions(service.target, encoded("FLAC")), callers=64, seconds=seconds, warm_up=3)


def run_overload(service: Stack, options: argparse.Namespace) -> Figures:
    """Requests at a fixed rate far above the capacity; none waits for its result."""
    capacity = measure_capacity(service)
    target = Target.of(service.url, (202,))
    headers = {"Content-Type": "audio/flac"}
    requests = [target.request("POST", "/v1/jobs", headers, sound) for sound in encoded("FLAC")]
    before, memory, used, began = service.totals(), [service.memory()], service.cpu(), time.monotonic()
    seconds = 60 * options.minutes
    retry_after: list[str] = []
    threading.Timer(seconds / 2, lambda: retry_after.append(_retry_after(service))).start()
    with Monitor(service, seconds, memory):
        load = measure(target, requests, rate=options.times * capacity.throughput, seconds=seconds)
    lasted, after = time.monotonic() - began, service.totals()
    busy = {name: round((spent - used[name]) / lasted, 2) for name, spent in service.cpu().items()}
    ended = time.monotonic()
    one = Target.of(service.url, source="127.0.0.2")
    while True:  # another caller, without jobs in the queue
        back = measure(one, submissions(one, encoded("FLAC", 4)), callers=1, seconds=0.5, warm_up=0)
        if back.errors == 0 and back.percentile(50) < 0.25:
            break
    recovered = time.monotonic() - ended
    return {
        "best_per_second": round(capacity.throughput, 1),
        "served_per_second": round((after["succeeded"] - before["succeeded"]) / lasted, 1),
        "share_of_best": round((after["succeeded"] - before["succeeded"]) / lasted / capacity.throughput, 3),
        "cores_busy": busy,
        "requests_per_second": round(load.outcomes.total() / lasted, 1),
        "outcomes": dict(load.outcomes),
        "error_responses": service.error_responses(),
        "retry_after_seconds": retry_after,
        "seconds_from_submission_to_end": _waits(service),
        "recovered_after": round(recovered, 1),
        "memory_mb": {"before": memory[0], "most": _most(memory), "after": service.memory()},
        "totals": service.totals(),
    }


def _retry_after(service: Stack) -> str:
    """The Retry-After of a rejected request."""
    headers = {"Content-Type": "audio/flac"}
    return httpx2.post(f"{service.url}/v1/jobs", content=b"", headers=headers).headers.get("Retry-After", "not refused")


def _waits(service: Stack) -> Figures:
    """Percentiles of the duration of accepted jobs, from their records."""
    taken = service.durations()
    return {f"p{share}": round(statistics.quantiles(taken, n=100)[share - 1], 2) for share in (50, 95, 99)}


def run_steady(service: Stack, options: argparse.Namespace) -> Figures:
    """A share of the capacity, for long."""
    capacity = measure_capacity(service)
    memory: list[dict[str, int]] = []
    descriptors: list[dict[str, int]] = []
    seconds = 60 * options.minutes
    requests = submissions(service.target, encoded("FLAC"))
    with Monitor(service, seconds, memory, descriptors):
        rate = options.share * capacity.throughput
        load = measure(service.target, requests, rate=rate, seconds=seconds)
    tenth = max(len(memory) // 10, 1)  # caches fill during the first tenth
    return {
        "best_per_second": round(capacity.throughput, 1),
        "load": load.summary(),
        "jobs": service.totals()["accepted"],
        "memory_mb": {"after_a_tenth": memory[tenth], "half": memory[len(memory) // 2], "end": memory[-1]},
        "descriptors": {"after_a_tenth": descriptors[tenth], "end": descriptors[-1]},
    }


def run_streams(service: Stack, options: argparse.Namespace) -> Figures:
    """Streams that are opened while the worker is stopped; each has to report its job's end when it continues."""
    worker = next(process for name, process in service.processes() if name == "worker")
    worker.suspend()
    sounds = encoded("FLAC", 4)

    async def follow(callers: list[httpx2.AsyncClient], n: int, bar: tqdm, ready: asyncio.Event) -> str:
        http = callers[n % len(callers)]
        headers = {"Content-Type": "audio/flac"}
        job = (await http.post("/v1/jobs", content=sounds[n % len(sounds)], headers=headers)).json()
        last = ""
        async with http.stream("GET", job["links"]["events"] + "?include_result=false") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    if not last:
                        bar.update()
                        if bar.n == options.count:
                            ready.set()
                    last = json.loads(line[5:])["status"]
        return last

    async def run_all() -> Figures:
        limits, ready = httpx2.Limits(max_connections=None), asyncio.Event()
        async with AsyncExitStack() as exit:
            callers = []
            for n in range(2, 12):  # a single caller may not take that many places
                transport = httpx2.AsyncHTTPTransport(local_address=f"127.0.0.{n}", limits=limits)
                caller = httpx2.AsyncClient(base_url=service.url, timeout=300, transport=transport)
                callers.append(await exit.enter_async_context(caller))
            with tqdm(total=options.count, unit="stream", file=sys.stderr) as bar:
                began = time.monotonic()
                tasks = [asyncio.create_task(follow(callers, n, bar, ready)) for n in range(options.count)]
                await ready.wait()
                opened, memory = time.monotonic() - began, service.memory()
                began = time.monotonic()
                health = (await callers[0].get("/health/live")).elapsed.total_seconds()
                worker.resume()
                ends = Counter(await asyncio.gather(*tasks))
        return {
            "opened_after": round(opened, 1),
            "ended_after": round(time.monotonic() - began, 1),
            "ends": dict(ends),
            "another_request_ms": round(1e3 * health, 1),
            "memory_mb_while_open": memory,
            "memory_mb_after": service.memory(),
        }

    try:
        return asyncio.run(run_all())
    finally:
        worker.resume()


def run_fair(service: Stack, options: argparse.Namespace) -> Figures:
    """One caller keeps that many jobs unfinished; another submits one sound at a time."""
    few = Target.of(service.url, source="127.0.0.2")
    one = submissions(few, encoded("FLAC", 4))
    alone = measure(few, one, callers=1, seconds=5)
    many = submissions(service.target, encoded("FLAC"))
    loads: dict[str, LoadResult] = {}
    crowd = threading.Thread(
        target=lambda: loads.update(many=measure(service.target, many, callers=options.waiting, seconds=20))
    )
    crowd.start()
    time.sleep(5)
    loads["few"] = measure(few, one, callers=1, seconds=10)
    crowd.join()
    return {"alone": alone.summary(), "beside": loads["few"].summary(), "the crowd": loads["many"].summary()}


def run_slow(service: Stack, options: argparse.Namespace) -> Figures:
    """Request heads and bodies that never end, and responses that are not read, beside a normal caller."""
    one = submissions(service.target, encoded("FLAC", 4))
    alone = measure(service.target, one, callers=1, seconds=5)
    host, port = service.target.host, service.target.port
    large = httpx2.post(
        f"{service.url}/v1/jobs?include=maps,spectrogram,full_spectrogram",
        content=encoded("FLAC", 1)[0], headers={"Content-Type": "audio/flac", "Prefer": "wait=30"},
    ).json()["links"]["result"]  # fmt: skip
    beginnings = {
        "head": b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nX-A: ",
        "body": b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nContent-Length: 100000\r\n\r\nRIFF",
        "reader": f"GET {large} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 40,
    }
    lines: list[tuple[str, socket.socket]] = []
    for kind, beginning in beginnings.items():
        for _ in range(options.count):
            line = socket.socket()
            if kind == "reader":
                line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect((host, port))
            line.setblocking(False)
            line.send(beginning)
            lines.append((kind, line))
    beside, memory = measure(service.target, one, callers=1, seconds=10, warm_up=0), service.memory()
    cut: Counter[str] = Counter()
    began = time.monotonic()
    waiting = list(lines)
    with tqdm(total=len(lines), unit="line", file=sys.stderr) as bar:
        while waiting and time.monotonic() - began < 120:
            time.sleep(1)
            for kind, line in list(waiting):
                if _is_cut(kind, line):
                    waiting.remove((kind, line))
                    cut[kind] += 1
                    bar.update()
    for _, line in lines:
        line.close()
    return {
        "alone": alone.summary(),
        "beside": beside.summary(),
        "cut_off": dict(cut),
        "all_after": round(time.monotonic() - began, 1),
        "left": len(waiting),
        "memory_mb_beside": memory,
        "memory_mb_after": service.memory(),
    }


def _is_cut(kind: str, line: socket.socket) -> bool:
    """Whether the gateway has closed the connection. Sends one more byte; a `reader` leaves its responses unread."""
    try:
        line.send(b"a")
        if kind == "reader":
            return False
        while line.recv(2**16):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


class Monitor:
    """Shows the progress, and samples memory and descriptors a hundred times."""

    def __init__(self, service: Stack, seconds: float, *samples: list[dict[str, int]]) -> None:
        self._service, self._seconds, self._samples = service, seconds, samples
        self._over = threading.Event()

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        samplers = (self._service.memory, self._service.descriptors)
        steps = 100
        with tqdm(total=steps, file=sys.stderr, bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}") as bar:
            while not self._over.wait(self._seconds / steps):
                for samples, sample in zip(self._samples, samplers, strict=False):
                    samples.append(sample())
                if bar.n < steps:
                    bar.update()
                bar.set_postfix_str(f" {self._service.totals()} MB {self._service.memory()}")


def _most(samples: list[dict[str, int]]) -> dict[str, int]:
    return {name: max(sample[name] for sample in samples) for name in samples[0]}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the service is stopped
    main()
