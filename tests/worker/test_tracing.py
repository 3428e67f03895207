"""The spans of skipped jobs, which a real stack has only after several workers have died."""

import pytest

from shared import tracing
from shared.config.settings import Settings
from shared.jobs.records import SkippedJob
from tests.support.collector import Collector
from worker.telemetry.tracing import job_span, record_outcome

CALLER = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.mark.parametrize("reason", ["poison", "missing", "finished", "quarantined"])
def test_a_skipped_job_has_a_span_only_if_it_fails(reason: str) -> None:
    """Poison has a `classify` span in the trace of its submission, and no `queue` span; other reasons have none."""
    with Collector() as collector:
        tracing.configure(Settings(otlp_endpoint=collector.url), "test")
        with job_span("j1", SkippedJob(reason, CALLER), "w1"):
            record_outcome("failed", reason)
        tracing.shutdown()
    spans = [(span.name, span.trace, span.parent, span.attributes["error.type"]) for span in collector.spans]
    assert spans == ([("classify", "a" * 32, "b" * 16, "poison")] if reason == "poison" else [])
