"""The real stack: Valkey, worker and gateway as processes, with a tiny model and the shipped ones."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest

from tests.conftest import PYTHON, ROOT, free_ports, shipped_models, start_server, write_tiny_model


@dataclass
class Stack:
    """Addresses and processes of a running stack."""

    url: str
    worker_metrics: str
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]]
    logs: Path

    @classmethod
    def on(cls, directory: Path, redis_url: str, **settings: str) -> Self:
        """Not started yet; `models` and the logs are in `directory`, `settings` are variables in lower case."""
        port, metrics_port = free_ports(2)
        own = {
            "redis_url": redis_url,
            "port": str(port),
            "metrics_port": str(metrics_port),
            "models_dir": str(directory / "models"),
            **settings,
        }
        return cls(
            url=f"http://127.0.0.1:{port}",
            worker_metrics=f"http://127.0.0.1:{metrics_port}/metrics",
            environment={**os.environ, **{f"OTOSCOPE_{name.upper()}": value for name, value in own.items()}},
            processes={},
            logs=directory,
        )

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=60)

    def start(self, name: str) -> None:
        """Start `api` or `worker`, with its own log file."""
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [PYTHON, "-m", name], cwd=ROOT, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def until_ready(self, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        with self.client() as http:
            while time.monotonic() < deadline:
                for name, process in self.processes.items():
                    assert process.poll() is None, f"{name} ended:\n{(self.logs / f'{name}.log').read_text()}"
                try:
                    if http.get("/health/ready").status_code == 200:
                        return
                except httpx2.TransportError:
                    pass
                time.sleep(0.1)
        raise AssertionError("the stack did not get ready:\n" + "".join(p.read_text() for p in self.logs.glob("*.log")))

    @contextmanager
    def up(self, server: "subprocess.Popen[bytes]") -> Iterator[Self]:
        """Start worker and gateway, wait until they are ready; at the end kill all processes, then the server."""
        try:
            self.start("worker")
            self.start("api")
            self.until_ready()
            yield self
        finally:
            self.kill()
            server.terminate()
            server.wait()

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def stop(self, name: str, with_signal: int = signal.SIGTERM, timeout: float = 60) -> int:
        """Its exit status. `kill` ends one that takes longer (a worker may finish jobs for 45 s)."""
        self.processes[name].send_signal(with_signal)
        self.processes[name].wait(timeout)
        return self.processes.pop(name).returncode


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """One stack for all end-to-end tests; each of them leaves it working."""
    with running_stack(default_model="tiny") as running:
        yield running


@contextmanager
def running_stack(
    default_model: str, more: Mapping[str, Callable[[Path], None]] | None = None, **settings: str
) -> Iterator[Stack]:
    """Valkey, worker and gateway, ready; stopped in order at the end, with exit status 0.

    Beside a tiny model and the shipped ones it serves those that the functions of `more` write, by name.
    """
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        directory = Path(name)
        models = directory / "models"
        for model, write in {"tiny": write_tiny_model, **(more or {})}.items():
            write(models / model)
        for shipped in shipped_models():
            (models / shipped.name).symlink_to(shipped)
        server, redis_socket = start_server(directory, "--appendonly", "yes")
        own = {"default_model": default_model, "evaluate_model": default_model, "visibility_timeout": "5", **settings}
        running = Stack.on(directory, f"unix://{redis_socket}", **own)
        running.start("worker")
        running.start("api")
        try:
            running.until_ready()
            yield running
        finally:
            try:
                statuses = {name: running.stop(name) for name in list(running.processes)}
            finally:
                running.kill()
                server.terminate()
                server.wait()
            assert statuses == {"worker": 0, "api": 0}, statuses


def run_bench(*arguments: str, seconds: float) -> Any:
    """The JSON report of a program of bench/. After `seconds` it gets SIGTERM, so that it stops what it has started."""
    command = [PYTHON, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
        try:
            report, errors = bench.communicate(timeout=seconds)
        finally:
            bench.terminate()
            with suppress(subprocess.TimeoutExpired):
                bench.wait(60)
            bench.kill()
    assert bench.returncode == 0, errors[-3000:]
    return json.loads(report)
