"""Prometheus metrics of the gateway. Labels come from closed sets: route templates, methods, statuses, error codes."""

from collections.abc import Iterator, Mapping
from functools import cache, partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from api.memory import Budget
from otoscope.errors import BY_CODE, fault_of
from shared import process_metrics
from shared.jobs.records import ServerState

_SECONDS = tuple(0.001 * 2**i for i in range(18))  # 1 ms to 131 s
_BYTES = tuple(1024.0 * 4**i for i in range(9))  # 1 KiB to 64 MiB


class _JobCounters(Collector):
    """Counters that are kept in Redis, so that they survive the processes that count."""

    def __init__(self) -> None:
        self.by_server: dict[str, Mapping[str, int]] = {}

    def collect(self) -> Iterator[Metric]:
        documentation = "Jobs of the whole service: accepted, and by final outcome"
        family = CounterMetricFamily("otoscope_jobs", documentation, labels=["server", "outcome"])
        for server, totals in self.by_server.items():
            for outcome, count in totals.items():
                family.add_metric([server, outcome], count)
        yield family


class _ServerMetrics:
    """What is read from the Redis servers, with the number of the server as a label. Of a server that does not answer
    there are only `up` and the totals: the last known values of the others would be wrong."""

    def __init__(self, registry: CollectorRegistry, queue_limit: int) -> None:
        self._registry, self._queue_limit = registry, queue_limit
        self._totals = _JobCounters()
        registry.register(self._totals)
        self._up = self._gauge("otoscope_redis_up", "1 while the Redis server answers")
        self._limit = self._gauge(
            "otoscope_queue_limit_jobs", "Unfinished jobs beyond which the server gets no further ones"
        )
        self._unfinished = self._gauge("otoscope_jobs_unfinished", "Unfinished jobs")
        self._queued = self._gauge("otoscope_queue_waiting_jobs", "Jobs that no worker has claimed")
        self._oldest = self._gauge(
            "otoscope_queue_oldest_seconds", "Time since the submission of the oldest waiting job"
        )
        self._sound = self._gauge("otoscope_queue_sound_seconds", "Seconds of sound in the unfinished jobs")
        self._workers = self._gauge("otoscope_queue_ready_workers", "Workers that send heartbeats")
        self._memory = self._gauge("otoscope_redis_memory_ratio", "Memory used by Redis, relative to its limit")
        self._persistence = self._gauge(
            "otoscope_redis_persistence_ok",
            "1 if Redis' last write, or rewrite, of its append-only file succeeded",
            "operation",
        )
        self._certificate: Gauge | None = None  # no such metric without TLS

    def set(self, number: int, state: ServerState | None) -> None:
        server = str(number)
        self._up.labels(server).set(state is not None)
        if state is None:
            gauges = (
                self._limit, self._unfinished, self._queued, self._oldest, self._sound, self._workers, self._memory,
            )  # fmt: skip
            for gauge in gauges:
                gauge.remove(server)
            for operation in ("write", "rewrite"):
                self._persistence.remove(server, operation)
            return
        load = state.load
        self._totals.by_server[server] = state.totals
        self._limit.labels(server).set(self._queue_limit)
        self._unfinished.labels(server).set(load.unfinished)
        self._queued.labels(server).set(load.queued)
        self._oldest.labels(server).set(load.oldest)
        self._sound.labels(server).set(load.sound_seconds)
        self._workers.labels(server).set(state.workers)
        self._memory.labels(server).set(load.memory_share)
        self._persistence.labels(server, "write").set(load.persistence.write)
        self._persistence.labels(server, "rewrite").set(load.persistence.rewrite)
        if state.certificate_expiry is not None:
            self._certificate = self._certificate or self._gauge(
                "otoscope_redis_certificate_expiry_timestamp_seconds", "When the certificate of Redis expires"
            )
            self._certificate.labels(server).set(state.certificate_expiry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, ["server", *labels], registry=self._registry)


class LiveMetrics:
    """The metrics of live streams."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.streams = Gauge("otoscope_api_live_streams", "Open live streams", registry=registry)
        self._ended = Counter(
            "otoscope_api_live_streams_ended", "Live streams that have ended, by the code of the close frame", ["code"],
            registry=registry,
        )  # fmt: skip
        self._windows = Counter(
            "otoscope_api_live_windows", "Windows of live streams: answered, failed, or dropped for a newer one",
            ["outcome"], registry=registry,
        )  # fmt: skip
        for outcome in ("answered", "failed", "dropped"):
            self._windows.labels(outcome)
        self._latency = Histogram(
            "otoscope_api_live_answer_seconds", "Time from the arrival of a window's last sample to its answer",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip

    def observe_answer(self, seconds: float, code: str) -> None:
        """An answer that many seconds after its sound; `code` is that of its error, or empty."""
        self._windows.labels("failed" if code else "answered").inc()
        if not code:
            self._latency.observe(seconds)

    def observe_dropped(self, windows: int) -> None:
        self._windows.labels("dropped").inc(windows)

    def observe_end(self, code: int) -> None:
        """A stream has ended with that close code. One that this gateway did not choose counts as `other`: a client can
        send any."""
        known = code in (1000, 1001, 1005, 1006, 1011, 1012) or 4_400 <= code < 4_600
        self._ended.labels(str(code) if known else "other").inc()


class GatewayMetrics:
    """The metrics of one gateway process; `render` is the exposition."""

    def __init__(self, queue_limit: int) -> None:
        """`queue_limit` is the number of unfinished jobs beyond which a Redis server gets no further ones."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, used by no panel
        self.registry = CollectorRegistry()
        process_metrics.register(self.registry)
        requests = Counter(
            "otoscope_api_requests_total", "Requests", ["route", "method", "status"], registry=self.registry
        )
        latency = Histogram(
            "otoscope_api_request_seconds", "Time to the end of the response", ["route", "method"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        # `labels` locks and makes texts of its arguments, which takes several times as long as to count.
        self._requests, self._latency = cache(requests.labels), cache(latency.labels)
        self._errors = Counter(
            "otoscope_api_errors_total", "Error responses by code, and whose fault it is", ["code", "fault"],
            registry=self.registry,
        )  # fmt: skip
        for code in BY_CODE:  # from the start: rate() does not count the first increment of a new series
            self._errors.labels(code, fault_of(code))
        self._loop_delay = Histogram(
            "otoscope_api_loop_delay_seconds", "Delay of the event loop in running a callback that was due",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._replays = Counter(
            "otoscope_api_idempotent_replays_total", "Submissions answered with an earlier job",
            registry=self.registry,
        )  # fmt: skip
        self._upload = Histogram(
            "otoscope_api_upload_bytes", "Size of accepted sounds", buckets=_BYTES, registry=self.registry
        )
        self._held_bytes = Gauge(
            "otoscope_api_held_bytes", "Bytes of uploads in progress, and of responses that are not read yet", ["kind"],
            registry=self.registry,
        )  # fmt: skip
        self.streams = Gauge("otoscope_api_event_streams", "Open event streams", registry=self.registry)
        self.live = LiveMetrics(self.registry)
        self._servers = _ServerMetrics(self.registry, queue_limit)

    def watch_held(self, *budgets: Budget) -> None:
        """Report what these hold, read when the metrics are."""
        for budget in budgets:
            self._held_bytes.labels(budget.kind).set_function(partial(getattr, budget, "used"))

    def observe_request(self, route: str, method: str, status: int, seconds: float, code: str) -> None:
        """A finished request; `code` is empty where it was no error."""
        self._requests(route, method, str(status)).inc()
        self._latency(route, method).observe(seconds)
        if code:
            self._errors.labels(code, fault_of(code)).inc()

    def observe_submission(self, size: int, *, created: bool) -> None:
        """An accepted sound of `size` bytes, or (`created=False`) a replay of an earlier submission."""
        if created:
            self._upload.observe(size)
        else:
            self._replays.inc()

    def observe_loop_delay(self, seconds: float) -> None:
        self._loop_delay.observe(max(seconds, 0.0))

    def set_server(self, number: int, state: ServerState | None) -> None:
        """What a Redis server has; None while it does not answer."""
        self._servers.set(number, state)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
