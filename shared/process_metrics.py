"""Prometheus metrics that every process has: its CPU time and memory, its start time, and its version."""

from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from otoscope.results import CONTRACT_VERSION


def register(registry: CollectorRegistry) -> None:
    """Add `process_*` (CPU seconds, bytes of memory, file descriptors, start time) and `otoscope_build_info`.

    `process_*` is read from /proc at each scrape and is missing on systems without it.
    """
    ProcessCollector(registry=registry)
    build = Gauge("otoscope_build_info", "1, labelled with the running version", ["version", "contract"],
                  registry=registry)  # fmt: skip
    build.labels(installed_version(), str(CONTRACT_VERSION)).set(1)


def installed_version() -> str:
    """The version of the installed package; `unknown` where the source runs without being installed."""
    try:
        return version("otoscope-service")
    except PackageNotFoundError:
        return "unknown"
