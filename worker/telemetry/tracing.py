"""The spans of a job and of a batch; nothing is done where nothing is traced.

A job's are `queue` and `classify`, side by side in the trace of its submission; the stages are children of `classify`.
A batch is a trace of its own, since it serves many: it links to its jobs, and the `forward` of each links to it.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from shared import tracing
from shared.jobs.records import Refused, Work
from worker.inference.engine import FrontEnd, Served, Window

_CONSUMING: tracing.Noted = {
    **tracing.QUEUED,
    "messaging.operation.type": "process",
    "messaging.operation.name": "classify",
}


def of_job(job_id: str, work: Work | Refused, worker_id: str) -> AbstractContextManager[None]:
    """Around a started job. One that is not to be run is told only where that fails it."""
    if not tracing.on() or (isinstance(work, Refused) and work.reason != "poison"):
        return nullcontext()
    return _of_job(job_id, work, worker_id)


@contextmanager
def _of_job(job_id: str, work: Work | Refused, worker_id: str) -> Iterator[None]:
    job: dict[str, str | int] = {tracing.JOB: job_id}
    if isinstance(work, Work):
        job[tracing.ATTEMPT] = work.attempt
        with tracing.span("queue", noted=job, parent=work.trace, began_ago=work.waited):
            pass
        job[tracing.MODEL] = work.model
    noted = {**_CONSUMING, **job, "messaging.message.id": job_id, tracing.WORKER: worker_id}
    with tracing.span("classify", "consumer", noted=noted, parent=work.trace):
        yield


def ended(outcome: str, code: str = "") -> None:
    """How the present job ended here."""
    tracing.note({tracing.OUTCOME: outcome})
    if code:
        tracing.failed(code)


def of_batch(served: Served | FrontEnd, windows: Sequence[Window]) -> AbstractContextManager[None]:
    """Around a forward pass."""
    riders = list({id(window.rider): window.rider for window in windows if window.rider is not None}.values())
    if not riders:
        return nullcontext()
    front_end = isinstance(served, FrontEnd)
    model = served.served.name if isinstance(served, FrontEnd) else served.name
    noted: tracing.Noted = {tracing.MODEL: model, tracing.BATCH_SIZE: len(windows), tracing.FRONT_END: front_end}
    return tracing.batch(riders, noted)
