"""The figures of `otoscope top`, from snapshots: rates and quantiles over the last seconds, and their history."""

import statistics
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from otoscope.top.collect import Snapshot, WorkerSnapshot
from otoscope.top.prometheus import Buckets, Scrape, ScrapeDelta, merge_buckets, quantile

INTERVAL = 10.0  # seconds that rates and quantiles cover, or the time between two snapshots if that is longer
MAX_POINTS = 600  # snapshots that the sparklines keep

STAGES = ("queue", "decode", "batch_wait", "forward", "store")
OUTCOMES = ("accepted", "succeeded", "failed", "cancelled", "expired")
LONG_WAIT = 30.0  # seconds: callers that wait for the response begin to time out by then

State = Literal["well", "strained", "broken"]
Workers = list[tuple[WorkerSnapshot, ScrapeDelta | None]]


@dataclass
class CounterRate:
    total: int
    per_second: float | None = None  # None until there are two snapshots


@dataclass
class LatencySummary:
    """Quantiles in seconds and the rate of observations; None without observations."""

    p50: float | None
    p95: float | None
    per_second: float | None


@dataclass
class Process:
    cores: float | None = None  # CPU seconds a second
    memory_bytes: float | None = None


@dataclass
class WorkerFigures:
    name: str
    metrics: str
    lost: str
    models: list[str]
    held: float | None
    jobs_per_second: float | None
    batch_size: float | None  # windows in a forward pass, on average
    forward: LatencySummary | None
    decoder_crashes: float | None
    gpu_memory_bytes: float | None
    gpu_busy_ratio: float | None
    process: Process


@dataclass
class Figures:
    """The report, as `--json` prints it. None is an unknown value."""

    url: str
    state: State
    says: str
    over_seconds: float | None
    lost: str
    ready: bool | None
    redis: bool | None
    writable: bool | None
    servers_down: list[int]  # numbers of the Redis servers that do not answer or cannot write
    ready_workers: int | None
    models: list[str]
    version: str | None
    open_jobs: float | None
    waiting_jobs: float | None
    oldest_seconds: float | None
    sound_seconds: float | None
    queue_limit: float | None
    redis_memory_ratio: float | None
    jobs: dict[str, CounterRate]
    refusals: dict[str, CounterRate]
    submissions: LatencySummary  # from a request's first byte to the end of delta answer, waiting included
    loop_delay: LatencySummary
    event_streams: float | None
    gateway: Process
    stages: dict[str, LatencySummary]
    batch_size: float | None
    workers: list[WorkerFigures]
    classes: dict[str, CounterRate]
    confidence_p50: float | None


@dataclass
class Curves:
    """Values for sparklines: one for each snapshot, the newest last; None is an unknown value."""

    accepted: deque[float | None] = field(default_factory=lambda: deque(maxlen=MAX_POINTS))
    succeeded: deque[float | None] = field(default_factory=lambda: deque(maxlen=MAX_POINTS))
    waiting: deque[float | None] = field(default_factory=lambda: deque(maxlen=MAX_POINTS))
    oldest: deque[float | None] = field(default_factory=lambda: deque(maxlen=MAX_POINTS))


class History:
    """The recent snapshots of a service, from which the figures of the newest are computed."""

    def __init__(self, url: str) -> None:
        self.curves = Curves()
        self._url = url
        self._scrapes: dict[str, deque[Scrape]] = defaultdict(deque)

    def add(self, snapshot: Snapshot) -> Figures:
        """Add the newest snapshot and return its figures."""
        delta = self._delta("", snapshot.scrape)
        latest = ScrapeDelta(self._scrapes[""][-2], snapshot.scrape) if delta and snapshot.scrape else None
        workers = [(worker, self._delta(f"{worker.name} {worker.url}", worker.scrape)) for worker in snapshot.workers]
        for removed in self._scrapes.keys() - {"", *(f"{worker.name} {worker.url}" for worker in snapshot.workers)}:
            del self._scrapes[removed]
        figures = _figures(self._url, snapshot, delta, workers)
        jobs = _jobs(snapshot.scrape, latest)
        self.curves.accepted.append(_rate(jobs, ["accepted"]))
        self.curves.succeeded.append(_rate(jobs, ["succeeded"]))
        self.curves.waiting.append(figures.waiting_jobs)
        self.curves.oldest.append(figures.oldest_seconds)
        return figures

    def _delta(self, source: str, scrape: Scrape | None) -> ScrapeDelta | None:
        """From the scrape of INTERVAL seconds ago to this one. A process that was away starts over."""
        scrapes = self._scrapes[source]
        if scrape is None:
            scrapes.clear()
            return None
        if scrapes and _start_time(scrapes[-1]) != _start_time(scrape):  # another process at the same address
            scrapes.clear()
        scrapes.append(scrape)
        while len(scrapes) > 2 and scrape.at - scrapes[1].at >= INTERVAL:
            scrapes.popleft()
        return ScrapeDelta(scrapes[0], scrape) if len(scrapes) > 1 else None


def _start_time(scrape: Scrape) -> float | None:
    return scrape.value("process_start_time_seconds")


def _figures(
    url: str, snapshot: Snapshot, delta: ScrapeDelta | None, workers: list[tuple[WorkerSnapshot, ScrapeDelta | None]]
) -> Figures:
    now, ready = snapshot.scrape, snapshot.ready
    deltas = [found for _, found in workers if found]
    jobs = _jobs(now, delta)
    figures = Figures(
        url=url,
        state="well",
        says="",
        over_seconds=delta.seconds if delta else None,
        lost=snapshot.error,
        ready=ready.status == "ready" if ready else None,
        redis=ready.redis if ready else None,
        writable=ready.writable if ready else None,
        servers_down=ready.servers_down if ready else [],
        ready_workers=ready.workers if ready else None,
        models=ready.models if ready else [],
        version=_version(now),
        open_jobs=_value(now, "otoscope_jobs_unfinished"),
        waiting_jobs=_value(now, "otoscope_queue_waiting_jobs"),
        oldest_seconds=_highest(now, "otoscope_queue_oldest_seconds"),
        queue_limit=_value(now, "otoscope_queue_limit_jobs"),
        sound_seconds=_value(now, "otoscope_queue_sound_seconds"),
        redis_memory_ratio=_highest(now, "otoscope_redis_memory_ratio"),
        jobs={name: jobs[name] for name in OUTCOMES if name in jobs},
        refusals=_sorted(_rates(now, delta, "otoscope_api_errors_total", "code")),
        submissions=_latency([delta] if delta else [], "otoscope_api_request_seconds", method="POST"),
        loop_delay=_latency([delta] if delta else [], "otoscope_api_loop_delay_seconds"),
        event_streams=_value(now, "otoscope_api_event_streams"),
        gateway=_process(now, delta),
        stages={stage: _latency(deltas, "otoscope_worker_stage_seconds", stage=stage) for stage in STAGES},
        batch_size=_mean(deltas, "otoscope_worker_batch_size"),
        workers=[_worker(worker, delta) for worker, delta in workers],
        classes=_classes(workers),
        confidence_p50=quantile(
            merge_buckets([delta.buckets("otoscope_worker_confidence_ratio") for delta in deltas]), 0.5
        ),
    )
    figures.state, figures.says = judge(figures)
    return figures


def judge(figures: Figures) -> tuple[State, str]:
    """The state, and the most severe problem."""
    if figures.lost and figures.ready is None:
        return "broken", f"the gateway cannot be reached: {figures.lost}"
    if figures.redis is False:
        return "broken", "Redis does not answer"
    if figures.writable is False:
        return "broken", "Redis cannot write: its disk is full, or its file cannot be written"
    if figures.ready_workers == 0:
        return "broken", "no worker is ready"
    if figures.servers_down:
        numbers = ", ".join(map(str, figures.servers_down))
        return "strained", f"Redis server {numbers} does not answer or cannot write"
    if figures.lost:
        return "strained", f"the gateway is up, but {figures.lost}"
    if _rate(figures.refusals, ["queue_full"]):
        return "strained", "the queue is full: submissions are refused"
    if failing := _rate(figures.jobs, ["failed", "expired"]):
        return "strained", f"{failing:.2g} jobs a second fail"
    if figures.oldest_seconds and figures.oldest_seconds > LONG_WAIT:
        return "strained", f"jobs wait {figures.oldest_seconds:.0f} s for a worker"
    if lost := [worker for worker in figures.workers if worker.lost]:
        return "well", f"the metrics of {len(lost)} of {len(figures.workers)} workers cannot be read from here"
    return "well", ""


def _worker(worker: WorkerSnapshot, delta: ScrapeDelta | None) -> WorkerFigures:
    now = worker.scrape
    ready = now.by("otoscope_worker_model_ready", "model") if now else {}
    held = _value(now, "otoscope_worker_jobs_in_progress")
    done = delta.increase("otoscope_worker_jobs_total") if delta else None
    return WorkerFigures(
        name=worker.name,
        metrics=worker.url,
        lost=worker.error,
        models=sorted(name for name, value in ready.items() if value) or list(worker.models),
        held=worker.jobs if held is None else held,
        jobs_per_second=done / delta.seconds if delta and done is not None else None,
        batch_size=delta.mean("otoscope_worker_batch_size") if delta else None,
        forward=_latency([delta], "otoscope_worker_batch_seconds") if delta else None,
        decoder_crashes=_value(now, "otoscope_worker_decoder_crashes_total"),
        gpu_memory_bytes=_value(now, "otoscope_worker_gpu_memory_bytes"),
        gpu_busy_ratio=_value(now, "otoscope_worker_gpu_busy_ratio"),
        process=_process(now, delta),
    )


def _value(scrape: Scrape | None, name: str) -> float | None:
    return scrape.value(name) if scrape else None


def _highest(scrape: Scrape | None, name: str) -> float | None:
    """Over the Redis servers."""
    return max((value for _, value in scrape.matching(name)), default=None) if scrape else None


def _version(scrape: Scrape | None) -> str | None:
    return next(iter(scrape.by("otoscope_build_info", "version")), None) if scrape else None


def _process(now: Scrape | None, delta: ScrapeDelta | None) -> Process:
    busy = delta.increase("process_cpu_seconds_total") if delta else None
    return Process(
        cores=busy / delta.seconds if delta and busy is not None else None,
        memory_bytes=_value(now, "process_resident_memory_bytes"),
    )


def _rates(now: Scrape | None, delta: ScrapeDelta | None, name: str, label: str) -> dict[str, CounterRate]:
    """Totals and rates by a label."""
    if now is None:
        return {}
    increases = delta.increases(name, label) if delta else {}
    return {
        value: CounterRate(round(total), increases.get(value, 0.0) / delta.seconds if delta else None)
        for value, total in now.by(name, label).items()
    }


def _jobs(now: Scrape | None, delta: ScrapeDelta | None) -> dict[str, CounterRate]:
    """These counters are kept in Redis. Those of a server appear once it answers, and then their totals are not an
    increase."""
    name = "otoscope_jobs_total"
    if delta and delta.now.by(name, "server").keys() != delta.before.by(name, "server").keys():
        delta = None
    return _rates(now, delta, name, "outcome")


def _rate(counted: dict[str, CounterRate], names: Iterable[str]) -> float | None:
    rates = [counted[name].per_second for name in names if name in counted]
    known = [rate for rate in rates if rate is not None]
    return sum(known) if len(known) == len(rates) else None


def _sorted(counted: dict[str, CounterRate]) -> dict[str, CounterRate]:
    """Counters above zero, by current rate and then by total, descending."""
    order = sorted(
        ((name, one) for name, one in counted.items() if one.total),
        key=lambda item: (-(item[1].per_second or 0.0), -item[1].total, item[0]),
    )
    return dict(order)


def _latency(deltas: list[ScrapeDelta], name: str, **labels: str) -> LatencySummary:
    """Over the observations of several processes."""
    buckets: Buckets = merge_buckets([delta.buckets(name, **labels) for delta in deltas])
    counts = [(delta.increase(f"{name}_count", **labels), delta.seconds) for delta in deltas]
    rates = [count / seconds for count, seconds in counts if count is not None]
    return LatencySummary(quantile(buckets, 0.5), quantile(buckets, 0.95), sum(rates) if rates else None)


def _mean(deltas: list[ScrapeDelta], name: str) -> float | None:
    """Over the forward passes of all workers."""
    counts = [delta.increase(f"{name}_count") or 0.0 for delta in deltas]
    means = [delta.mean(name) or 0.0 for delta in deltas]
    return statistics.fmean(means, weights=counts) if sum(counts) else None


def _classes(workers: Workers) -> dict[str, CounterRate]:
    """Predicted classes over all workers and models; classes without a prediction are left out."""
    found: dict[str, CounterRate] = {}
    for worker, delta in workers:
        for name, counted in _rates(worker.scrape, delta, "otoscope_worker_predictions_total", "class").items():
            total = found.setdefault(name, CounterRate(0))
            total.total += counted.total
            if counted.per_second is not None:
                total.per_second = (total.per_second or 0.0) + counted.per_second
    return _sorted(found)
