"""What the worker tells Prometheus, on its own port and registry. Labels come from closed sets."""

import threading
from collections.abc import Callable, Iterable
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

from otoscope.errors import BY_CODE
from otoscope.types import FINAL
from shared import process_metrics
from worker.telemetry.address import metrics_url
from worker.telemetry.decoder_cpu import ChildCpuCollector
from worker.telemetry.gpu import register_gpu_metrics

STAGES = ("queue", "decode", "batch_wait", "forward", "store")
_SECONDS = tuple(0.001 * 2**i for i in range(18))  # 1 ms to 131 s
_SIZES = tuple(2**i for i in range(11))
_TENTHS = tuple(i / 10 for i in range(1, 11))


class WorkerMetrics:
    """One verb for each thing that the code which does the work has to tell."""

    def __init__(self, device: torch.device) -> None:
        self.url = ""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which no panel here reads
        self.registry = CollectorRegistry()
        process_metrics.register(self.registry)
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
            "otoscope_worker_jobs_total", "Jobs by how they ended here", ["outcome"], registry=self.registry
        )
        self._job = Histogram(
            "otoscope_worker_job_seconds", "Time from a job's acceptance to its stored result",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._failures = Counter(
            "otoscope_worker_failures_total", "Jobs that failed here, by code", ["code"], registry=self.registry
        )
        self._again = Counter(
            "otoscope_worker_redeliveries_total", "Jobs taken whose worker before had died", registry=self.registry
        )
        self._predictions = Counter(
            "otoscope_worker_predictions_total", "Answers by their first class", ["model", "class"],
            registry=self.registry,
        )  # fmt: skip
        self._confidence = Histogram(
            "otoscope_worker_confidence_ratio", "Confidence of the first class of an answer", ["model"],
            buckets=_TENTHS, registry=self.registry,
        )  # fmt: skip
        self._audio = Counter("otoscope_worker_audio_seconds_total", "Sound classified", registry=self.registry)
        self.ready = Gauge(
            "otoscope_worker_model_ready", "1 once a model has run a forward pass", ["model"], registry=self.registry
        )
        self._decoder_deaths = Counter(
            "otoscope_worker_decoder_crashes_total", "Decode processes that died or were late", registry=self.registry
        )
        self.busy = Gauge("otoscope_worker_jobs_in_progress", "Jobs being worked on now", registry=self.registry)
        for stage in STAGES:
            self._stage.labels(stage)
        for state in sorted(FINAL):
            self._jobs.labels(state)
        for code in BY_CODE:
            self._failures.labels(code)
        if device.type == "cuda":
            register_gpu_metrics(device, self.registry)

    def stage(self, name: str, seconds: float) -> None:
        self._stage.labels(name).observe(seconds)

    def batch(self, size: int, seconds: float) -> None:
        self._batch_size.observe(size)
        self._batch_seconds.observe(seconds)

    def serves(self, model: str, classes: Iterable[str]) -> None:
        """A model has run a forward pass. Its classes are counted from zero: a rate does not see a series' first."""
        self.ready.labels(model).set(1)
        self._confidence.labels(model)
        for name in classes:
            self._predictions.labels(model, name)

    def answered(self, model: str, best: tuple[str, float], seconds: float) -> None:
        """A result was stored: its first class with its confidence, and how long ago the job was accepted."""
        name, confidence = best
        self._predictions.labels(model, name).inc()
        self._confidence.labels(model).observe(confidence)
        self._job.observe(seconds)

    def finished(self, state: str, audio_seconds: float = 0.0, code: str = "") -> None:
        """`code` is that of the error where the job failed."""
        self._jobs.labels(state).inc()
        self._audio.inc(audio_seconds)
        if code:
            self._failures.labels(code).inc()

    def delivered_again(self) -> None:
        self._again.inc()

    def decoder_died(self) -> None:
        self._decoder_deaths.inc()

    def watch_decoders(self, pids: Callable[[], list[int]]) -> None:
        """`pids` tells the decode processes that live now; their CPU time is read whenever somebody asks."""
        self.registry.register(
            ChildCpuCollector("otoscope_worker_decoder_cpu_seconds", "CPU of decode processes", pids)
        )

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
