"""The spans of a job and of a batch; nothing is done where nothing is traced.

A job's are `queue` and `classify`, side by side in the trace of its submission; the stages are children of `classify`.
A batch is a trace of its own, since it serves many: it links to its jobs, and the `forward` of each links to it.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from shared import tracing
from shared.jobs.records import Refused, Work
from worker.inference.engine import LoadedModel, SpectrogramOnly, Window

_CONSUMING: tracing.Attributes = {
    **tracing.MESSAGING,
    "messaging.operation.type": "process",
    "messaging.operation.name": "classify",
}


def of_job(job_id: str, work: Work | Refused, worker_id: str) -> AbstractContextManager[None]:
    """Around a started job. One that is not to be run is told only where that fails it."""
    if not tracing.enabled() or (isinstance(work, Refused) and work.reason != "poison"):
        return nullcontext()
    return _of_job(job_id, work, worker_id)


@contextmanager
def _of_job(job_id: str, work: Work | Refused, worker_id: str) -> Iterator[None]:
    job: dict[str, str | int] = {tracing.JOB: job_id}
    if isinstance(work, Work):
        job[tracing.ATTEMPT] = work.attempt
        with tracing.span("queue", attributes=job, parent=work.trace, began_ago=work.waited):
            pass
        job[tracing.MODEL] = work.model
    attributes = {**_CONSUMING, **job, "messaging.message.id": job_id, tracing.WORKER: worker_id}
    with tracing.span("classify", "consumer", attributes=attributes, parent=work.trace):
        yield


def ended(outcome: str, code: str = "") -> None:
    """How the present job ended here."""
    tracing.set_attributes({tracing.OUTCOME: outcome})
    if code:
        tracing.set_error(code)


def of_batch(served: LoadedModel | SpectrogramOnly, windows: Sequence[Window]) -> AbstractContextManager[None]:
    """Around a forward pass."""
    links = list({id(window.trace_link): window.trace_link for window in windows if window.trace_link is not None}.values())
    if not links:
        return nullcontext()
    front_end = isinstance(served, SpectrogramOnly)
    model = served.served.name if isinstance(served, SpectrogramOnly) else served.name
    attributes: tracing.Attributes = {tracing.MODEL: model, tracing.BATCH_SIZE: len(windows), tracing.FRONT_END: front_end}
    return tracing.batch_span(links, attributes)
