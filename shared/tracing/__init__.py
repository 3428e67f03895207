"""Tracing: the API that gateway and worker call. Without OTOSCOPE_OTLP_ENDPOINT every function here does nothing.

`with span("decode"):` makes a span, a child of the current one; `set_attributes`, `set_error` and `link_job` change the
current one. OpenTelemetry's SDK (`shared.tracing.otel`) is imported by `configure` alone, and only where an endpoint is
set: a process without tracing does not load it.
"""

import gc
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from shared.config.settings import Settings
from shared.install_hints import install_command
from shared.tracing.types import (
    ATTEMPT,
    BATCH_JOBS,
    BATCH_SIZE,
    BYTES,
    CODE,
    FORMAT,
    FRONT_END,
    JOB,
    MESSAGING,
    MODEL,
    OUTCOME,
    STREAM,
    WORKER,
    Attributes,
    SpanKind,
    TraceLink,
)

if TYPE_CHECKING:
    from shared.tracing.otel import OtelTracer

__all__ = [
    "ATTEMPT",
    "BATCH_JOBS",
    "BATCH_SIZE",
    "BYTES",
    "CODE",
    "FORMAT",
    "FRONT_END",
    "JOB",
    "MESSAGING",
    "MODEL",
    "OUTCOME",
    "STREAM",
    "WORKER",
    "Attributes",
    "SpanKind",
    "TraceLink",
    "TracingSetupError",
    "batch_span",
    "configure",
    "context",
    "current_link",
    "enabled",
    "freeze_gc",
    "link_job",
    "record_span",
    "set_attributes",
    "set_error",
    "shutdown",
    "span",
    "trace_id",
    "update_name",
]

FLUSH_SECONDS = 2.0
"""Longest time that the end of a process waits for the collector."""

_tracer: "OtelTracer | None" = None
_NO_SPAN: AbstractContextManager[None] = nullcontext()


class TracingSetupError(Exception):
    """Tracing is configured and cannot be set up: a package is missing, or an OTEL_ variable is not usable."""


def configure(settings: Settings, service: str) -> None:
    """Trace this process under that service name where the settings name a collector. Call once, at start.

    Raises TracingSetupError.
    """
    global _tracer
    if not settings.otlp_endpoint:
        return
    try:
        from shared.tracing.otel import OtelTracer
    except ImportError as error:
        raise TracingSetupError(f"OTOSCOPE_OTLP_ENDPOINT needs {install_command('tracing')} ({error})") from error
    try:
        _tracer = OtelTracer(settings.otlp_endpoint, service)
    except (OSError, ValueError) as error:  # an OTEL_ variable
        raise TracingSetupError(
            f"tracing cannot be set up with the OTEL_ variables of this process: {error}"
        ) from error


def shutdown() -> None:
    """Send the spans that are waiting, within FLUSH_SECONDS; nothing is traced afterwards."""
    global _tracer
    if _tracer is not None:
        closing, _tracer = _tracer, None
        closing.shutdown(FLUSH_SECONDS)


def freeze_gc() -> None:
    """Exclude all objects that exist now from garbage collection (`gc.freeze`). Call once everything is loaded.

    Spans that wait for the collector cause full garbage collections, each of which stops a worker for 0.1 s; afterwards
    these skip the models and libraries that stay loaded anyway.
    """
    if _tracer is not None:
        gc.collect()
        gc.freeze()


def enabled() -> bool:
    """Whether this process is traced."""
    return _tracer is not None


def span(
    name: str,
    kind: SpanKind = "internal",
    *,
    attributes: Attributes | None = None,
    parent: str | None = None,
    began_ago: float = 0.0,
) -> AbstractContextManager[None]:
    """A span from `began_ago` seconds before now to the end of the `with`, and the current one within it.

    Its parent is the current span, or `parent` where that is given: a context in the form that `context` returns,
    perhaps from another process. With an empty or malformed `parent` it begins a trace. An exception that leaves the
    `with` marks it as failed, with the error's code and without its message.
    """
    return _NO_SPAN if _tracer is None else _tracer.span(name, kind, attributes or {}, parent, began_ago)


def record_span(name: str, began: float, ended: float, link: TraceLink | None = None) -> None:
    """Record a span that is over; times are of time.monotonic. It links to the batches of `link`."""
    if _tracer is not None:
        _tracer.record_span(name, began, ended, link.batches if link else ())


def batch_span(links: Sequence[TraceLink], attributes: Attributes) -> AbstractContextManager[None]:
    """A span around a forward pass for those jobs: a trace of its own, made where at least one of them is traced."""
    return _NO_SPAN if _tracer is None or not links else _tracer.batch_span(links, attributes)


def current_link() -> TraceLink | None:
    """A link to the current span's job, for the batches that it will be part of; None where it is not traced."""
    return None if _tracer is None else _tracer.current_link()


def update_name(name: str) -> None:
    """Rename the current span."""
    if _tracer is not None:
        _tracer.update_name(name)


def set_attributes(attributes: Attributes) -> None:
    """Set attributes of the current span."""
    if _tracer is not None:
        _tracer.set_attributes(attributes)


def set_error(code: str) -> None:
    """Mark the current span as failed with that error code."""
    if _tracer is not None:
        _tracer.set_error(code)


def link_job(job_id: str, trace: str) -> None:
    """Set the job id of the current span, and link it to the span of the job's submission where that is another trace.

    `trace` is the context of the submission, as `context` returned it then.
    """
    if _tracer is not None:
        _tracer.link_job(job_id, trace)


def context() -> str:
    """The current context, for another process to continue: W3C's `traceparent`, a space, and its `tracestate`.

    Empty outside of a trace. See https://www.w3.org/TR/trace-context/.
    """
    return "" if _tracer is None else _tracer.context()


def trace_id() -> str:
    """The id of the current trace, 32 hexadecimal digits; empty outside of a trace."""
    return "" if _tracer is None else _tracer.trace_id()
