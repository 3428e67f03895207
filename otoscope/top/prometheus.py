"""What a /metrics said, and what happened between two looks at the same one. Pure; `otoscope top` reads with it.

Counters that begin anew with their process are taken for what they are: as much as they say has happened since.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Buckets = dict[float, float]
"""What was observed up to each bound, the last of them infinity."""


@dataclass(frozen=True)
class Scrape:
    """The samples of one answer, by their name and labels."""

    at: float  # seconds on a clock that never goes back
    samples: Mapping[str, Mapping[Labels, float]]

    def matching(self, name: str, **labels: str) -> Iterator[tuple[Labels, float]]:
        """Those that have at least these labels; nan, which stands for "not known", is left out."""
        wanted = labels.items()
        for found, value in self.samples.get(name, {}).items():
            if wanted <= found and not math.isnan(value):
                yield found, value

    def value(self, name: str, **labels: str) -> float | None:
        """Their sum; None where there is none."""
        values = [value for _, value in self.matching(name, **labels)]
        return sum(values) if values else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums by the values of a label."""
        return _by(self.matching(name), label)


def parse(text: str, at: float) -> Scrape:
    """Raises ValueError for what no Prometheus would read."""
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name][frozenset(sample.labels.items())] = float(sample.value)
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"this is no text of metrics: {error}") from error
    return Scrape(at, dict(samples))


@dataclass(frozen=True)
class Change:
    """Two looks at the same process, or at two of the same address."""

    before: Scrape
    now: Scrape

    @property
    def seconds(self) -> float:
        return max(self.now.at - self.before.at, 1e-9)

    def increase(self, name: str, **labels: str) -> float | None:
        """How much counters have grown together; None where there are none."""
        grown = [value for _, value in self._grown(name, **labels)]
        return sum(grown) if grown else None

    def increases(self, name: str, label: str) -> dict[str, float]:
        """The same by the values of a label."""
        return _by(self._grown(name), label)

    def buckets(self, name: str, **labels: str) -> Buckets:
        """What a histogram, or several together, has observed meanwhile."""
        found: Buckets = defaultdict(float)
        fresh = self._fresh(name)
        for its, value in self.now.matching(f"{name}_bucket", **labels):
            rest = frozenset(pair for pair in its if pair[0] != "le")
            old = 0.0 if rest in fresh else self.before.samples.get(f"{name}_bucket", {}).get(its, 0.0)
            found[float(dict(its)["le"])] += value - old
        return dict(sorted(found.items()))

    def mean(self, name: str, **labels: str) -> float | None:
        """Of what a histogram has observed meanwhile; None where that is nothing."""
        count, total = self.increase(f"{name}_count", **labels), self.increase(f"{name}_sum", **labels)
        return total / count if count and total is not None else None

    def _fresh(self, name: str) -> set[Labels]:
        """The histograms that have begun anew: a bucket of theirs may have passed its old count already."""
        before = self.before.samples.get(f"{name}_count", {})
        return {its for its, value in self.now.matching(f"{name}_count") if value < before.get(its, 0.0)}

    def _grown(self, name: str, **labels: str) -> Iterator[tuple[Labels, float]]:
        before = self.before.samples.get(name, {})
        for its, value in self.now.matching(name, **labels):
            old = before.get(its, 0.0)  # a series that was not there has begun since: clients leave out what is 0
            yield its, value if value < old or math.isnan(old) else value - old


def together(all_buckets: list[Buckets]) -> Buckets:
    """Histograms of several processes as one; their bounds are the same."""
    found: Buckets = defaultdict(float)
    for buckets in all_buckets:
        for bound, count in buckets.items():
            found[bound] += count
    return dict(sorted(found.items()))


def quantile(buckets: Buckets, share: float) -> float | None:
    """The value below which that share of the observations lies, as if they lay evenly within each bucket.

    None where nothing was observed; of what lies beyond the last bound all that is known is that bound.
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


def _by(samples: Iterator[tuple[Labels, float]], label: str) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for labels, value in samples:
        found[dict(labels).get(label, "")] += value
    return dict(found)
