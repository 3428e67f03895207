"""What `shared.tracing` does where traces are wanted, with OpenTelemetry's SDK.

Nothing is registered with OpenTelemetry globally: libraries that would trace themselves as soon as somebody does, as
FastAPI would, stay silent. Exceptions are recorded by their stable code alone; their words may repeat what was sent.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import context as contexts
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otoscope.errors import OtoscopeError
from shared.tracing import BATCH_JOBS, CODE, JOB, Kind, Noted, Rider
from shared.tracing.outbox import Outbox

_KINDS = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_PATH = "/v1/traces"
_LONGEST_STATE = 512  # characters of a tracestate that the job's record keeps; W3C asks for no more
_W3C = TraceContextTextMapPropagator()


class Spans:
    """Makes spans and sends them to a collector. Sampler, headers, resource and limits are OTEL_ variables."""

    def __init__(self, endpoint: str, service: str) -> None:
        """Raises ValueError or OSError for an OTEL_ variable that cannot be used."""
        # It would log, of every request, what a caller has made of its `tracestate`.
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
        base = endpoint.rstrip("/").removesuffix(_PATH)
        self._outbox = Outbox(OTLPSpanExporter(endpoint=base + _PATH))
        own = {
            "service.name": service,
            "service.namespace": "otoscope",
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        }
        resource = Resource.create(own).merge(OTELResourceDetector().detect())  # what the operator says counts
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        # A batch is there for its jobs: it is traced where one of them is, whatever share of traces is kept.
        batches = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        for one in (provider, batches):
            one.add_span_processor(self._outbox)
        self._tracer, self._batches = provider.get_tracer("otoscope"), batches.get_tracer("otoscope")

    def close(self, seconds: float) -> None:
        self._outbox.close(seconds)

    @contextmanager
    def span(self, name: str, kind: Kind, noted: Noted, parent: str | None, began_ago: float) -> Iterator[None]:
        began = time.time_ns() - round(began_ago * 1e9)
        context = None if parent is None else _context(parent)
        with _present(self._tracer.start_span(name, context, _KINDS[kind], noted, start_time=began)):
            yield

    def past(self, name: str, began: float, ended: float, batches: Sequence[SpanContext]) -> None:
        since = time.time_ns() - time.monotonic_ns()
        links = [Link(batch) for batch in batches]
        span = self._tracer.start_span(name, links=links, start_time=since + round(began * 1e9))
        span.end(since + round(ended * 1e9))

    @contextmanager
    def batch(self, riders: Sequence[Rider], noted: Noted) -> Iterator[None]:
        links = [Link(rider.job) for rider in riders]
        span = self._batches.start_span(
            "batch", contexts.Context(), attributes={**noted, BATCH_JOBS: len(riders)}, links=links
        )
        for rider in riders:
            rider.batches.append(span.get_span_context())
        with _present(span):
            yield

    def rider(self) -> Rider | None:
        span = get_current_span()
        return Rider(span.get_span_context()) if span.is_recording() else None

    def rename(self, name: str) -> None:
        get_current_span().update_name(name)

    def note(self, noted: Noted) -> None:
        get_current_span().set_attributes(noted)

    def failed(self, code: str) -> None:
        _fail(get_current_span(), code)

    def about(self, job_id: str, trace: str) -> None:
        span = get_current_span()
        span.set_attribute(JOB, job_id)
        if not trace or trace[3:35] == format_trace_id(span.get_span_context().trace_id):
            return
        job = get_current_span(_context(trace)).get_span_context()
        if job.is_valid:
            span.add_link(job)

    def context(self) -> str:
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        state = carrier.get("tracestate", "")
        kept = f" {state}" if state and len(state) <= _LONGEST_STATE else ""
        return carrier.get("traceparent", "") + kept

    def trace_id(self) -> str:
        found = get_current_span().get_span_context()
        return format_trace_id(found.trace_id) if found.is_valid else ""


@contextmanager
def _present(span: Span) -> Iterator[None]:
    """Make it the present span, and end it."""
    token = contexts.attach(set_span_in_context(span))
    try:
        yield
    except OtoscopeError as error:
        _fail(span, error.code)
        raise
    except BaseException as error:
        _fail(span, type(error).__name__)
        raise
    finally:
        contexts.detach(token)
        span.end()


def _fail(span: Span, code: str) -> None:
    span.set_attributes({"error.type": code, CODE: code})
    span.set_status(StatusCode.ERROR)


def _context(told: str) -> contexts.Context:
    """That of a span elsewhere; an empty one for what is none."""
    parent, _, state = told.partition(" ")
    return _W3C.extract({"traceparent": parent, "tracestate": state}, contexts.Context())
