"""Traces, where OTOSCOPE_OTLP_ENDPOINT names a collector; where it does not, every function here does nothing.

`with span("decode"):` is a stretch of work, a child of the stretch that it happens in; `note`, `failed` and `about`
tell something of the present one. OpenTelemetry's SDK (`shared.tracing.otel`) is imported by
`start`, and by nobody else.
"""

import gc
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from shared.config.settings import Settings
from shared.install_hints import install

if TYPE_CHECKING:
    from shared.tracing.otel import Spans

Kind = Literal["internal", "server", "producer", "consumer"]
Noted = Mapping[str, str | int | float | bool]

FLUSH_SECONDS = 2.0
"""Most that the end of a process waits for the collector."""

JOB, MODEL = "otoscope.job.id", "otoscope.model"
OUTCOME, ATTEMPT, WORKER = "otoscope.job.outcome", "otoscope.job.attempt", "otoscope.worker"
BYTES, FORMAT = "otoscope.audio.bytes", "otoscope.audio.format"
CODE = "otoscope.error.code"
BATCH_SIZE, BATCH_JOBS, FRONT_END = "otoscope.batch.size", "otoscope.batch.jobs", "otoscope.batch.front_end"

QUEUED: Noted = {"messaging.system": "redis", "messaging.destination.name": "otoscope"}

_spans: "Spans | None" = None
_NOTHING: AbstractContextManager[None] = nullcontext()


class TracingUnusable(Exception):
    """The settings ask for traces, and there is nothing to make them with."""


@dataclass(eq=False)
class Rider:
    """A job on its way through batches: each batch links to the job, and the job to each batch."""

    job: Any  # OpenTelemetry's context of the job's span
    batches: list[Any] = field(default_factory=list)


def start(settings: Settings, service: str) -> None:
    """Trace this process under that service name, if the settings say so. For its start. Raises TracingUnusable."""
    global _spans
    if not settings.otlp_endpoint:
        return
    try:
        from shared.tracing.otel import Spans
    except ImportError as error:
        raise TracingUnusable(f"OTOSCOPE_OTLP_ENDPOINT needs {install('tracing')} ({error})") from error
    try:
        _spans = Spans(settings.otlp_endpoint, service)
    except (OSError, ValueError) as error:  # an OTEL_ variable
        raise TracingUnusable(f"traces cannot be sent as the OTEL_ variables say: {error}") from error


def stop() -> None:
    """Send what is left, within FLUSH_SECONDS; nothing is traced afterwards."""
    global _spans
    if _spans is not None:
        ending, _spans = _spans, None
        ending.close(FLUSH_SECONDS)


def settled() -> None:
    """This process has loaded what it will keep. Spans that wait bring on full garbage collections, which hold up a
    worker for 0.1 s each; from here on they leave out what is there already."""
    if _spans is not None:
        gc.collect()
        gc.freeze()


def on() -> bool:
    return _spans is not None


def span(
    name: str,
    kind: Kind = "internal",
    *,
    noted: Noted | None = None,
    parent: str | None = None,
    began_ago: float = 0.0,
) -> AbstractContextManager[None]:
    """A stretch of work, from `began_ago` seconds before now to the end of the `with`.

    It belongs to the present stretch, or to `parent`, as `context` told it (by another process, perhaps); to none where
    that is empty. What is raised out of it marks it as failed, by the error's code and not by its words.
    """
    return _NOTHING if _spans is None else _spans.span(name, kind, noted or {}, parent, began_ago)


def past(name: str, began: float, ended: float, rider: Rider | None = None) -> None:
    """A stretch that is over, on time.monotonic's clock; it links to the batches of the rider."""
    if _spans is not None:
        _spans.past(name, began, ended, rider.batches if rider else ())


def batch(riders: Sequence[Rider], noted: Noted) -> AbstractContextManager[None]:
    """A forward pass for those jobs: a trace of its own, made where at least one of the jobs is traced."""
    return _NOTHING if _spans is None or not riders else _spans.batch(riders, noted)


def rider() -> Rider | None:
    """The present job, to be taken along into batches; None where it is not traced."""
    return None if _spans is None else _spans.rider()


def rename(name: str) -> None:
    """The present stretch, once it is known what it is."""
    if _spans is not None:
        _spans.rename(name)


def note(noted: Noted) -> None:
    if _spans is not None:
        _spans.note(noted)


def failed(code: str) -> None:
    """The present stretch ended in that error."""
    if _spans is not None:
        _spans.failed(code)


def about(job_id: str, trace: str) -> None:
    """The present stretch concerns a job that was submitted in that context, which it links to if it is another's."""
    if _spans is not None:
        _spans.about(job_id, trace)


def context() -> str:
    """Where we are, for another process to go on from: W3C's `traceparent`, and after a space its `tracestate`."""
    return "" if _spans is None else _spans.context()


def trace_id() -> str:
    """32 hexadecimal digits; empty outside of any trace."""
    return "" if _spans is None else _spans.trace_id()
