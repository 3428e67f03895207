"""Throughput, latency and cost of a whole service under load: Redis, worker and gateway, over HTTP.

    .venv/bin/python bench/lib/stack.py [--model resnet-21m] [--callers 1 16 64 256] [--rate 20] [--include maps,...]
        [--servers 2]

Starts a service of its own on a free port, loads it with a number of concurrent callers or at a fixed rate, and stops
it. Prints a table and one line of JSON: responses a second, latency, and for each process CPU a job and memory.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import psutil
import redis

sys.path.append(str(Path(__file__).parents[2]))
from bench.lib.clips import MODEL, encoded, model_directory
from bench.lib.machine import describe
from bench.lib.rig import free_port
from commands.stack.embedded_redis import Home
from otoscope.client import Client
from otoscope.errors import OtoscopeError
from otoscope.loadgen import Target, measure
from shared.contract import COUNTERS, TOTALS, job_key

TREE = Path(__file__).parents[2]
PROCESSES = {"decoders": "worker.decode", "gateway": "-m api", "worker": "-m worker", "redis": "valkey-server"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help=f"{MODEL}, or one of models/")
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 16, 64, 256])
    parser.add_argument(
        "--rate", type=float, nargs="*", default=[], help="requests a second, independent of the responses"
    )
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--include", default="", help="parts to request beside the predictions")
    parser.add_argument("--accept", default="application/json", help="or application/msgpack")
    parser.add_argument("--format", default="WAV", help="WAV, FLAC, OGG or MP3")
    parser.add_argument("--servers", type=int, default=1, help="Redis servers, each with a worker")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": describe(), "options": vars(options)}
    with (
        tempfile.TemporaryDirectory() as folder,
        stack(model_directory(options.model, Path(folder)), servers=options.servers) as service,
    ):
        requests = submissions(service.target, encoded(options.format), options.include, options.accept)
        loads = [("callers", n) for n in options.callers] + [("rate", n) for n in options.rate]
        report["loads"] = [service.load(requests, kind, n, options.seconds) for kind, n in loads]
        report["start_seconds"] = service.start_seconds
    for load in report["loads"]:
        print(row(load), file=sys.stderr)
    print(json.dumps(report))


def submissions(
    target: Target, sounds: list[bytes], include: str = "", accept: str = "application/json", model: str = ""
) -> list[bytes]:
    """One request for each sound; each waits for its result."""
    query = urlencode({name: value for name, value in {"include": include, "model": model}.items() if value})
    path = f"/v1/jobs?{query}" if query else "/v1/jobs"
    headers = {"Content-Type": "application/octet-stream", "Prefer": "wait=60", "Accept": accept}
    return [target.request("POST", path, headers, sound) for sound in sounds]


class Stack:
    """A running service and its processes."""

    def __init__(
        self, url: str, root: psutil.Process, started: float, homes: list[Home], servers: list[psutil.Process]
    ) -> None:
        """`servers` are the Redis servers that `otoscope up` has not started."""
        self.target = Target.of(url)
        self._root, self._servers = root, servers
        self.url = url
        self._redis = [redis.Redis(unix_socket_path=str(home.socket)) for home in homes]
        self._wait_until_ready(url, started)
        self.start_seconds = round(time.monotonic() - started, 1)

    def load(self, requests: list[bytes], kind: str, number: float, seconds: float) -> dict[str, Any]:
        """The figures under the load of `number` callers, or of that many requests a second."""
        before, traffic, began = self.cpu(), self.traffic(), time.monotonic()
        amount: dict[str, Any] = {kind: number}
        measured = measure(self.target, requests, **amount, seconds=seconds, warm_up=2.0)
        spent, lasted = self.cpu(), time.monotonic() - began
        jobs = max(measured.throughput * lasted, 1)
        cost = {name: round(1e3 * (spent[name] - before[name]) / jobs, 2) for name in spent}
        per_job = {name: round((value - traffic[name]) / jobs, 1) for name, value in self.traffic().items()}
        figures = {"cpu_ms_a_job": cost, "redis_a_job": per_job, "memory_mb": self.memory()}
        return {kind: number, **measured.summary(), **figures}

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU so far by process, and of this one as `load`."""
        used = dict.fromkeys([*PROCESSES, "load"], 0.0)
        own = psutil.Process().cpu_times()
        used["load"] = own.user + own.system
        for name, process in self.processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used[name] += times.user + times.system
        return used

    def traffic(self) -> dict[str, float]:
        """Traffic of Redis so far: commands, including those in scripts, and KB over its sockets."""
        stats: list[dict[str, int]] = [client.info("stats") for client in self._redis]  # type: ignore[misc]
        return {
            "commands": sum(each["total_commands_processed"] for each in stats),
            "kb_in": sum(each["total_net_input_bytes"] for each in stats) / 1e3,
            "kb_out": sum(each["total_net_output_bytes"] for each in stats) / 1e3,
        }

    def memory(self) -> dict[str, int]:
        """Resident MB by process."""
        held = dict.fromkeys(PROCESSES, 0)
        for name, process in self.processes():
            with suppress(psutil.NoSuchProcess):
                held[name] += round(process.memory_info().rss / 2**20)
        return held

    def descriptors(self) -> dict[str, int]:
        """Open files and connections by process."""
        held = dict.fromkeys(PROCESSES, 0)
        for name, process in self.processes():
            with suppress(psutil.NoSuchProcess):
                held[name] += process.num_fds()
        return held

    def totals(self) -> dict[str, int]:
        """Jobs so far: accepted, and by outcome."""
        return {
            name: sum(int(client.hget(TOTALS, name) or 0) for client in self._redis)  # type: ignore[arg-type]
            for name in COUNTERS
        }

    def error_responses(self) -> dict[str, int]:
        """Error responses of the gateway so far, by code."""
        text = httpx2.get(f"{self.url}/metrics").text
        found = re.findall(r'api_errors_total{code="(\w+)",[^}]*} (\S+)', text)
        return {code: int(float(count)) for code, count in found}

    def durations(self, most: int = 10_000) -> list[float]:
        """Seconds from submission to end, of up to `most` succeeded jobs."""
        taken: list[float] = []
        keys = ((client, key) for client in self._redis for key in client.scan_iter(job_key("*"), count=1_000))
        for client, key in keys:
            status, *times = client.hmget(key, "status", "created_at", "finished_at")  # type: ignore[misc]
            if status == b"succeeded":
                created, finished = map(float, times)
                taken.append(finished - created)
            if len(taken) == most:
                break
        return taken

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """Every process with the name of the component that it belongs to."""
        for process in [*self._root.children(recursive=True), *self._servers]:
            with suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                name = next((name for name, mark in PROCESSES.items() if mark in line), None)
                # A child of `otoscope up` has a small parent with the same command line (pdeathsig).
                if name and "pdeathsig" not in line:
                    yield name, process

    def _wait_until_ready(self, url: str, started: float) -> None:
        with Client(url) as client:
            while True:
                with suppress(OtoscopeError):
                    if client.ready().status == "ready":
                        return
                if not self._root.is_running() or self._root.status() == psutil.STATUS_ZOMBIE:
                    raise SystemExit("the stack ended before it was ready; see its output above")
                if time.monotonic() - started > 120:
                    raise SystemExit("the stack was not ready after two minutes")
                time.sleep(0.05)


@contextmanager
def stack(models: Path, tree: Path = TREE, /, servers: int = 1, **settings: str) -> Iterator[Stack]:
    """A service (`otoscope up`) with the models of that directory; `settings` are OTOSCOPE_ variables in lower case.

    `tree` is the working tree whose code it runs. With several Redis servers, each has a worker.
    """
    port = free_port()
    with ExitStack() as exits:
        home = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        homes = [Home(home)] if servers == 1 else [Home(home / str(number)) for number in range(servers)]
        started = time.monotonic()
        processes = [exits.enter_context(redis_server(each)) for each in homes] if servers > 1 else []
        own = {"home": str(home), "port": str(port), "models_dir": str(models), "metrics_port": "0", **settings}
        if processes:
            own["redis_url"] = " ".join(each.url for each in homes)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTOSCOPE_")}
        environment |= {f"OTOSCOPE_{name.upper()}": value for name, value in own.items()}
        environment["PYTHONPATH"] = str(tree)
        command = [sys.executable, "-m", "otoscope", "up"]
        with subprocess.Popen(command, env=environment, cwd=tree, stdout=subprocess.DEVNULL) as process:
            try:
                yield Stack(f"http://127.0.0.1:{port}", psutil.Process(process.pid), started, homes, processes)
            finally:
                process.terminate()
                process.wait(90)


@contextmanager
def redis_server(home: Home) -> Iterator[psutil.Process]:
    """A running Redis server with its state in that directory."""
    home.directory.mkdir()
    with subprocess.Popen(home.program().argv, stdout=subprocess.DEVNULL) as process:
        try:
            while not home.answers():
                if process.poll() is not None:
                    raise SystemExit("the Redis server ended before it answered")
                time.sleep(0.02)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


def row(load: dict[str, Any]) -> str:
    kind = "callers" if "callers" in load else "rate"
    cost = ", ".join(f"{name} {value}" for name, value in load["cpu_ms_a_job"].items())
    return (
        f"{kind} {load[kind]:>6g}  {load['per_second']:>7.1f}/s  p50 {load['p50_ms']:>7.1f}  p95 {load['p95_ms']:>7.1f}"
        f"  p99 {load['p99_ms']:>7.1f} ms  errors {load['errors']}  CPU ms a job: {cost}  MB: {load['memory_mb']}"
        f"  Redis a job: {load['redis_a_job']}"
    )


if __name__ == "__main__":
    main()
