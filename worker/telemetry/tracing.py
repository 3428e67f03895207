"""The spans of jobs and of batches; without a collector nothing is done.

A job has the spans `queue` and `classify`, siblings in the trace of its submission; its stages are children of
`classify`. A batch is a trace of its own, since it serves many jobs: it links to their spans, and the `forward` span of
each job links to it.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from shared import tracing
from shared.jobs.records import ClaimedJob, SkippedJob
from worker.inference.engine import LoadedModel, SpectrogramOnly, Window

_CONSUMER: tracing.Attributes = {
    **tracing.MESSAGING,
    "messaging.operation.type": "process",
    "messaging.operation.name": "classify",
}


def job_span(job_id: str, job: ClaimedJob | SkippedJob, worker_id: str) -> AbstractContextManager[None]:
    """The span of a delivered job. A skipped one has a span only if it fails, as poison."""
    if not tracing.enabled() or (isinstance(job, SkippedJob) and job.reason != "poison"):
        return nullcontext()
    return _job_span(job_id, job, worker_id)


@contextmanager
def _job_span(job_id: str, job: ClaimedJob | SkippedJob, worker_id: str) -> Iterator[None]:
    own: dict[str, str | int] = {tracing.JOB: job_id}
    if isinstance(job, ClaimedJob):
        own[tracing.ATTEMPT] = job.attempt
        with tracing.span("queue", attributes=own, parent=job.trace, began_ago=job.waited):
            pass
        own[tracing.MODEL] = job.model
    attributes = {**_CONSUMER, **own, "messaging.message.id": job_id, tracing.WORKER: worker_id}
    with tracing.span("classify", "consumer", attributes=attributes, parent=job.trace):
        yield


def record_outcome(outcome: str, code: str = "") -> None:
    """How the current job ended in this worker; `code` is that of its error."""
    tracing.set_attributes({tracing.OUTCOME: outcome})
    if code:
        tracing.set_error(code)


def batch_span(model: LoadedModel | SpectrogramOnly, windows: Sequence[Window]) -> AbstractContextManager[None]:
    """The span of a forward pass, linked to the jobs whose windows are in it."""
    links = list(
        {id(window.trace_link): window.trace_link for window in windows if window.trace_link is not None}.values()
    )
    if not links:
        return nullcontext()
    attributes: tracing.Attributes = {
        tracing.MODEL: model.name,
        tracing.BATCH_SIZE: len(windows),
        tracing.FRONT_END: isinstance(model, SpectrogramOnly),
    }
    return tracing.batch_span(links, attributes)
