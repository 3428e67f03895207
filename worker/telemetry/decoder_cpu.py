"""The CPU time of child processes as a Prometheus counter."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

_TICKS = os.sysconf("SC_CLK_TCK")  # per second
_USER, _SYSTEM = 11, 12  # positions in /proc/PID/stat after the name: utime and stime, see proc(5)


class ChildCpuCollector(Collector):
    """CPU seconds of running children, from /proc, plus those of ended children, from getrusage(2).

    Without /proc, a running child is not counted until it ends. Values are read at scrape time only.
    """

    def __init__(self, name: str, description: str, pids: Callable[[], list[int]]) -> None:
        """`pids` returns the process ids of the running children."""
        self._name, self._description, self._pids = name, description, pids
        self._total = 0.0

    def describe(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name, self._description)

    def collect(self) -> Iterator[Metric]:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = ended.ru_utime + ended.ru_stime + sum(map(_cpu_seconds, self._pids()))
        # A child that ends between the two readings is in neither, and Prometheus takes a counter that decreases for
        # one that was reset.
        self._total = max(self._total, seconds)
        yield CounterMetricFamily(self._name, self._description, self._total)


def _cpu_seconds(pid: int) -> float:
    """0 if the process has ended, or without /proc."""
    with suppress(OSError):
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[_USER]) + int(after_name[_SYSTEM])) / _TICKS
    return 0.0
