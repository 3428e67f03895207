"""The Prometheus metrics of a worker, on its own port and registry. Label values come from closed sets."""

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, get_args

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)

from otoscope.errors import BY_CODE, fault_of
from otoscope.results import WARNINGS, SoundWarning
from otoscope.types import FINAL, Verdict
from shared import process_metrics
from worker.telemetry.decoder_cpu import ChildCpuCollector
from worker.telemetry.gpu import register_gpu_metrics

STAGES = ("queue", "decode", "batch_wait", "forward", "store")
_SECONDS = tuple(0.001 * 2**i for i in range(18))  # 1 ms to 131 s
_SIZES = tuple(2**i for i in range(11))
_TENTHS = tuple(i / 10 for i in range(1, 11))


class WorkerMetrics:
    """One method for each event; the code that does the work calls it and knows nothing of Prometheus."""

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
            "otoscope_worker_jobs_total", "Jobs that ended in this worker", ["outcome"], registry=self.registry
        )
        self._job = Histogram(
            "otoscope_worker_job_seconds", "Time from a job's acceptance to its stored result",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._failures = Counter(
            "otoscope_worker_failures_total", "Jobs that failed in this worker, by error code, and whose fault it is",
            ["code", "fault"],
            registry=self.registry,
        )  # fmt: skip
        self._redeliveries = Counter(
            "otoscope_worker_redeliveries_total", "Jobs delivered again after their worker died",
            registry=self.registry,
        )  # fmt: skip
        self._predictions = Counter(
            "otoscope_worker_predictions_total", "Results by their first class", ["model", "class"],
            registry=self.registry,
        )  # fmt: skip
        self._confidence = Histogram(
            "otoscope_worker_confidence_ratio", "Confidence of the first class of a result", ["model"],
            buckets=_TENTHS, registry=self.registry,
        )  # fmt: skip
        self._verdicts = Counter(
            "otoscope_worker_verdicts_total", "Results by their verdict", ["verdict"], registry=self.registry
        )
        self._warnings = Counter(
            "otoscope_worker_warnings_total", "Warnings of results by code", ["code"], registry=self.registry
        )
        self._audio = Counter(
            "otoscope_worker_audio_seconds_total", "Seconds of sound classified", registry=self.registry
        )
        self.model_ready = Gauge(
            "otoscope_worker_model_ready", "1 once a model has run a forward pass", ["model"], registry=self.registry
        )
        self._decoder_crashes = Counter(
            "otoscope_worker_decoder_crashes_total", "Decode processes that crashed or exceeded their time limit",
            registry=self.registry,
        )  # fmt: skip
        self.jobs_in_progress = Gauge(
            "otoscope_worker_jobs_in_progress", "Jobs in flight in this worker", registry=self.registry
        )
        self._stages = {stage: self._stage.labels(stage) for stage in STAGES}
        for outcome in sorted(FINAL):
            self._jobs.labels(outcome)
        for code in BY_CODE:
            self._failures.labels(code, fault_of(code))
        for verdict in get_args(Verdict):
            self._verdicts.labels(verdict)
        for code in WARNINGS:
            self._warnings.labels(code)
        if device.type == "cuda":
            register_gpu_metrics(device, self.registry)

    def observe_stage(self, name: str, seconds: float) -> None:
        """`name` is one of STAGES."""
        self._stages[name].observe(seconds)

    def observe_batch(self, size: int, seconds: float) -> None:
        """A forward pass of so many windows."""
        self._batch_size.observe(size)
        self._batch_seconds.observe(seconds)

    def model_served(self, model: str, classes: Iterable[str]) -> None:
        """A model has run a forward pass. All its classes start at zero: a rate misses the first sample of a series."""
        self.model_ready.labels(model).set(1)
        self._confidence.labels(model)
        for name in classes:
            self._predictions.labels(model, name)

    def job_succeeded(self, model: str, best: tuple[str, float], seconds: float) -> None:
        """A result was stored: its first class with its confidence, and the seconds since the job was accepted."""
        name, confidence = best
        self._predictions.labels(model, name).inc()
        self._confidence.labels(model).observe(confidence)
        self._job.observe(seconds)

    def answer_stored(self, verdict: str, warnings: Iterable[SoundWarning]) -> None:
        """How far the stored result can be trusted: `verdict` is one of otoscope.types.Verdict, the code of a warning
        one of otoscope.results.WARNINGS."""
        self._verdicts.labels(verdict).inc()
        for warning in warnings:
            self._warnings.labels(warning.code).inc()

    def job_finished(self, outcome: str, audio_seconds: float = 0.0, code: str = "") -> None:
        """`outcome` is one of otoscope.types.FINAL; `code` is that of the error if the job failed."""
        self._jobs.labels(outcome).inc()
        self._audio.inc(audio_seconds)
        if code:
            self._failures.labels(code, fault_of(code)).inc()

    def job_redelivered(self) -> None:
        """A job was delivered whose previous worker had died."""
        self._redeliveries.inc()

    def decoder_crashed(self) -> None:
        """A decode process crashed, or was killed because it exceeded its time limit."""
        self._decoder_crashes.inc()

    def track_decoder_cpu(self, pids: Callable[[], list[int]]) -> None:
        """`pids` returns the ids of the running decode processes; their CPU time is read at each scrape."""
        name = "otoscope_worker_decoder_cpu_seconds"
        self.registry.register(ChildCpuCollector(name, "CPU time of decode processes", pids))

    def serve(self, port: int, host: str) -> Callable[[], None]:
        """Listen; `url` is set from then on. Port 0 takes a free one. Returns the function that stops the server.

        Raises OSError if the port is taken.
        """
        server: Any
        thread: threading.Thread
        server, thread = start_http_server(port, addr=host, registry=self.registry)
        self.url = metrics_url(host, server.server_port)

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return close


def metrics_url(host: str, port: int) -> str:
    """The URL of a /metrics that listens on `host`, for other machines; empty if it cannot be determined.

    If it listens on all interfaces (0.0.0.0 or ::), this is the address that this machine's own host name resolves to:
    in a container, its address on the network that it shares with the others. If other machines cannot reach that
    address, set OTOSCOPE_METRICS_HOST.
    """
    with suppress(ValueError):  # a host name
        if ip_address(host).is_unspecified:
            host = _own_address()
    if not host:
        return ""
    return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"


def _own_address() -> str:
    with suppress(OSError):
        return str(socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)[0][4][0])
    return ""
