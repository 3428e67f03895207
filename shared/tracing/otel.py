"""`shared.tracing` implemented with OpenTelemetry's SDK; imported where tracing is configured, and only there.

No provider is registered with OpenTelemetry globally: libraries that trace themselves once there is one, as FastAPI's
instrumentation would, stay silent. Exceptions are recorded by their stable code alone, since their messages may repeat
what a caller sent.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    StatusCode,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otoscope.errors import OtoscopeError
from shared.tracing.span_processor import BoundedBatchSpanProcessor
from shared.tracing.types import BATCH_JOBS, CODE, JOB, Attributes, SpanKind, TraceLink

_KINDS: dict[SpanKind, trace.SpanKind] = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "producer": trace.SpanKind.PRODUCER,
    "consumer": trace.SpanKind.CONSUMER,
}
_PATH = "/v1/traces"  # of OTLP over HTTP
_MAX_TRACESTATE = 512  # characters kept in a job's record: W3C Trace Context, 3.3.1.5, asks for at least that many
_W3C = TraceContextTextMapPropagator()


class OtelTracer:
    """Makes spans and sends them to a collector. Sampler, headers, resource and limits are OTEL_ variables."""

    def __init__(self, endpoint: str, service: str) -> None:
        """Raises ValueError or OSError for an OTEL_ variable that is not usable."""
        # At its own level it logs, for every request, a `tracestate` that a caller got wrong.
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
        base = endpoint.rstrip("/").removesuffix(_PATH)
        self._processor = BoundedBatchSpanProcessor(OTLPSpanExporter(endpoint=base + _PATH))
        defaults = {
            "service.name": service,
            "service.namespace": "otoscope",
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        }
        resource = Resource.create(defaults).merge(OTELResourceDetector().detect())  # OTEL_ variables win
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        # A batch is sampled where one of its jobs is, whatever share of traces OTEL_TRACES_SAMPLER keeps: its span is
        # started for sampled jobs only.
        batches = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        for one in (provider, batches):
            one.add_span_processor(self._processor)
        self._tracer, self._batches = provider.get_tracer("otoscope"), batches.get_tracer("otoscope")

    def shutdown(self, seconds: float) -> None:
        self._processor.shutdown(seconds)

    @contextmanager
    def span(
        self, name: str, kind: SpanKind, attributes: Attributes, parent: str | None, began_ago: float
    ) -> Iterator[None]:
        began = time.time_ns() - round(began_ago * 1e9)
        context = None if parent is None else _extract(parent)
        with _current(self._tracer.start_span(name, context, _KINDS[kind], attributes, start_time=began)):
            yield

    def record_span(self, name: str, began: float, ended: float, batches: Sequence[SpanContext]) -> None:
        epoch = time.time_ns() - time.monotonic_ns()
        links = [Link(batch) for batch in batches]
        span = self._tracer.start_span(name, links=links, start_time=epoch + round(began * 1e9))
        span.end(epoch + round(ended * 1e9))

    @contextmanager
    def batch_span(self, links: Sequence[TraceLink], attributes: Attributes) -> Iterator[None]:
        span = self._batches.start_span(
            "batch",
            contexts.Context(),
            attributes={**attributes, BATCH_JOBS: len(links)},
            links=[Link(link.job) for link in links],
        )
        for link in links:
            link.batches.append(span.get_span_context())
        with _current(span):
            yield

    def current_link(self) -> TraceLink | None:
        span = get_current_span()
        return TraceLink(span.get_span_context()) if span.is_recording() else None

    def update_name(self, name: str) -> None:
        get_current_span().update_name(name)

    def set_attributes(self, attributes: Attributes) -> None:
        get_current_span().set_attributes(attributes)

    def set_error(self, code: str) -> None:
        _set_error(get_current_span(), code)

    def link_job(self, job_id: str, trace: str) -> None:
        span = get_current_span()
        span.set_attribute(JOB, job_id)
        if not trace or trace[3:35] == format_trace_id(span.get_span_context().trace_id):
            return
        job = get_current_span(_extract(trace)).get_span_context()
        if job.is_valid:
            span.add_link(job)

    def context(self) -> str:
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        state = carrier.get("tracestate", "")
        kept = f" {state}" if state and len(state) <= _MAX_TRACESTATE else ""
        return carrier.get("traceparent", "") + kept

    def trace_id(self) -> str:
        found = get_current_span().get_span_context()
        return format_trace_id(found.trace_id) if found.is_valid else ""


@contextmanager
def _current(span: Span) -> Iterator[None]:
    """Make it the current span, and end it."""
    token = contexts.attach(set_span_in_context(span))
    try:
        yield
    except OtoscopeError as error:
        _set_error(span, error.code)
        raise
    except BaseException as error:
        _set_error(span, type(error).__name__)
        raise
    finally:
        contexts.detach(token)
        span.end()


def _set_error(span: Span, code: str) -> None:
    span.set_attributes({"error.type": code, CODE: code})
    span.set_status(StatusCode.ERROR)


def _extract(text: str) -> contexts.Context:
    """The remote context that `OtelTracer.context` wrote; an empty one for any other text."""
    parent, _, state = text.partition(" ")
    return _W3C.extract({"traceparent": parent, "tracestate": state}, contexts.Context())
