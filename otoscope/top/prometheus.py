"""Scrapes of /metrics, and the difference of two scrapes of the same process. Pure functions, used by `otoscope top`.

A counter that was reset by a restart counts from zero, as in PromQL's `increase`.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Buckets = dict[float, float]
"""Upper bound to cumulative count; the last bound is infinity."""


@dataclass(frozen=True)
class Scrape:
    """The samples of one scrape by name and labels."""

    at: float  # seconds of a monotonic clock
    samples: Mapping[str, Mapping[Labels, float]]

    def matching(self, name: str, **labels: str) -> Iterator[tuple[Labels, float]]:
        """The samples with at least these labels; nan, which stands for "not known", is left out."""
        wanted = labels.items()
        for found, value in self.samples.get(name, {}).items():
            if wanted <= found and not math.isnan(value):
                yield found, value

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the matching samples; None if there are none."""
        values = [value for _, value in self.matching(name, **labels)]
        return sum(values) if values else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums by the values of a label."""
        return _sum_by(self.matching(name), label)


def parse_metrics(text: str, at: float) -> Scrape:
    """The text exposition format of Prometheus as a scrape. Raises ValueError."""
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name][frozenset(sample.labels.items())] = float(sample.value)
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"this is not the Prometheus text format: {error}") from error
    return Scrape(at, dict(samples))


@dataclass(frozen=True)
class ScrapeDelta:
    """Two scrapes of the same process, or of two processes at the same address."""

    before: Scrape
    now: Scrape

    @property
    def seconds(self) -> float:
        return max(self.now.at - self.before.at, 1e-9)

    def increase(self, name: str, **labels: str) -> float | None:
        """The total increase of the matching counters; None if there are none."""
        increases = [value for _, value in self._increases(name, **labels)]
        return sum(increases) if increases else None

    def increases(self, name: str, label: str) -> dict[str, float]:
        """Increases by the values of a label."""
        return _sum_by(self._increases(name), label)

    def buckets(self, name: str, **labels: str) -> Buckets:
        """The observations of a histogram between the scrapes, summed over series matching series."""
        found: Buckets = defaultdict(float)
        restarted = self._restarted(name)
        for series, value in self.now.matching(f"{name}_bucket", **labels):
            rest = frozenset(pair for pair in series if pair[0] != "le")
            old = 0.0 if rest in restarted else self.before.samples.get(f"{name}_bucket", {}).get(series, 0.0)
            found[float(dict(series)["le"])] += value - old
        return dict(sorted(found.items()))

    def mean(self, name: str, **labels: str) -> float | None:
        """The mean of a histogram's observations between the scrapes; None if there were none."""
        count, total = self.increase(f"{name}_count", **labels), self.increase(f"{name}_sum", **labels)
        return total / count if count and total is not None else None

    def _restarted(self, name: str) -> set[Labels]:
        """Histograms that were reset: one of their buckets may have passed series old count already."""
        before = self.before.samples.get(f"{name}_count", {})
        return {series for series, value in self.now.matching(f"{name}_count") if value < before.get(series, 0.0)}

    def _increases(self, name: str, **labels: str) -> Iterator[tuple[Labels, float]]:
        before = self.before.samples.get(name, {})
        for series, value in self.now.matching(name, **labels):
            old = before.get(series, 0.0)  # a new series counts from zero: clients omit series that are 0
            yield series, value if value < old or math.isnan(old) else value - old


def merge_buckets(all_buckets: list[Buckets]) -> Buckets:
    """The histograms of several processes as one; their bounds are the same."""
    found: Buckets = defaultdict(float)
    for buckets in all_buckets:
        for bound, count in buckets.items():
            found[bound] += count
    return dict(sorted(found.items()))


def quantile(buckets: Buckets, share: float) -> float | None:
    """The quantile of the observations, interpolated linearly within a bucket as by PromQL's `histogram_quantile`.

    None without observations; in the last bucket, which is unbounded, the last finite bound.
    """
    count = max(buckets.values(), default=0.0)
    if count <= 0:
        return None
    rank, low, below = share * count, 0.0, 0.0
    for bound, reached in buckets.items():
        if reached >= rank and reached > below:
            return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (reached - below)
        if not math.isinf(bound):
            low = bound
        below = max(below, reached)
    return low


def _sum_by(samples: Iterator[tuple[Labels, float]], label: str) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for labels, value in samples:
        found[dict(labels).get(label, "")] += value
    return dict(found)
