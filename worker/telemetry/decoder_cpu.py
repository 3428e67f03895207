"""The CPU time of child processes as a counter."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

_TICKS = os.sysconf("SC_CLK_TCK")  # a second
_USER, _SYSTEM = 11, 12  # of what follows the name in /proc/PID/stat


class ChildCpuCollector(Collector):
    """Seconds of those that live, from /proc, and of those that have ended, from the kernel's sum over them.

    Without /proc those that live are left out until they end. Read only when it is asked for.
    """

    def __init__(self, name: str, told: str, pids: Callable[[], list[int]]) -> None:
        self._name, self._told, self._pids = name, told, pids
        self._seen = 0.0

    def describe(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name, self._told)

    def collect(self) -> Iterator[Metric]:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = ended.ru_utime + ended.ru_stime + sum(map(_cpu_seconds, self._pids()))
        # One that ends between the two readings is in neither. A counter that goes back is taken for one begun anew.
        self._seen = max(self._seen, seconds)
        yield CounterMetricFamily(self._name, self._told, self._seen)


def _cpu_seconds(pid: int) -> float:
    """Of a process; 0 where there is none any more, or no /proc."""
    with suppress(OSError):
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[_USER]) + int(after_name[_SYSTEM])) / _TICKS
    return 0.0
