"""The spans of a worker that a real stack makes only when workers die one after the other."""

import pytest

from shared import tracing
from shared.config.settings import Settings
from shared.jobs.records import Refused
from tests.support.collector import Collector
from worker.telemetry import tracing as traces

CALLER = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.mark.parametrize("reason", ["poison", "gone", "finished", "suspect"])
def test_a_job_that_is_not_run_is_told_where_that_fails_it(reason: str) -> None:
    """Poison ends in the trace of its submission, and has waited for nothing; the others leave nothing."""
    with Collector() as collector:
        tracing.start(Settings(otlp_endpoint=collector.url), "test")
        with traces.of_job("j1", Refused(reason, CALLER), "w1"):
            traces.ended("failed", reason)
        tracing.stop()
    told = [(span.name, span.trace, span.parent, span.attributes["error.type"]) for span in collector.spans]
    assert told == ([("classify", "a" * 32, "b" * 16, "poison")] if reason == "poison" else [])
