"""What every process of ours tells Prometheus of itself: what it costs, how long it has run, which code it is."""

from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from otoscope.results import CONTRACT_VERSION


def tell(registry: CollectorRegistry) -> None:
    """Add `process_*` (CPU seconds, bytes of memory, descriptors, time of the start) and `otoscope_build_info`.

    The former are read from /proc when they are asked for, and are not there on systems that have none.
    """
    ProcessCollector(registry=registry)
    build = Gauge("otoscope_build_info", "1, and which code this is", ["version", "contract"], registry=registry)
    build.labels(installed(), str(CONTRACT_VERSION)).set(1)


def installed() -> str:
    """The version of the installed package; `unknown` where its source runs without having been installed."""
    try:
        return version("otoscope")
    except PackageNotFoundError:
        return "unknown"
