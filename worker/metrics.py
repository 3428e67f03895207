"""What the worker tells Prometheus, on its own port and registry. Labels come from closed sets."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)

from shared.contract import FINAL
from worker.address import metrics_url

STAGES = ("queue", "decode", "batch_wait", "forward", "store")
_SECONDS = tuple(0.001 * 2**i for i in range(18))  # 1 ms to 131 s
_SIZES = tuple(2**i for i in range(11))


class WorkerMetrics:
    """One verb for each thing that the code which does the work has to tell."""

    def __init__(self, device: torch.device) -> None:
        self.url = ""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which no panel here reads
        self.registry = CollectorRegistry()
        self._stage = Histogram(
            "otoscope_worker_stage_seconds", "Time a job spent at each stage", ["stage"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._batch_size = Histogram(
            "otoscope_worker_batch_size", "Windows in a forward pass", buckets=_SIZES, registry=self.registry
        )
        self._batch_seconds = Histogram(
            "otoscope_worker_batch_seconds", "Duration of a forward pass", buckets=_SECONDS, registry=self.registry
        )
        self._jobs = Counter(
            "otoscope_worker_jobs_total", "Jobs by how they ended here", ["state"], registry=self.registry
        )
        self._audio = Counter("otoscope_worker_audio_seconds_total", "Sound classified", registry=self.registry)
        self.ready = Gauge(
            "otoscope_worker_model_ready", "1 once a model has run a forward pass", ["model"], registry=self.registry
        )
        self._decoder_deaths = Counter(
            "otoscope_worker_decoder_deaths_total", "Decode processes that died or were late", registry=self.registry
        )
        self.busy = Gauge("otoscope_worker_jobs_held", "Jobs being worked on now", registry=self.registry)
        for stage in STAGES:
            self._stage.labels(stage)
        for state in sorted(FINAL):
            self._jobs.labels(state)
        if device.type == "cuda":
            used = Gauge(
                "otoscope_worker_gpu_memory_bytes", "GPU memory held by tensors of this process", registry=self.registry
            )
            used.set_function(lambda: float(torch.cuda.memory_allocated(device)))

    def stage(self, name: str, seconds: float) -> None:
        self._stage.labels(name).observe(seconds)

    def batch(self, size: int, seconds: float) -> None:
        self._batch_size.observe(size)
        self._batch_seconds.observe(seconds)

    def finished(self, state: str, audio_seconds: float = 0.0) -> None:
        self._jobs.labels(state).inc()
        self._audio.inc(audio_seconds)

    def decoder_died(self) -> None:
        self._decoder_deaths.inc()

    def serve(self, port: int, host: str) -> Callable[[], None]:
        """Listen, at `url` from then on; returns what ends it. Raises OSError when the port is taken."""
        server: Any
        thread: threading.Thread
        server, thread = start_http_server(port, addr=host, registry=self.registry)
        self.url = metrics_url(host, server.server_port)

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return close
