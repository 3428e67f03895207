"""What the gateway tells Prometheus. Labels come from closed sets: route templates, methods, statuses, error codes."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from otoscope.errors import BY_CODE
from shared import process_metrics
from shared.jobs.records import QueueLoad

_SECONDS = tuple(0.001 * 2**i for i in range(18))  # 1 ms to 131 s
_BYTES = tuple(1024.0 * 4**i for i in range(9))  # 1 KiB to 64 MiB


class _Jobs(Collector):
    """Counters that are kept in Redis: no process that ends takes them with it."""

    def __init__(self, totals: Mapping[str, int]) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        told = "Jobs of the whole service: accepted, and how they ended"
        family = CounterMetricFamily("otoscope_jobs", told, labels=["outcome"])
        for outcome, count in self._totals.items():
            family.add_metric([outcome], count)
        yield family


class GatewayMetrics:
    """`request`, `submitted`, `totals` and `queue` are called by the rest of the gateway."""

    def __init__(self, queue_limit: int) -> None:
        """`queue_limit` is the number of unfinished jobs past which submissions are refused."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which no panel here reads
        self.registry = CollectorRegistry()
        process_metrics.register(self.registry)
        self._requests = Counter(
            "otoscope_api_requests_total", "Requests", ["route", "method", "status"], registry=self.registry
        )
        self._latency = Histogram(
            "otoscope_api_request_seconds", "Time to the end of the answer", ["route", "method"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._errors = Counter("otoscope_api_errors_total", "Errors told, by code", ["code"], registry=self.registry)
        for code in BY_CODE:  # from the start: a rate does not see the first of a series that begins with it
            self._errors.labels(code)
        self._late = Histogram(
            "otoscope_api_loop_delay_seconds", "How late the event loop came to something that was due",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._repeated = Counter(
            "otoscope_api_idempotent_replays_total", "Submissions answered with an earlier job", registry=self.registry
        )
        self._totals: dict[str, int] = {}
        self.registry.register(_Jobs(self._totals))
        self._upload = Histogram(
            "otoscope_api_upload_bytes", "Size of accepted sounds", buckets=_BYTES, registry=self.registry
        )
        self.streams = Gauge("otoscope_api_event_streams", "Event streams open now", registry=self.registry)
        self._open = Gauge("otoscope_jobs_unfinished", "Unfinished jobs", registry=self.registry)
        self._depth = Gauge("otoscope_queue_waiting_jobs", "Jobs that no worker has taken yet", registry=self.registry)
        self._oldest = Gauge(
            "otoscope_queue_oldest_seconds", "How long the oldest waiting job has waited", registry=self.registry
        )
        self._memory = Gauge(
            "otoscope_redis_memory_ratio", "Share of Redis' memory limit in use", registry=self.registry
        )
        self._reachable = Gauge("otoscope_redis_up", "1 while Redis answers", registry=self.registry)
        self._workers = Gauge(
            "otoscope_queue_ready_workers", "Workers that vouch for themselves now", registry=self.registry
        )
        limit = Gauge(
            "otoscope_queue_limit_jobs", "Unfinished jobs past which submissions are refused", registry=self.registry
        )
        limit.set(queue_limit)

    def request(self, route: str, method: str, status: int, seconds: float, code: str | None) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._latency.labels(route, method).observe(seconds)
        if code:
            self._errors.labels(code).inc()

    def submitted(self, size: int, *, created: bool) -> None:
        if created:
            self._upload.observe(size)
        else:
            self._repeated.inc()

    def late(self, seconds: float) -> None:
        self._late.observe(max(seconds, 0.0))

    def totals(self, counts: dict[str, int]) -> None:
        """Jobs of the whole service since its queue began, whichever gateway accepted and whoever ended them."""
        self._totals.update(counts)

    def queue(self, load: QueueLoad | None, workers: int = 0) -> None:
        """None while Redis does not answer: then the last known depth would be a lie, and is not told."""
        self._reachable.set(load is not None)
        nan = float("nan")
        self._open.set(load.open if load else nan)
        self._depth.set(load.waiting if load else nan)
        self._oldest.set(load.oldest if load else nan)
        self._memory.set(load.memory_share if load else nan)
        self._workers.set(workers if load else nan)

    def render(self) -> bytes:
        return generate_latest(self.registry)
