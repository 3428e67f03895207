"""What the gateway tells Prometheus. Labels come from closed sets: route templates, methods, statuses, error codes."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from shared.records import QueueLoad

_SECONDS = tuple(0.001 * 2**i for i in range(18))  # 1 ms to 131 s
_BYTES = tuple(1024.0 * 4**i for i in range(9))  # 1 KiB to 64 MiB


class GatewayMetrics:
    """`request`, `submitted` and `queue` are called by the rest of the gateway."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which no panel here reads
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "otoscope_api_requests_total", "Requests", ["route", "method", "status"], registry=self.registry
        )
        self._latency = Histogram(
            "otoscope_api_request_seconds", "Time to the end of the answer", ["route", "method"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._errors = Counter("otoscope_api_errors_total", "Errors told, by code", ["code"], registry=self.registry)
        self._jobs = Counter("otoscope_api_jobs_total", "Jobs accepted or cancelled", ["event"], registry=self.registry)
        self._upload = Histogram(
            "otoscope_api_upload_bytes", "Size of accepted sounds", buckets=_BYTES, registry=self.registry
        )
        self.streams = Gauge("otoscope_api_event_streams", "Event streams open now", registry=self.registry)
        self._open = Gauge("otoscope_queue_open_jobs", "Unfinished jobs", registry=self.registry)
        self._depth = Gauge("otoscope_queue_waiting_jobs", "Jobs that no worker has taken yet", registry=self.registry)
        self._oldest = Gauge(
            "otoscope_queue_oldest_seconds", "How long the oldest waiting job has waited", registry=self.registry
        )
        self._memory = Gauge(
            "otoscope_queue_memory_ratio", "Share of Redis' memory limit in use", registry=self.registry
        )
        self._reachable = Gauge("otoscope_queue_reachable", "1 while Redis answers", registry=self.registry)
        for event in ("accepted", "repeated", "cancelled", "expired"):
            self._jobs.labels(event)

    def request(self, route: str, method: str, status: int, seconds: float, code: str | None) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._latency.labels(route, method).observe(seconds)
        if code:
            self._errors.labels(code).inc()

    def submitted(self, size: int, *, created: bool) -> None:
        self._jobs.labels("accepted" if created else "repeated").inc()
        if created:
            self._upload.observe(size)

    def ended(self, event: str, count: int = 1) -> None:
        """`cancelled` by a caller or `expired` past the deadline, with no worker to say so."""
        self._jobs.labels(event).inc(count)

    def queue(self, load: QueueLoad | None) -> None:
        """None while Redis does not answer: then the last known depth would be a lie, and is not told."""
        self._reachable.set(load is not None)
        nan = float("nan")
        self._open.set(load.open if load else nan)
        self._depth.set(load.waiting if load else nan)
        self._oldest.set(load.oldest if load else nan)
        self._memory.set(load.memory_share if load else nan)

    def render(self) -> bytes:
        return generate_latest(self.registry)
