"""Scrapes and their differences, on the output of prometheus_client."""

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from otoscope.top.prometheus import Scrape, ScrapeDelta, merge_buckets, parse_metrics, quantile

BOUNDS = (0.1, 0.2, 0.4, 0.8)


class Process:
    """The metrics of a process, from zero."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Counter("jobs", "Jobs", ["outcome"], registry=self.registry)
        self.seconds = Histogram("seconds", "Time", ["stage"], buckets=BOUNDS, registry=self.registry)
        self.depth = Gauge("depth", "Depth", registry=self.registry)

    def scrape(self, at: float) -> Scrape:
        return parse_metrics(generate_latest(self.registry).decode(), at)


def test_values_are_read_by_name_and_labels() -> None:
    """Sums over matching series; nan and missing series are unknown."""
    process = Process()
    process.jobs.labels('with "quotes", {braces} and \\').inc(2)
    process.jobs.labels("done").inc(40)
    process.depth.set(math.nan)
    scrape = process.scrape(0)
    assert scrape.value("jobs_total") == 42
    assert scrape.value("jobs_total", outcome="done") == 40
    assert scrape.by("jobs_total", "outcome") == {"done": 40, 'with "quotes", {braces} and \\': 2}
    assert scrape.value("depth") is None
    assert scrape.value("jobs_total", outcome="other") is None
    assert scrape.value("nothing") is None


@pytest.mark.parametrize("text", ["<html><body>no</body></html>", "jobs_total{outcome= 3", "jobs_total three"])
def test_other_text_is_refused(text: str) -> None:
    """Another service at that address is reported as such."""
    with pytest.raises(ValueError, match="not the Prometheus text format"):
        parse_metrics(text, 0)


def test_increases_between_two_scrapes() -> None:
    """By label and in total; a new series counts from zero."""
    process = Process()
    process.jobs.labels("done").inc(5)
    before = process.scrape(10)
    process.jobs.labels("done").inc(3)
    process.jobs.labels("failed").inc()
    change = ScrapeDelta(before, process.scrape(12.5))
    assert change.seconds == 2.5
    assert change.increases("jobs_total", "outcome") == {"done": 3, "failed": 1}
    assert change.increase("jobs_total") == 4
    assert change.increase("nothing_total") is None


def test_a_restarted_process() -> None:
    """Its counters fall: they count from zero, and never negative."""
    old, new = Process(), Process()
    old.jobs.labels("done").inc(100)
    for _ in range(4):
        old.seconds.labels("forward").observe(0.15)
    before = old.scrape(0)
    new.jobs.labels("done").inc(7)
    # The bucket up to 0.8 has as many as before, the first one had none: neither difference is valid.
    for value in (0.05, 0.05, 0.5):
        new.seconds.labels("forward").observe(value)
    change = ScrapeDelta(before, new.scrape(2))
    assert change.increase("jobs_total") == 7
    assert change.buckets("seconds") == {0.1: 2, 0.2: 2, 0.4: 2, 0.8: 3, math.inf: 3}


def test_a_restarted_histogram_with_a_larger_bucket() -> None:
    """One bucket may be larger than before although the process is new; the total count shows the restart."""
    old, new = Process(), Process()
    for value in (0.5, 0.5, 0.5, 0.5, 0.05):
        old.seconds.labels("forward").observe(value)
    for value in (0.05, 0.05, 0.05):
        new.seconds.labels("forward").observe(value)
    change = ScrapeDelta(old.scrape(0), new.scrape(2))
    assert change.buckets("seconds", stage="forward")[0.1] == 3


def test_mean_between_two_scrapes() -> None:
    """Not the mean since the start of the process."""
    process = Process()
    process.seconds.labels("forward").observe(100)
    before = process.scrape(0)
    assert ScrapeDelta(before, process.scrape(1)).mean("seconds") is None
    process.seconds.labels("forward").observe(0.1)
    process.seconds.labels("forward").observe(0.3)
    assert ScrapeDelta(before, process.scrape(1)).mean("seconds") == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("observed", "share", "expected"),
    [
        ([], 0.5, None),
        ([0.15], 0.5, 0.15),  # halfway through its bucket
        ([0.05] * 50 + [0.3] * 50, 0.5, 0.1),
        ([0.05] * 50 + [0.3] * 50, 0.95, 0.38),
        ([0.05, 9.0, 9.0], 0.95, 0.8),  # the last bucket has no upper bound
        ([0.7] * 10, 0.0, 0.4),
    ],
)
def test_quantiles(observed: list[float], share: float, expected: float | None) -> None:
    """Interpolated linearly within a bucket."""
    process = Process()
    before = process.scrape(0)
    for value in observed:
        process.seconds.labels("forward").observe(value)
    found = quantile(ScrapeDelta(before, process.scrape(1)).buckets("seconds"), share)
    assert found == (None if expected is None else pytest.approx(expected))


def test_quantiles_of_several_processes() -> None:
    """A fast and a slow worker make one distribution."""
    buckets = []
    for value in (0.05, 0.7):
        process = Process()
        before = process.scrape(0)
        for _ in range(10):
            process.seconds.labels("forward").observe(value)
        buckets.append(ScrapeDelta(before, process.scrape(1)).buckets("seconds"))
    both = merge_buckets(buckets)
    assert both == {0.1: 10, 0.2: 10, 0.4: 10, 0.8: 20, math.inf: 20}
    assert quantile(both, 0.5) == pytest.approx(0.1)
    assert quantile(merge_buckets([]), 0.5) is None


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_quantiles_are_close_to_exact_ones(share: float) -> None:
    """For a uniform distribution."""
    values = sorted((number * 7919 % 997) / 997 * 0.8 for number in range(997))
    process = Process()
    before = process.scrape(0)
    for value in values:
        process.seconds.labels("forward").observe(value)
    found = quantile(ScrapeDelta(before, process.scrape(1)).buckets("seconds"), share)
    assert found == pytest.approx(values[int(share * len(values))], abs=0.01)
