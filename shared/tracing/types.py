"""Names and types that `shared.tracing` and its implementation, `shared.tracing.otel`, have in common.

Attribute names follow OpenTelemetry's semantic conventions where these have one (`messaging.*`, `error.type`); those of
this project begin with `otoscope.`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shared.contract import QUEUE

SpanKind = Literal["internal", "server", "producer", "consumer"]
"""OpenTelemetry's span kinds, but for `client`, which this project does not make."""
Attributes = Mapping[str, str | int | float | bool]
"""Attributes of a span by name."""

JOB, MODEL, STREAM = "otoscope.job.id", "otoscope.model", "otoscope.stream"
OUTCOME, ATTEMPT, WORKER = "otoscope.job.outcome", "otoscope.job.attempt", "otoscope.worker"
BYTES, FORMAT = "otoscope.audio.bytes", "otoscope.audio.format"
CODE = "otoscope.error.code"
BATCH_SIZE, BATCH_JOBS, FRONT_END = "otoscope.batch.size", "otoscope.batch.jobs", "otoscope.batch.front_end"

MESSAGING: Attributes = {"messaging.system": "redis", "messaging.destination.name": QUEUE}
"""What the producer's span and the consumer's span have in common."""


@dataclass(eq=False)
class TraceLink:
    """Links a traced job with the batches that its windows are part of, in both directions."""

    job: Any  # OpenTelemetry's SpanContext of the job's span
    batches: list[Any] = field(default_factory=list)  # SpanContexts, in the order in which the batches ran
