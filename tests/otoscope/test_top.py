"""Figures and screen of `otoscope top`, from scrapes written by prometheus_client."""

import json
from dataclasses import asdict, replace
from functools import cache

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from rich.console import Console

from otoscope.top.collect import Snapshot, WorkerSnapshot
from otoscope.top.prometheus import Scrape, parse_metrics
from otoscope.top.screen import amount, duration, memory, screen, sparkline
from otoscope.top.stats import INTERVAL, Figures, History
from otoscope.types import Ready

READY = Ready(status="ready", redis=True, workers=2, models=["tiny"])


class Service:
    """Registries with the metric names of gateway and worker."""

    def __init__(self) -> None:
        self.gateway, self.worker = CollectorRegistry(), CollectorRegistry()
        self.jobs = Counter("otoscope_jobs", "-", ["outcome"], registry=self.gateway)
        self.errors = Counter("otoscope_api_errors", "-", ["code"], registry=self.gateway)
        Gauge("otoscope_queue_limit_jobs", "-", registry=self.gateway).set(100)
        self.oldest = Gauge("otoscope_queue_oldest_seconds", "-", registry=self.gateway)
        self.stage = Histogram("otoscope_worker_stage_seconds", "-", ["stage"], registry=self.worker)
        self.batch = Histogram("otoscope_worker_batch_size", "-", registry=self.worker)
        self.outcomes = Counter("otoscope_worker_jobs", "-", ["state"], registry=self.worker)
        self.predictions = Counter("otoscope_worker_predictions", "-", ["model", "class"], registry=self.worker)
        self.confidence = Histogram(
            "otoscope_worker_confidence_ratio", "-", ["model"], buckets=(0.5, 1.0), registry=self.worker
        )
        self.deaths = Counter("otoscope_worker_decoder_crashes", "-", registry=self.worker)

    def snapshot(self, at: float, workers: int = 1) -> Snapshot:
        found = (WorkerSnapshot(f"host-{n}", f"http://host:{n}", self._scrape(self.worker, at)) for n in range(workers))
        return Snapshot(at, self._scrape(self.gateway, at), "", READY, tuple(found))

    @staticmethod
    def _scrape(registry: CollectorRegistry, at: float) -> Scrape:
        return parse_metrics(generate_latest(registry).decode(), at)


def test_rates_cover_the_last_seconds() -> None:
    """Rates cover about ten seconds; the first snapshot has none."""
    service, history = Service(), History("http://here")
    service.jobs.labels("accepted").inc(1_000)
    first = history.add(service.snapshot(0))
    assert (first.jobs["accepted"].total, first.jobs["accepted"].per_second, first.over_seconds) == (1_000, None, None)
    for at in range(1, 31):
        service.jobs.labels("accepted").inc(40 if at <= 15 else 20)
        figures = history.add(service.snapshot(float(at)))
        if at == 5:
            assert figures.jobs["accepted"].per_second == pytest.approx(40)
    assert figures.over_seconds == pytest.approx(INTERVAL)
    assert figures.jobs["accepted"].per_second == pytest.approx(20)
    assert list(history.curves.accepted) == [None, *[40.0] * 15, *[20.0] * 15]


def test_error_codes_at_zero_are_left_out() -> None:
    """The gateway exports every code from zero on; the screen has one line for those that occurred."""
    service = Service()
    for code, count in (("audio_empty", 0), ("queue_full", 3), ("not_audio", 5)):
        service.errors.labels(code).inc(count)
    assert list(History("http://here").add(service.snapshot(0)).refusals) == ["not_audio", "queue_full"]


def test_a_gateway_that_returns_starts_over() -> None:
    """Its counts while it was away are not a current rate; workers are reported meanwhile."""
    service, history = Service(), History("http://here")
    service.jobs.labels("accepted").inc()
    history.add(service.snapshot(0))
    assert history.add(service.snapshot(2)).state == "well"
    away = replace(service.snapshot(4), scrape=None, ready=None, error="does not answer")
    service.outcomes.labels("succeeded").inc(8)
    figures = history.add(replace(away, workers=service.snapshot(4).workers))
    assert (figures.state, figures.says) == ("broken", "the gateway cannot be reached: does not answer")
    assert (figures.jobs, figures.over_seconds) == ({}, None)
    assert figures.workers[0].jobs_per_second == pytest.approx(2)
    service.jobs.labels("accepted").inc(5_000)
    assert history.add(service.snapshot(60)).jobs["accepted"].per_second is None
    service.jobs.labels("accepted").inc(6)
    figures = history.add(service.snapshot(62))
    assert (figures.state, figures.jobs["accepted"].per_second) == ("well", pytest.approx(3))


def test_totals_that_appear_are_not_an_increase() -> None:
    """A gateway exports the totals in Redis once it can reach it, all at once."""
    service, history = Service(), History("http://here")
    history.add(service.snapshot(0))
    service.jobs.labels("accepted").inc(5_000)
    assert history.add(service.snapshot(2)).jobs["accepted"].per_second is None
    assert history.curves.accepted[-1] is None


def test_another_process_at_the_same_address() -> None:
    """Recognised by its start time, even if its counters have passed the old ones."""
    history = History("http://here")
    for at, began, done in ((0.0, 100, 10), (2.0, 200, 500)):
        registry = CollectorRegistry()
        Gauge("process_start_time_seconds", "-", registry=registry).set(began)
        Counter("otoscope_worker_jobs", "-", registry=registry).inc(done)
        scrape = parse_metrics(generate_latest(registry).decode(), at)
        figures = history.add(Snapshot(at, None, "", READY, (WorkerSnapshot("w", "http://w", scrape),)))
    assert figures.workers[0].jobs_per_second is None


def test_what_is_told_of_workers_together_and_apart() -> None:
    """Quantiles over all of them, classes added up, CPU and memory where exported."""
    service, history = Service(), History("http://here")
    ProcessCollector(registry=service.worker)
    history.add(service.snapshot(0, workers=2))
    for seconds in (0.02, 0.02, 0.02, 0.7):
        service.stage.labels("forward").observe(seconds)
        service.outcomes.labels("succeeded").inc()
        service.confidence.labels("tiny").observe(0.9)
    for windows in (1, 3):
        service.batch.observe(windows)
    service.predictions.labels("tiny", "dog").inc(3)
    service.predictions.labels("other", "dog").inc(1)
    service.predictions.labels("tiny", "rain").inc(2)
    service.predictions.labels("tiny", "never heard")
    figures = history.add(service.snapshot(2, workers=2))  # two with the same metrics
    forward = figures.stages["forward"]
    assert forward.p50 is not None
    assert forward.p95 is not None
    assert 0.01 <= forward.p50 <= 0.025
    assert 0.5 <= forward.p95 <= 0.75
    assert forward.per_second == pytest.approx(4)
    assert figures.stages["decode"].p50 is None
    assert (figures.batch_size, figures.workers[0].batch_size) == (2, 2)
    assert {name: counted.total for name, counted in figures.classes.items()} == {"dog": 8, "rain": 4}
    assert figures.classes["dog"].per_second == pytest.approx(4)
    assert figures.confidence_p50 == pytest.approx(0.75)
    assert (figures.workers[1].process.memory_bytes or 0) > 10 * 2**20
    assert figures.workers[1].process.cores is not None
    assert figures.gateway.cores is figures.gateway.memory_bytes is None


def test_several_redis_servers_are_added_up() -> None:
    """Jobs and places in the queue; of waiting time and memory the worst counts. The totals of a server that answers
    again are no increase."""
    registry, history = CollectorRegistry(), History("http://here")
    names = {name: f"otoscope_{name}" for name in ("queue_waiting_jobs", "queue_oldest_seconds", "redis_memory_ratio")}
    gauges = {name: Gauge(full, "-", ["server"], registry=registry) for name, full in names.items()}
    jobs = Counter("otoscope_jobs", "-", ["server", "outcome"], registry=registry)
    figures = []
    for at in range(4):
        for server in range(1 if at < 2 else 2):
            jobs.labels(server, "accepted").inc(10 if server == 0 or at > 2 else 1_000)
            for number, gauge in enumerate(gauges.values(), 1):
                gauge.labels(server).set(number + server)
        scrape = Service._scrape(registry, float(at))
        figures.append(history.add(Snapshot(float(at), scrape, "", READY, ())))
    assert (figures[1].waiting_jobs, figures[1].oldest_seconds, figures[1].redis_memory_ratio) == (1, 2, 3)
    assert (figures[3].waiting_jobs, figures[3].oldest_seconds, figures[3].redis_memory_ratio) == (3, 3, 4)
    assert [each.jobs["accepted"].total for each in figures] == [10, 20, 1_030, 1_050]
    assert list(history.curves.accepted) == [None, 10, None, 20]


@pytest.mark.parametrize(
    ("ready", "state", "says"),
    [
        ({}, "well", ""),
        ({"workers": 0, "status": "not_ready"}, "broken", "no worker is ready"),
        (
            {"writable": False, "workers": 0, "status": "not_ready"},
            "broken",
            "Redis cannot write: its disk is full, or its file cannot be written",
        ),
        ({"redis": False, "workers": 0, "status": "not_ready"}, "broken", "Redis does not answer"),
        ({"servers_down": [1, 3]}, "strained", "Redis server 1, 3 does not answer or cannot write"),
    ],
)
def test_state_by_readiness(ready: dict[str, object], state: str, says: str) -> None:
    """The most severe problem comes first."""
    snapshot = replace(Service().snapshot(0), ready=READY.model_copy(update=ready))
    figures = History("http://here").add(snapshot)
    assert (figures.state, figures.says) == (state, says)


@pytest.mark.parametrize(
    ("outcome", "code", "oldest", "says"),
    [
        ("failed", None, 0, "0.5 jobs a second fail"),
        ("expired", None, 0, "0.5 jobs a second fail"),
        ("cancelled", None, 0, ""),
        (None, "queue_full", 0, "the queue is full: submissions are refused"),
        (None, "not_audio", 0, ""),
        (None, None, 95, "jobs wait 95 s for a worker"),
    ],
)
def test_state_by_events(outcome: str | None, code: str | None, oldest: float, says: str) -> None:
    """Failures of the service degrade its state, errors of callers do not; the state recovers."""
    service, history = Service(), History("http://here")
    for name in ("failed", "expired", "cancelled"):
        service.jobs.labels(name).inc(7)
    history.add(service.snapshot(0))
    if outcome:
        service.jobs.labels(outcome).inc()
    if code:
        service.errors.labels(code).inc()
    service.oldest.set(oldest)
    figures = history.add(service.snapshot(2))
    assert (figures.state, figures.says) == ("strained" if says else "well", says)
    service.oldest.set(0)
    for at in (12, 14, 24):
        figures = history.add(service.snapshot(at))
    assert figures.state == "well"


@cache
def busy(workers: int) -> tuple[Figures, History]:
    service, history = Service(), History("http://gateway.example.org:8000")
    for at in range(12):
        service.jobs.labels("accepted").inc(1_234_567)
        service.errors.labels("queue_full").inc(9)
        service.errors.labels("a_code_that_is_long").inc(0.1)
        service.predictions.labels("tiny", "a class [red]with a name[/red] that goes on and on and on").inc()
        service.stage.labels("forward").observe(at / 10)
        service.deaths.inc()
        snapshot = service.snapshot(at * 2.0, workers)
        figures = history.add(snapshot)
    return figures, history


def rendered(figures: Figures, history: History, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(screen(figures, history.curves, width, height, "q quits"))
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 50), (120, 30), (200, 60)])
@pytest.mark.parametrize("workers", [0, 1, 4, 5, 30])
def test_the_screen_fits(width: int, height: int, workers: int) -> None:
    """No line is longer than the screen or wrapped, and none is below it; workers that do not fit are counted."""
    lines = rendered(*busy(workers), width, height)
    assert max(map(len, lines)) <= width
    assert len(lines) <= height
    assert lines[-1].rstrip() == "q quits"
    listed = [line for line in lines if line.startswith("host-")]
    more = [line.split()[1] for line in lines if line.startswith("and ")]
    assert len(listed) + sum(map(int, more)) == workers
    assert len(listed) == workers or len(lines) == height
    text = "\n".join(lines)
    assert "[red]with" in text or width == 80 or not workers, "names are text, not markup"
    assert "queue_full 4.5 (108)" in text
    if workers:
        assert "12 deco" in text


def test_a_worker_with_a_gpu_has_another_column() -> None:
    """Its memory, and its utilisation if that is exported."""
    registry, history = CollectorRegistry(), History("http://here")
    Gauge("otoscope_worker_gpu_memory_bytes", "-", registry=registry).set(3 * 2**30)
    Gauge("otoscope_worker_gpu_busy_ratio", "-", registry=registry).set(0.87)
    scrape = parse_metrics(generate_latest(registry).decode(), 0.0)
    workers = (
        WorkerSnapshot("with", "http://with", scrape),
        WorkerSnapshot("without", "http://without", error="does not answer"),
    )
    lines = rendered(history.add(Snapshot(0.0, None, "", READY, workers)), history, 80, 24)
    (one,) = (line for line in lines if line.startswith("with "))
    assert "3.0 GiB, 87%" in one
    (other,) = (line for line in lines if line.startswith("without "))
    assert "GiB" not in other


def test_an_unreachable_gateway() -> None:
    """Unknown values are dashes."""
    history = History("http://here")
    figures = history.add(Snapshot(0.0, None, "no answer within 2 s"))
    lines = rendered(figures, history, 80, 24)
    assert lines[0].startswith("● broken  the gateway cannot be reached: no answer within 2 s")
    assert "workers ready: –" in lines[1]
    json.dumps(asdict(figures), allow_nan=False)


def test_formats() -> None:
    """About three digits, with units."""
    assert [amount(value) for value in (None, 0, 0.044, 1.26, 12, 99.96, 1234.5)] == [
        "–", "0", "0.044", "1.3", "12", "100.0", "1,234",
    ]  # fmt: skip
    assert [duration(value) for value in (None, 0.0, 0.00123, 0.0467, 1.26, 130)] == [
        "–", "0 ms", "1.2 ms", "47 ms", "1.3 s", "130 s",
    ]  # fmt: skip
    assert [memory(value) for value in (None, 95 * 2**20, 3 * 2**30)] == ["–", "95 MiB", "3.0 GiB"]
    assert sparkline([None, 0, 4, 8], 6) == "   ▁▅█"
    assert sparkline([0, 0], 2) == "▁▁"
    assert sparkline([1, 2, 3], 0) == ""
