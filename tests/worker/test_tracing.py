"""The spans of a worker that a real stack makes only when workers die one after the other."""

import pytest

from shared import tracing
from shared.config.settings import Settings
from shared.jobs.records import SkippedJob
from tests.support.collector import Collector
from worker.telemetry.tracing import job_span, record_outcome

CALLER = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.mark.parametrize("reason", ["poison", "missing", "finished", "quarantined"])
def test_a_job_that_is_not_run_is_told_where_that_fails_it(reason: str) -> None:
    """Poison ends in the trace of its submission, and has waited for nothing; the others leave nothing."""
    with Collector() as collector:
        tracing.configure(Settings(otlp_endpoint=collector.url), "test")
        with job_span("j1", SkippedJob(reason, CALLER), "w1"):
            record_outcome("failed", reason)
        tracing.shutdown()
    told = [(span.name, span.trace, span.parent, span.attributes["error.type"]) for span in collector.spans]
    assert told == ([("classify", "a" * 32, "b" * 16, "poison")] if reason == "poison" else [])
