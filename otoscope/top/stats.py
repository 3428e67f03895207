"""What `otoscope top` shows, out of looks: figures over the last seconds, and how they have moved. Draws nothing."""

import statistics
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from otoscope.top.collect import Look, WorkerLook
from otoscope.top.prometheus import Buckets, Change, Scrape, quantile, together

OVER = 10.0  # seconds that rates and quantiles look back on, or one look where those are further apart
LONGEST = 600  # looks that are remembered for the small curves

STAGES = ("queue", "decode", "batch_wait", "forward", "store")
OUTCOMES = ("accepted", "succeeded", "failed", "cancelled", "expired")
UNUSUAL_WAIT = 30.0  # seconds: by then callers who wait for the answer begin to give up

State = Literal["well", "strained", "broken"]


@dataclass
class Counted:
    total: int
    per_second: float | None = None  # None until there are two looks


@dataclass
class Spread:
    """Seconds; None where nothing was observed."""

    p50: float | None
    p95: float | None
    per_second: float | None


@dataclass
class Process:
    cores: float | None = None  # kept busy
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
    forward: Spread | None
    decoder_crashes: float | None
    gpu_memory_bytes: float | None
    gpu_busy_ratio: float | None
    process: Process


@dataclass
class Figures:
    """As `--json` prints it. None is what is not known."""

    url: str
    state: State
    says: str
    over_seconds: float | None
    lost: str
    ready: bool | None
    redis: bool | None
    ready_workers: int | None
    models: list[str]
    version: str | None
    open_jobs: float | None
    waiting_jobs: float | None
    oldest_seconds: float | None
    queue_limit: float | None
    redis_memory_ratio: float | None
    jobs: dict[str, Counted]
    refusals: dict[str, Counted]
    submissions: Spread  # from a request's first byte to the end of its answer, waiting included
    loop_delay: Spread
    event_streams: float | None
    gateway: Process
    stages: dict[str, Spread]
    batch_size: float | None
    workers: list[WorkerFigures]
    classes: dict[str, Counted]
    confidence_p50: float | None


@dataclass
class Curves:
    """One value a look, the newest last; None where it could not be known."""

    accepted: deque[float | None] = field(default_factory=lambda: deque(maxlen=LONGEST))
    succeeded: deque[float | None] = field(default_factory=lambda: deque(maxlen=LONGEST))
    waiting: deque[float | None] = field(default_factory=lambda: deque(maxlen=LONGEST))
    oldest: deque[float | None] = field(default_factory=lambda: deque(maxlen=LONGEST))


class History:
    """Looks as they come; figures of the newest."""

    def __init__(self, url: str) -> None:
        self.curves = Curves()
        self._url = url
        self._seen: dict[str, deque[Scrape]] = defaultdict(deque)

    def add(self, look: Look) -> Figures:
        """The figures with this look as the newest; it goes into the curves, too."""
        change = self._change("", look.scrape)
        latest = Change(self._seen[""][-2], look.scrape) if change and look.scrape else None
        workers = [(worker, self._change(f"{worker.name} {worker.url}", worker.scrape)) for worker in look.workers]
        for gone in self._seen.keys() - {"", *(f"{worker.name} {worker.url}" for worker in look.workers)}:
            del self._seen[gone]
        figures = _figures(self._url, look, change, workers)
        jobs = _jobs(look.scrape, latest)
        self.curves.accepted.append(_rate(jobs, ["accepted"]))
        self.curves.succeeded.append(_rate(jobs, ["succeeded"]))
        self.curves.waiting.append(figures.waiting_jobs)
        self.curves.oldest.append(figures.oldest_seconds)
        return figures

    def _change(self, source: str, scrape: Scrape | None) -> Change | None:
        """From the look of OVER seconds ago to this one; what came back has no past."""
        seen = self._seen[source]
        if scrape is None:
            seen.clear()
            return None
        if seen and _began(seen[-1]) != _began(scrape):  # another process at the same address
            seen.clear()
        seen.append(scrape)
        while len(seen) > 2 and scrape.at - seen[1].at >= OVER:
            seen.popleft()
        return Change(seen[0], scrape) if len(seen) > 1 else None


def _began(scrape: Scrape) -> float | None:
    return scrape.value("process_start_time_seconds")


def _figures(url: str, look: Look, change: Change | None, workers: list[tuple[WorkerLook, Change | None]]) -> Figures:
    now, ready = look.scrape, look.ready
    changes = [found for _, found in workers if found]
    jobs = _jobs(now, change)
    figures = Figures(
        url=url,
        state="well",
        says="",
        over_seconds=change.seconds if change else None,
        lost=look.lost,
        ready=ready.status == "ready" if ready else None,
        redis=ready.redis if ready else None,
        ready_workers=ready.workers if ready else None,
        models=ready.models if ready else [],
        version=_version(now),
        open_jobs=_value(now, "otoscope_jobs_unfinished"),
        waiting_jobs=_value(now, "otoscope_queue_waiting_jobs"),
        oldest_seconds=_value(now, "otoscope_queue_oldest_seconds"),
        queue_limit=_value(now, "otoscope_queue_limit_jobs"),
        redis_memory_ratio=_value(now, "otoscope_redis_memory_ratio"),
        jobs={name: jobs[name] for name in OUTCOMES if name in jobs},
        refusals=_most(_counted(now, change, "otoscope_api_errors_total", "code")),
        submissions=_spread([change] if change else [], "otoscope_api_request_seconds", method="POST"),
        loop_delay=_spread([change] if change else [], "otoscope_api_loop_delay_seconds"),
        event_streams=_value(now, "otoscope_api_event_streams"),
        gateway=_process(now, change),
        stages={stage: _spread(changes, "otoscope_worker_stage_seconds", stage=stage) for stage in STAGES},
        batch_size=_mean(changes, "otoscope_worker_batch_size"),
        workers=[_worker(worker, its) for worker, its in workers],
        classes=_classes(workers),
        confidence_p50=quantile(together([its.buckets("otoscope_worker_confidence_ratio") for its in changes]), 0.5),
    )
    figures.state, figures.says = judge(figures)
    return figures


def judge(figures: Figures) -> tuple[State, str]:
    """Whether it is well, and the first thing that is not."""
    if figures.lost and figures.ready is None:
        return "broken", f"the gateway is lost: {figures.lost}"
    if figures.redis is False:
        return "broken", "Redis does not answer"
    if figures.ready_workers == 0:
        return "broken", "no worker is ready"
    if figures.lost:
        return "strained", f"the gateway is up, but {figures.lost}"
    if _rate(figures.refusals, ["queue_full"]):
        return "strained", "the queue is full: sounds are sent away"
    if failing := _rate(figures.jobs, ["failed", "expired"]):
        return "strained", f"{failing:.2g} jobs a second fail"
    if figures.oldest_seconds and figures.oldest_seconds > UNUSUAL_WAIT:
        return "strained", f"jobs wait {figures.oldest_seconds:.0f} s for a worker"
    if lost := [worker for worker in figures.workers if worker.lost]:
        return "well", f"the metrics of {len(lost)} of {len(figures.workers)} workers cannot be read from here"
    return "well", ""


def _worker(worker: WorkerLook, change: Change | None) -> WorkerFigures:
    now = worker.scrape
    ready = now.by("otoscope_worker_model_ready", "model") if now else {}
    held = _value(now, "otoscope_worker_jobs_in_progress")
    done = change.increase("otoscope_worker_jobs_total") if change else None
    return WorkerFigures(
        name=worker.name,
        metrics=worker.url,
        lost=worker.lost,
        models=sorted(name for name, value in ready.items() if value) or list(worker.models),
        held=worker.held if held is None else held,
        jobs_per_second=done / change.seconds if change and done is not None else None,
        batch_size=change.mean("otoscope_worker_batch_size") if change else None,
        forward=_spread([change], "otoscope_worker_batch_seconds") if change else None,
        decoder_crashes=_value(now, "otoscope_worker_decoder_crashes_total"),
        gpu_memory_bytes=_value(now, "otoscope_worker_gpu_memory_bytes"),
        gpu_busy_ratio=_value(now, "otoscope_worker_gpu_busy_ratio"),
        process=_process(now, change),
    )


def _value(scrape: Scrape | None, name: str) -> float | None:
    return scrape.value(name) if scrape else None


def _version(scrape: Scrape | None) -> str | None:
    return next(iter(scrape.by("otoscope_build_info", "version")), None) if scrape else None


def _process(now: Scrape | None, change: Change | None) -> Process:
    busy = change.increase("process_cpu_seconds_total") if change else None
    return Process(
        cores=busy / change.seconds if change and busy is not None else None,
        memory_bytes=_value(now, "process_resident_memory_bytes"),
    )


def _counted(now: Scrape | None, change: Change | None, name: str, label: str) -> dict[str, Counted]:
    """Totals and rates by a label."""
    if now is None:
        return {}
    grown = change.increases(name, label) if change else {}
    return {
        value: Counted(round(total), grown.get(value, 0.0) / change.seconds if change else None)
        for value, total in now.by(name, label).items()
    }


def _jobs(now: Scrape | None, change: Change | None) -> dict[str, Counted]:
    """These counts are kept in Redis, and a gateway tells them once that answers: then they are no moment's work."""
    name = "otoscope_jobs_total"
    return _counted(now, change if change and name in change.before.samples else None, name, "outcome")


def _rate(counted: dict[str, Counted], names: Iterable[str]) -> float | None:
    rates = [counted[name].per_second for name in names if name in counted]
    known = [rate for rate in rates if rate is not None]
    return sum(known) if len(known) == len(rates) else None


def _most(counted: dict[str, Counted]) -> dict[str, Counted]:
    """What has happened at all: what happens most now first, then what has happened most."""
    order = sorted(
        ((name, one) for name, one in counted.items() if one.total),
        key=lambda item: (-(item[1].per_second or 0.0), -item[1].total, item[0]),
    )
    return dict(order)


def _spread(changes: list[Change], name: str, **labels: str) -> Spread:
    """Of the observations of several processes together."""
    buckets: Buckets = together([change.buckets(name, **labels) for change in changes])
    counts = [(change.increase(f"{name}_count", **labels), change.seconds) for change in changes]
    rates = [count / seconds for count, seconds in counts if count is not None]
    return Spread(quantile(buckets, 0.5), quantile(buckets, 0.95), sum(rates) if rates else None)


def _mean(changes: list[Change], name: str) -> float | None:
    """Over the forward passes of all workers."""
    counts = [change.increase(f"{name}_count") or 0.0 for change in changes]
    means = [change.mean(name) or 0.0 for change in changes]
    return statistics.fmean(means, weights=counts) if sum(counts) else None


def _classes(workers: list[tuple[WorkerLook, Change | None]]) -> dict[str, Counted]:
    """The classes that were named, over all workers and models; those that never were are left out."""
    found: dict[str, Counted] = {}
    for worker, change in workers:
        for name, counted in _counted(worker.scrape, change, "otoscope_worker_predictions_total", "class").items():
            sofar = found.setdefault(name, Counted(0))
            sofar.total += counted.total
            if counted.per_second is not None:
                sofar.per_second = (sofar.per_second or 0.0) + counted.per_second
    return _most(found)
